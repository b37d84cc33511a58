package lct_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// TestWriterCutOff reads the file beside its writer, after every record: all of
// them are there, and the one warning of a file that was cut off, as upstream's
// reader gives it. So it is after a crash.
func TestWriterCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lct")
	h := &trace.Header{Level: trace.LevelStorage, ConfigJSON: "{}"}
	w, err := lct.Create(path, h, lct.E6)
	if err != nil {
		t.Fatal(err)
	}
	write := func(i, keys int) {
		rec := trace.Record{Op: trace.OpFinishWrite, Qualname: trace.OpFinishWrite.String(), MonoNS: int64(i)}
		a := trace.Args{Keys: make([]kv.ObjectKey, keys)}
		if err := w.Write(&rec, &a); err != nil {
			t.Fatal(err)
		}
	}
	count := func(want int, sealed bool) {
		t.Helper()
		var warnings []string
		r, err := lct.Open(path, func(w string) { warnings = append(warnings, w) })
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		n := 0
		for r.Next() {
			n++
		}
		if n != want || r.Err() != nil || sealed != (len(warnings) == 0) || len(warnings) > 1 ||
			!sealed && !strings.Contains(warnings[0], "truncated frame body") {
			t.Errorf("got %d records, %v, warnings %q; want %d", n, r.Err(), warnings, want)
		}
	}
	count(0, false)
	for i := range 40 {
		write(i, i%7)
		count(i+1, false)
	}
	write(40, 60_000) // longer than a step by which the file grows
	count(41, false)
	for i := range 3 {
		write(41+i, 1)
	}
	count(44, false)
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	count(44, true)
	if err := w.Write(&trace.Record{Op: trace.OpFinishWrite, Qualname: "x"}, &trace.Args{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: got %v", err)
	}
}

// TestRecording records calls in the format of every era: the file is the one
// that writing the same records gives, and the log names what was lost.
func TestRecording(t *testing.T) {
	for era := lct.E1; era <= lct.S2; era++ {
		path := filepath.Join(t.TempDir(), "x.lct")
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		sim := clock.NewVirtual(1_760_000_000_000_000_000)
		rec, err := trace.Create(path, trace.Options{
			NewFile: lct.Recording(era, logger), Clock: sim, RingDir: t.TempDir(), Overflow: trace.OverflowBlock, ConfigJSON: "{}", Log: logger,
		})
		if err != nil {
			t.Fatal(err)
		}
		h := &trace.Header{Level: trace.LevelStorage, WallStartNS: sim.Wall(), MonoStartNS: sim.Now(), ConfigJSON: "{}"}
		want, err := lct.AppendHeaderOf(nil, era, h)
		if err != nil {
			t.Fatal(err)
		}
		a := trace.Args{
			Keys: []kv.ObjectKey{key(t, 1, 1, 0, "tenant"), key(t, 2, 1, 0, "")}, Layout: layoutOf(t, 2, 16), Text: "req", Count: 1,
			Spec: &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: []kv.ObjectKey{key(t, 1, 1, 0, "")}, Layout: layoutOf(t, 2, 16), Window: kv.FullAttention}}},
		}
		for _, row := range trace.Schema() {
			if row.Ours { // told of below
				rec.Call(row.Op, &a)
				continue
			}
			rec.Call(row.Op, &a)
			var own trace.Args // what the operation has of it
			for _, arg := range row.Args {
				switch arg.Type {
				case trace.ArgKeys:
					own.Keys = a.Keys
				case trace.ArgLayout:
					own.Layout = a.Layout
				case trace.ArgSpec:
					own.Spec = a.Spec
				case trace.ArgText:
					own.Text = a.Text
				case trace.ArgCount:
					own.Count = a.Count
				}
			}
			if want, _, err = lct.AppendRecord(want, era, h, &trace.Record{Op: row.Op, Qualname: row.Qualname, WallNS: sim.Wall()}, &own); err != nil {
				t.Fatal(err)
			}
		}
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); !bytes.Equal(got, want) {
			t.Errorf("era %d: got %d bytes; want %d others", era, len(got), len(want))
		}
		if !strings.Contains(log.String(), "5 record(s) lose their cache salt") || !strings.Contains(log.String(), "3 call(s) are left out") || strings.Contains(log.String(), "exact times") {
			t.Errorf("era %d: log:\n%s", era, log.String())
		}
	}
}

// TestRecordingFails checks that a file that cannot be made is said at once.
func TestRecordingFails(t *testing.T) {
	dir := t.TempDir()
	ring := t.TempDir()
	_, err := trace.Create(filepath.Join(dir, "absent", "x.lct"), trace.Options{NewFile: lct.Recording(lct.E6, nil), RingDir: ring})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v; want that the folder does not exist", err)
	}
	if left, err := os.ReadDir(ring); err != nil || len(left) > 0 {
		t.Errorf("ring folder: got %v, %v; want it empty", left, err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
