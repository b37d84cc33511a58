package sm

import (
	"math/rand/v2"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// TestPrefixAgainstDefinition compares the fold with the rule's own words: the
// largest L such that every row can serve L chunks.
func TestPrefixAgainstDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		g := grid{rows: 1 + rng.IntN(3), cols: rng.IntN(9)}
		for range g.rows {
			w := int32(kv.FullAttention)
			if rng.IntN(2) == 0 {
				w = int32(1 + rng.IntN(4))
			}
			g.windows = append(g.windows, w)
		}
		found := kv.NewBitmap(g.cells())
		for c := range g.cells() {
			if rng.IntN(5) > 0 {
				found.Set(c)
			}
		}
		first := func(row, length int) int { // of the chunks that a row needs
			if w := int(g.windows[row]); w != kv.FullAttention {
				return length - min(w, length)
			}
			return 0
		}
		length := g.cols
		for ; length > 0; length-- {
			serves := true
			for row := range g.rows {
				for col := first(row, length); col < length; col++ {
					serves = serves && found.Test(row*g.cols+col)
				}
			}
			if serves {
				break
			}
		}
		want := kv.NewBitmap(g.cells())
		for row := range g.rows {
			for col := first(row, length); col < length; col++ {
				want.Set(row*g.cols + col)
			}
		}
		if got := g.needed(found); got.String() != want.String() {
			t.Fatalf("windows %v, found %v: needed %v; want %v", g.windows, found, got, want)
		}
	}
}

func TestPoliciesOnGaps(t *testing.T) {
	found := kv.NewBitmap(10) // two rows of five: 11010 and 11110
	for _, c := range []int{0, 1, 3, 5, 6, 7, 8} {
		found.Set(c)
	}
	for _, c := range []struct {
		policy       kv.FetchPolicy
		window       int32
		needed, hits string
	}{
		{kv.FetchPrefix, -1, "1100011000", "1100011000"},
		{kv.FetchFull, -1, "1101011110", "1101011010"},
		{kv.FetchFull, 2, "0000000000", "1101011010"},
		{kv.FetchSegmentedPrefix, -1, "1101011110", "1101011110"},
	} {
		g := grid{rows: 2, cols: 5, windows: []int32{-1, c.window}, policy: c.policy}
		if got := g.needed(found).String(); got != c.needed {
			t.Errorf("%v, window %d: needed %s; want %s", c.policy, c.window, got, c.needed)
		}
		if got := g.hits(found).String(); got != c.hits {
			t.Errorf("%v, window %d: hits %s; want %s", c.policy, c.window, got, c.hits)
		}
	}
}
