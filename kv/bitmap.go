package kv

import (
	"math/bits"
	"slices"
	"strings"
)

// Bitmap is a fixed number of bits, index 0 first.
type Bitmap struct {
	words []uint64
	n     int
}

// NewBitmap returns n bits, all clear.
func NewBitmap(n int) Bitmap { return Bitmap{make([]uint64, (n+63)/64), n} }

// BitmapOf returns a bitmap over words, which it keeps: n bits in (n+63)/64 words,
// those behind the last clear.
func BitmapOf(words []uint64, n int) Bitmap { return Bitmap{words, n} }

// Words returns the bitmap's memory: bit i is bit i%64 of word i/64. It must not
// be changed.
func (b Bitmap) Words() []uint64 { return b.words }

// Len returns the number of bits.
func (b Bitmap) Len() int { return b.n }

// Set sets bit i; an i out of range is ignored, as LMCache does.
func (b Bitmap) Set(i int) {
	if uint(i) < uint(b.n) {
		b.words[i/64] |= 1 << (i % 64)
	}
}

// Clear clears bit i; an i out of range is ignored.
func (b Bitmap) Clear(i int) {
	if uint(i) < uint(b.n) {
		b.words[i/64] &^= 1 << (i % 64)
	}
}

// Test reports bit i; false out of range.
func (b Bitmap) Test(i int) bool {
	return uint(i) < uint(b.n) && b.words[i/64]>>(i%64)&1 != 0
}

// Count returns how many bits are set.
func (b Bitmap) Count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// LeadingOnes returns how many bits are set before the first clear one.
func (b Bitmap) LeadingOnes() int {
	for i, w := range b.words {
		if w != ^uint64(0) {
			return min(i*64+bits.TrailingZeros64(^w), b.n)
		}
	}
	return b.n
}

// String gives one character a bit, index 0 leftmost.
func (b Bitmap) String() string {
	var s strings.Builder
	for i := range b.n {
		if b.Test(i) {
			s.WriteByte('1')
		} else {
			s.WriteByte('0')
		}
	}
	return s.String()
}

// Clone returns a copy that shares nothing with b.
func (b Bitmap) Clone() Bitmap { return Bitmap{slices.Clone(b.words), b.n} }
