package tracefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/trace"
)

const vectors = "../../testdata/lct-v1"

// TestFormats checks which reader gets a file.
func TestFormats(t *testing.T) {
	golden := filepath.Join(t.TempDir(), "native.lct")
	recorder, err := trace.Create(golden, trace.Options{RingDir: t.TempDir(), Overflow: trace.OverflowBlock})
	if err != nil {
		t.Fatal(err)
	}
	recorder.Call(trace.OpFinishWrite, new(trace.Args))
	if err := recorder.Close(); err != nil {
		t.Fatal(err)
	}
	native, err := Open(golden, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !native.Header().Native || !native.Next() {
		t.Errorf("%s: not read as a native file with records", golden)
	}
	if err := native.Close(); err != nil {
		t.Error(err)
	}
	if s, err := Summarize(golden, nil); err != nil || !s.Header.Native || s.Records == 0 {
		t.Errorf("Summarize(%s): got %+v, %v; want a native file with records", golden, s, err)
	}

	src, err := Open(filepath.Join(vectors, "tiny.lct"), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for src.Next() {
		n++
	}
	if n != 12 || src.Err() != nil || src.Header().Native {
		t.Errorf("tiny.lct: got %d records, error %v, native %t; want 12, nil, false", n, src.Err(), src.Header().Native)
	}
	if err := errors.Join(src.Close(), src.Close()); err != nil {
		t.Error(err)
	}
	if s, err := Summarize(filepath.Join(vectors, "tiny.lct"), nil); err != nil || s.Records != 12 {
		t.Errorf("Summarize(tiny.lct): got %+v, %v; want 12 records", s, err)
	}
}

// TestErrors checks that a failed Open gives no source, not even a typed nil.
func TestErrors(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short.lct")
	if err := os.WriteFile(short, []byte("LMC"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(vectors, "empty.lct"): "unexpected EOF reading frame length",
		short:                               "trace file " + pyfmt.Repr(short) + ": truncated header: file has 3 bytes",
		"absent.lct":                        "open absent.lct: no such file or directory",
	} {
		src, err := Open(path, nil)
		if src != nil || err == nil || err.Error() != want {
			t.Errorf("Open(%s): got %v, %v; want nil, %s", path, src, err, want)
		}
		if _, err := Summarize(path, nil); err == nil || err.Error() != want {
			t.Errorf("Summarize(%s): got %v; want %s", path, err, want)
		}
	}
}
