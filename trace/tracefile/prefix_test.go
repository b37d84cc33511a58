package tracefile_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// A prefix is taken again and again while calls are being recorded. Each must be
// a trace without damage, whose records go from the first on.
func TestPrefixOfARecording(t *testing.T) {
	era, ok := lct.EraOf(lct.NewestRelease)
	if !ok {
		t.Fatal("no era of the newest release")
	}
	for _, c := range []struct {
		name    string
		newFile func(string, *trace.Header) (trace.FrameWriter, error)
	}{{"native", nil}, {"lmcache", lct.Recording(era, slog.New(slog.DiscardHandler))}} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run.lct")
			rec, err := trace.Create(path, trace.Options{RingDir: t.TempDir(), BlockBytes: 8 << 10, NewFile: c.newFile, Overflow: trace.OverflowBlock})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			const calls = 20_000
			go func() {
				defer close(done)
				key := []kv.ObjectKey{{HashLen: 32, Rank: kv.PackRank(1, 0, 1, 0)}}
				for i := range calls {
					key[0].Hash[0], key[0].Hash[1] = byte(i), byte(i>>8)
					rec.Call(trace.OpFinishWrite, &trace.Args{Keys: key})
				}
			}()
			last := int64(0)
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				last = checkPrefix(t, path, last)
			}
			if err := rec.Close(); err != nil {
				t.Fatal(err)
			}
			if n := checkPrefix(t, path, last); n != calls {
				t.Errorf("after Close: %d records; want %d", n, calls)
			}
		})
	}
}

// checkPrefix returns the records of a prefix of path, at least atLeast.
func checkPrefix(t *testing.T, path string, atLeast int64) int64 {
	t.Helper()
	p, err := tracefile.OpenPrefix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	snapshot := filepath.Join(t.TempDir(), "snapshot.lct")
	f, err := os.Create(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(f, io.NewSectionReader(p, 0, p.Size()))
	if err != nil || n != p.Size() || f.Close() != nil {
		t.Fatalf("copied %d bytes of %d: %v", n, p.Size(), err)
	}
	s, err := tracefile.Summarize(snapshot, func(text string) { t.Errorf("snapshot of %d bytes: %s", n, text) })
	if err != nil {
		t.Fatal(err)
	}
	if s.Damage != nil || s.Records < atLeast {
		t.Fatalf("snapshot of %d bytes: %d records, damage %v; want at least %d without damage", n, s.Records, s.Damage, atLeast)
	}
	return s.Records
}

func TestPrefixReadAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.lct")
	rec, err := trace.Create(path, trace.Options{RingDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	rec.Call(trace.OpFinishWrite, &trace.Args{})
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tracefile.OpenPrefix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Size() != int64(len(want)) {
		t.Fatalf("size %d; want %d", p.Size(), len(want))
	}
	for _, at := range [][2]int{{0, 10}, {12280, 20}, {12288, 8}, {len(want) - 3, 3}, {len(want) - 3, 9}, {len(want), 1}} {
		b := make([]byte, at[1])
		n, err := p.ReadAt(b, int64(at[0]))
		full := at[0]+at[1] <= len(want)
		if rest := want[at[0]:min(at[0]+at[1], len(want))]; string(b[:n]) != string(rest) || (err == nil) != full {
			t.Errorf("ReadAt %v: %d bytes, %v; want %d, an error: %v", at, n, err, len(rest), !full)
		}
	}
}
