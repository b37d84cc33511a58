package lct

import (
	"errors"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
)

// TestFault checks that a file that goes away while it is read is an error of
// the reader, not of a record, and ends the reading.
func TestFault(t *testing.T) {
	saved := guard
	defer func() { guard = saved }()
	gone := errors.New("gone")
	const path = "../../testdata/lct-v1/tiny.lct"

	r, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Next()
	guard = func(func()) error { return gone }
	if err := r.Args(new(trace.Args)); err != gone {
		t.Errorf("Args: got %v; want %v", err, gone)
	}
	if r.Next() || r.Err() != gone {
		t.Errorf("Next: got a record, or %v; want %v", r.Err(), gone)
	}
	guard = saved
	if r.Next() || r.Err() != gone {
		t.Errorf("Next after an error: got a record, or %v; want %v", r.Err(), gone)
	}

	guard = func(func()) error { return gone }
	if r, err := Open(path, nil); r != nil || err != gone {
		t.Errorf("Open: got %v, %v; want nil, %v", r, err, gone)
	}
	guard = saved
	if r, err = Open(path, nil); err != nil {
		t.Fatal(err)
	}
	guard = func(func()) error { return gone }
	if s, err := r.Summarize(); s != nil || err != gone {
		t.Errorf("Summarize: got %v, %v; want nil, %v", s, err, gone)
	}
}

// TestPython checks how values of level_meta and paths are shown.
func TestPython(t *testing.T) {
	for v, want := range map[float64]string{300: "300.0", 0.5: "0.5", 1e-5: "1e-05", 1e16: "1e+16", 1e15: "1000000000000000.0", -2.5: "-2.5"} {
		if got := pyFloat(v); got != want {
			t.Errorf("pyFloat(%v): got %s; want %s", v, got, want)
		}
	}
	for v, want := range map[string]string{
		"a.lct": "'a.lct'", "it's": `"it's"`, `it's "q"`: `'it\'s "q"'`, "a\\b\n": `'a\\b\n'`, "é\u200b\x7f": `'é\u200b\x7f'`, "\xff": `'\udcff'`,
	} {
		if got := pyRepr(v); got != want {
			t.Errorf("pyRepr(%q): got %s; want %s", v, got, want)
		}
	}
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
