package trace_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// TestFileTakenAway deletes, replaces or cuts the file while it is recorded, in
// both formats: calls go on, the log says it once, and every call is in the file
// or counted as lost, also in the header where the file still has it.
func TestFileTakenAway(t *testing.T) {
	for _, format := range []string{"native", "lmcache"} {
		for _, c := range []struct {
			name string
			do   func(path string) error
			err  error // nil for a *mmapio.FaultError
		}{
			{"deleted", os.Remove, trace.ErrDeleted},
			{"replaced", func(path string) error {
				if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
					return err
				}
				return os.Rename(path+".new", path)
			}, trace.ErrDeleted},
			{"emptied", func(path string) error { return os.Truncate(path, 0) }, nil},
			{"cut", func(path string) error { return os.Truncate(path, 100_000) }, nil},
		} {
			t.Run(format+" "+c.name, func(t *testing.T) {
				var text strings.Builder
				opt := trace.Options{RingDir: t.TempDir(), Overflow: trace.OverflowBlock, Log: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelWarn}))}
				if format == "lmcache" {
					opt.NewFile, opt.NoOutcomes = lct.Recording(lct.E6, nil), true
				}
				path := filepath.Join(t.TempDir(), "r.lct")
				r, err := trace.Create(path, opt)
				if err != nil {
					t.Fatal(err)
				}
				const before, after = 3000, 200_000 // the latter go beyond the pages that are there
				for range before {
					r.Call(trace.OpFinishWrite, new(trace.Args))
				}
				for r.Stats().Recorded < before {
					runtime.Gosched()
				}
				for i := range after { // a cut while the file grows is not seen, the next is
					if i == 0 || c.err == nil && i%(after/10) == 0 && r.Stats().Dropped == 0 {
						if err := c.do(path); err != nil {
							t.Fatal(err)
						}
					}
					r.Call(trace.OpFinishWrite, new(trace.Args))
				}
				err = r.Close()
				var fault *mmapio.FaultError
				if c.err != nil && !errors.Is(err, c.err) || c.err == nil && !errors.As(err, &fault) {
					t.Errorf("Close: %v", err)
				}
				stats := r.Stats()
				left := int64(0)
				v, err := tracefile.Verify(t.Context(), path)
				if err == nil {
					left = v.Records
				}
				if c.name == "cut" != (left > 0) {
					t.Errorf("%d records in the file, %v", left, err)
				}
				if want := (trace.Stats{Recorded: uint64(left), Dropped: before + after - uint64(left)}); stats != want {
					t.Errorf("stats %+v; want %+v", stats, want)
				}
				if format == "native" && left > 0 && left < before+after && (v.Lost != before+after-left || v.OK()) {
					t.Errorf("verify says %v; want %d lost", v, before+after-left)
				}
				if warnings := strings.Count(text.String(), "\n"); warnings != 2 || !strings.Contains(text.String(), fmt.Sprintf("closed; %d record(s) dropped", stats.Dropped)) {
					t.Errorf("%d lines in the log:\n%s", warnings, &text)
				}
			})
		}
	}
}
