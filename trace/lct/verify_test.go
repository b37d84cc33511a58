package lct

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
)

func verifyBytes(t testing.TB, data []byte) *trace.Verification {
	t.Helper()
	r, err := NewReader(slices.Clone(data), "v.lct", nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.verify(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVerify damages a file of every way and compares parts and counts.
func TestVerify(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "lct-v1", "tiny.lct"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(data, "tiny.lct", nil)
	if err != nil {
		t.Fatal(err)
	}
	var at []int // offsets of the frames, and the end
	for off := r.next; off < len(data); off += prefixSize + frameSize(data[off:]) {
		at = append(at, off)
	}
	at = append(at, len(data))

	type want struct {
		records, lost, unreadable int64
		parts                     []int // bounds: whole, damaged, whole, …
	}
	for _, c := range []struct {
		name string
		do   func(b []byte) []byte
		want want
	}{
		{"sound", func(b []byte) []byte { return b }, want{12, 0, 0, []int{at[0], at[12]}}},
		{"a body", func(b []byte) []byte { b[at[3]+prefixSize] = 0xc1; return b }, want{11, 1, 0, []int{at[0], at[3], at[4], at[12]}}},
		{"a length too long for the file", func(b []byte) []byte { b[at[3]] = 0x7f; return b }, want{11, 1, 0, []int{at[0], at[3], at[4], at[12]}}},
		{"a length too short", func(b []byte) []byte { binary.BigEndian.PutUint32(b[at[3]:], 20); return b }, want{11, 1, 0, []int{at[0], at[3], at[4], at[12]}}},
		{"a length that reaches into the next", func(b []byte) []byte { b[at[3]+3]++; return b }, want{11, 1, 0, []int{at[0], at[3], at[4], at[12]}}},
		{"two frames side by side", func(b []byte) []byte { b[at[3]+4], b[at[4]+4] = 0xc1, 0xc1; return b }, want{10, 1, 0, []int{at[0], at[3], at[5], at[12]}}},
		{"the last body", func(b []byte) []byte { b[at[11]+prefixSize] = 0xc1; return b }, want{11, 1, 0, []int{at[0], at[11], at[12]}}},
		{"cut in a length", func(b []byte) []byte { return b[:at[11]+2] }, want{11, 1, 0, []int{at[0], at[11], at[11] + 2}}},
		{"cut in a body", func(b []byte) []byte { return b[:at[12]-1] }, want{11, 1, 0, []int{at[0], at[11], at[12] - 1}}},
		{"an argument", func(b []byte) []byte {
			i := at[1] + bytes.Index(b[at[1]:at[2]], []byte("chunk_hash"))
			b[i] = 'C' // a key without its hash
			return b
		}, want{11, 1, 1, []int{at[0], at[12]}}},
	} {
		v := verifyBytes(t, c.do(slices.Clone(data)))
		var parts []int
		for i, p := range v.Parts {
			if i == 0 {
				parts = append(parts, int(p.Offset))
			}
			if (p.Damage != nil) != (i%2 == 1) {
				t.Errorf("%s: part %d: %+v", c.name, i, p)
			}
			parts = append(parts, int(p.End))
		}
		if v.Records != c.want.records || v.Lost != c.want.lost || v.Unreadable != c.want.unreadable || !slices.Equal(parts, c.want.parts) {
			t.Errorf("%s: got %v, %d unreadable, parts %v, problems %v; want %+v", c.name, v, v.Unreadable, parts, v.Problems, c.want)
		}
		if v.OK() != (c.name == "sound") {
			t.Errorf("%s: OK is %t", c.name, v.OK())
		}
	}
}

// FuzzVerify: no panic, no hang, and parts that follow each other.
func FuzzVerify(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "lct-v1", "tiny.lct"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 0)
	f.Add(data, len(data)/2)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		if at >= 0 && at < len(data) {
			data = slices.Clone(data)
			data[at] ^= 0x55
		}
		r, err := NewReader(data, "v.lct", nil)
		if err != nil {
			return
		}
		offset := int64(r.next)
		v, err := r.verify(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range v.Parts {
			if p.Offset != offset || p.End <= p.Offset {
				t.Fatalf("parts %+v", v.Parts)
			}
			offset = p.End
		}
		if offset != int64(len(data)) || v.OK() != (v.Lost == 0) {
			t.Fatalf("%v: parts end at %d of %d", v, offset, len(data))
		}
	})
}
