package tracefile

import (
	"io"
	"os"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// Repair makes a sound trace file at out of what is whole in the one at path, in
// the same format. Nothing at path is changed; a file at out is replaced.
func Repair(path, out string) (*trace.Repair, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 12288)
	n, err := io.ReadFull(f, head)
	f.Close()
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	if trace.ResemblesNative(head[:n]) {
		return trace.RepairNative(path, out)
	}
	return lct.Repair(path, out)
}
