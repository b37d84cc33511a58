package trace

import (
	"bytes"
	"math"
	"testing"
)

// FuzzExtension parses any extension part. Property: what was parsed is written as
// a part that parses to the same.
func FuzzExtension(f *testing.F) {
	for _, x := range []Extra{
		{},
		{MonoS: 0.1, HasMono: true},
		{MonoS: math.NaN(), HasMono: true, WallS: math.Inf(1), HasWall: true, Frame: []byte("\x85")},
		{Frame: bytes.Repeat([]byte{1}, 200)},
	} {
		c := cursor{b: x.append(nil)}
		f.Add(c.str())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var x, y Extra
		if x.parse(data) != nil {
			return
		}
		c := cursor{b: x.append(nil)}
		part := c.str()
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
		if err := y.parse(part); err != nil {
			t.Fatal(err)
		}
		bits := math.Float64bits
		if x.HasMono != y.HasMono || x.HasWall != y.HasWall || bits(x.MonoS) != bits(y.MonoS) || bits(x.WallS) != bits(y.WallS) || !bytes.Equal(x.Frame, y.Frame) {
			t.Fatalf("parsed %+v, then %+v", x, y)
		}
	})
}
