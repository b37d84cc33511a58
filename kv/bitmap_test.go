package kv_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// TestBitmap compares with a slice of bools, at lengths around the word size.
func TestBitmap(t *testing.T) {
	for _, n := range []int{0, 1, 7, 63, 64, 65, 127, 128, 129, 1000} {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		b, naive := kv.NewBitmap(n), make([]bool, n)
		compareBitmap(t, b, naive)
		for range 300 {
			i := rng.IntN(n+130) - 65 // also out of range, on both sides
			set := rng.IntN(3) > 0
			if set {
				b.Set(i)
			} else {
				b.Clear(i)
			}
			if i >= 0 && i < n {
				naive[i] = set
			}
			compareBitmap(t, b, naive)
		}
		for i := range n {
			b.Set(i)
			naive[i] = true
			compareBitmap(t, b, naive)
		}
		for i := n - 1; i >= 0; i -= 3 {
			b.Clear(i)
			naive[i] = false
			compareBitmap(t, b, naive)
		}
	}
}

func compareBitmap(t *testing.T, b kv.Bitmap, naive []bool) {
	t.Helper()
	text, count, leading := make([]byte, len(naive)), 0, -1
	for i, set := range naive {
		text[i] = '0'
		if set {
			text[i] = '1'
			count++
		} else if leading < 0 {
			leading = i
		}
		if b.Test(i) != set {
			t.Fatalf("bit %d of %d is %v; want %v", i, len(naive), b.Test(i), set)
		}
	}
	if leading < 0 {
		leading = len(naive)
	}
	if b.Len() != len(naive) || b.Count() != count || b.LeadingOnes() != leading || b.String() != string(text) {
		t.Fatalf("length %d, count %d, leading ones %d, %s; want %d, %d, %d, %s",
			b.Len(), b.Count(), b.LeadingOnes(), b, len(naive), count, leading, text)
	}
}

func TestBitmapOutOfRange(t *testing.T) {
	b := kv.NewBitmap(70)
	for _, i := range []int{-1, 70, 127, 128, math.MaxInt, math.MinInt} {
		b.Set(i)
		if b.Test(i) || b.Count() != 0 {
			t.Errorf("bit %d of 70 was set", i)
		}
		b.Clear(i)
	}
	var zero kv.Bitmap
	zero.Set(0)
	if zero.Len() != 0 || zero.Test(0) || zero.LeadingOnes() != 0 || zero.String() != "" {
		t.Error("the zero bitmap is not empty")
	}
}
