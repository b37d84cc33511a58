package serving

import (
	"bytes"
	"errors"
	"testing"
)

func TestParseShape(t *testing.T) {
	got, err := ParseShape(" (2,1024,16,8,128):float16:32 ; (1, 1024,16,1,576):uint8:4")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if g := got[0]; g.String() != "(2,1024,16,8,128):float16:32" || g.Hidden() != 1024 || g.ChunkBytes(256) != 32<<20 {
		t.Errorf("%s: hidden %d, a chunk of 256 has %d bytes", g, g.Hidden(), g.ChunkBytes(256))
	}
	for _, bad := range []string{
		"", "(2,64,16,2,64)", "(2,64,16,2,64):float16", "(2,64,16,2,64):float16:0", "(3,64,16,2,64):float16:4",
		"(2,64,16,2):float16:4", "(2,64,16,2,64):int64:4", "2,64,16,2,64:float16:4", "(2,64,16,2,64)float16:4",
		"(2,64,16,2,64):float16:4;", "(2,64,16,2,64):float16:4;(2,32,16,2,64):float16:4",
		"(2,16777216,16777216,2,64):float16:4", "(2,64,-16,2,64):float16:4",
	} {
		if got, err := ParseShape(bad); !errors.Is(err, ErrShape) {
			t.Errorf("%q: %v, %v; want ErrShape", bad, got, err)
		}
	}
}

func FuzzParseShape(f *testing.F) {
	f.Add("(2,64,16,2,64):float16:4")
	f.Add("(1,1024,16,1,128):float16:4;(2,1024,16,8,128):float16:28")
	f.Fuzz(func(t *testing.T, spec string) {
		groups, err := ParseShape(spec)
		for _, g := range groups {
			again, againErr := ParseShape(g.String())
			if err != nil || againErr != nil || again[0] != g {
				t.Errorf("%q gives %s, %v; that gives %v, %v", spec, g, err, again, againErr)
			}
		}
	})
}

// A chunk's object is [KV, layers, tokens, hidden] of its blocks, and what was
// gathered from one memory is in the other after it was scattered.
func TestPaged(t *testing.T) {
	groups, err := ParseShape("(2,4,2,1,3):uint8:2")
	if err != nil {
		t.Fatal(err)
	}
	shape := groups[0]
	const chunk = 4 // two blocks
	from, to := newPaged(shape, chunk), newPaged(shape, chunk)
	for layer, tensor := range from.layers {
		for i := range tensor {
			tensor[i] = byte(100*layer + i) // K: 0 to 23, V: 24 to 47
		}
	}
	object := make([]byte, shape.ChunkBytes(chunk))
	from.gather(1, object)
	var want []byte
	for _, start := range []byte{12, 112, 36, 136} { // K of both layers, V of both
		for i := range byte(12) {
			want = append(want, start+i)
		}
	}
	if !bytes.Equal(object, want) {
		t.Fatalf("object %d; want %d", object, want)
	}
	to.scatter(1, object)
	if got, want := to.appendSums(nil, 2), from.appendSums(nil, 2); bytes.Equal(got[:16], want[:16]) || !bytes.Equal(got[16:], want[16:]) {
		t.Errorf("sums %x; want the second of %x", got, want)
	}
	to.zero(2)
	if !bytes.Equal(to.layers[0], make([]byte, len(to.layers[0]))) {
		t.Error("not zero")
	}
	from.fill(2, 7, 0)
	to.fill(2, 7, 1)
	if a, b := from.appendSums(nil, 2), to.appendSums(nil, 2); bytes.Equal(a[:16], b[:16]) || bytes.Equal(a[:16], a[16:]) {
		t.Error("ranks or chunks have equal content")
	}
}
