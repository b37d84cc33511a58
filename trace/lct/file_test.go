package lct

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// TestFault checks that a file that goes away while it is read is an error of
// the reader, not of a record, and ends the reading.
func TestFault(t *testing.T) {
	whole, err := os.ReadFile("../../testdata/lct-v1/tiny.lct")
	if err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func(*Reader) error{
		"Args":      func(r *Reader) error { return r.Args(new(trace.Args)) },
		"Next":      func(r *Reader) error { r.Next(); return r.Err() },
		"Summarize": func(r *Reader) error { _, err := r.Summarize(); return err },
	} {
		path := filepath.Join(t.TempDir(), "shrinks.lct")
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Next()
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		var fault *mmapio.FaultError
		if err := use(r); !errors.As(err, &fault) {
			t.Errorf("%s: got %v; want a *FaultError", name, err)
		}
		if r.Next() || r.Err() == nil {
			t.Errorf("%s: Next goes on after a fault, or Err is nil", name)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPython checks how values of level_meta and paths are shown.
func TestPython(t *testing.T) {
	if got := pyReprBytes([]byte("a'\x00\xff")); got != `b"a'\x00\xff"` {
		t.Errorf("pyReprBytes: got %s", got)
	}
	meta, err := levelMeta(pack(dict{"z", array{1, nil, true, "s", []byte("b"), dict{"k", raw("\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00")}}, "a", "text", "n", -3, "a", "again"}))
	want := []trace.LevelMeta{{Key: "a", Value: "again"}, {Key: "n", Value: "-3"}, {Key: "z", Value: "[1, None, True, 's', b'b', {'k': 0.5}]"}}
	if err != nil || len(meta) != len(want) {
		t.Fatalf("levelMeta: got %v, %v; want %v", meta, err, want)
	}
	for i := range want {
		if meta[i] != want[i] {
			t.Errorf("levelMeta: got %v; want %v", meta[i], want[i])
		}
	}
}
