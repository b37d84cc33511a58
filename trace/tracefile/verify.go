package tracefile

import (
	"context"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// Verify checks every frame of the trace at path, as trace.VerifyNative and
// lct.Verify do.
func Verify(ctx context.Context, path string) (*trace.Verification, error) {
	isNative, err := sniff(path)
	if err != nil {
		return nil, err
	}
	if isNative {
		return trace.VerifyNative(ctx, path)
	}
	return lct.Verify(ctx, path)
}
