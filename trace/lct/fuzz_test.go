package lct_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// FuzzReader reads any bytes to the end. Properties: it ends, without a panic;
// no list is longer than the file can hold; records tile the file in order; and
// what was decoded, written as 0.5.6 writes it and read again, is the same,
// unless that release cannot hold it.
func FuzzReader(f *testing.F) {
	for _, dir := range []string{vectors, "../../testdata/lct-v1-server"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.lct"))
		if err != nil || len(files) == 0 {
			f.Fatalf("no vectors in %s: %v", dir, err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := lct.NewReader(data, "fuzz.lct", nil)
		if err != nil {
			return
		}
		h := r.Header()
		frames, err := lct.AppendHeader(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		header := len(frames)
		var a, b trace.Args
		last := int64(0)
		for r.Next() {
			rec := r.Record()
			if rec.Offset <= last || rec.Offset >= int64(len(data)) {
				t.Fatalf("record at offset %d behind one at %d, of %d bytes", rec.Offset, last, len(data))
			}
			last = rec.Offset
			if r.Args(&a) != nil || rec.Op == trace.OpUnknown {
				continue
			}
			keys := len(a.Keys)
			if a.Spec != nil {
				keys += a.Spec.Chunks() * len(a.Spec.Groups)
			}
			if keys*54 > len(data) {
				t.Fatalf("%d keys from %d bytes", keys, len(data))
			}
			one, loss, err := lct.AppendRecord(frames[:header], lct.E6, h, &rec, &a)
			if err != nil || loss != 0 || a.Spec != nil && (a.Spec.Flat || a.Spec.Readers < 1) {
				continue // E6 has no mark for a flat list, and refuses no readers
			}
			again, err := lct.NewReader(one, "again.lct", func(w string) { t.Errorf("reading again: %s", w) })
			if err != nil || !again.Next() {
				t.Fatalf("reading again: no record, %v", err)
			}
			if err := again.Args(&b); err != nil {
				t.Fatalf("reading again: %v", err)
			}
			a.Raw, b.Raw = nil, nil
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("read %+v, then %+v", a, b)
			}
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		r, _ = lct.NewReader(data, "fuzz.lct", nil)
		s, err := r.Summarize()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := s.WriteText(&out, "fuzz.lct"); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCuts reads a file cut off at every length: all whole records come, and
// one warning if the cut is not between two frames.
func TestCuts(t *testing.T) {
	data := file(t, "real-0.5.6.lct")
	r, err := lct.NewReader(data, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var starts []int
	for r.Next() {
		starts = append(starts, int(r.Record().Offset))
	}
	for n := starts[0]; n <= len(data); n++ {
		warnings := 0
		r, err := lct.NewReader(data[:n], "", func(string) { warnings++ })
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for r.Next() {
			got++
		}
		want, cut := 0, 1
		for i, s := range append(starts[1:len(starts):len(starts)], len(data)) {
			if s <= n {
				want = i + 1
			}
			if s == n {
				cut = 0
			}
		}
		if n == starts[0] {
			cut = 0
		}
		if got != want || warnings != cut || r.Err() != nil {
			t.Errorf("%d bytes: got %d records, %d warnings, %v; want %d, %d", n, got, warnings, r.Err(), want, cut)
		}
	}
}

// TestFlippedBits flips every bit of a small file: reading always ends, and
// the records in front of the damage come as before.
func TestFlippedBits(t *testing.T) {
	data := file(t, "malformed.lct")
	read := func(data []byte) (offsets []int64) {
		r, err := lct.NewReader(data, "", nil)
		if err != nil {
			return nil
		}
		var a trace.Args
		for r.Next() {
			offsets = append(offsets, r.Record().Offset)
			r.Args(&a) // may fail, must not panic
		}
		return offsets
	}
	whole := read(data)
	for i := int(whole[0]); i < len(data); i++ {
		for bit := range 8 {
			data[i] ^= 1 << bit
			got := read(data)
			data[i] ^= 1 << bit
			intact := 0
			for intact+1 < len(whole) && whole[intact+1] <= int64(i) {
				intact++
			}
			if len(got) < intact || !slices.Equal(got[:intact], whole[:intact]) {
				t.Errorf("bit %d of byte %d: got records at %v; want those of %v before it", bit, i, got, whole[:intact])
			}
		}
	}
	for i := range whole[0] { // the header
		for bit := range 8 {
			data[i] ^= 1 << bit
			read(data)
			data[i] ^= 1 << bit
		}
	}
}
