package tracefile

import (
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// Repair makes a sound trace file at out of what is whole in the one at path, in
// the same format. Nothing at path is changed; a file at out is replaced.
func Repair(path, out string) (*trace.Repair, error) {
	isNative, err := sniff(path)
	if err != nil {
		return nil, err
	}
	if isNative {
		return trace.RepairNative(path, out)
	}
	return lct.Repair(path, out)
}
