package replay

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// oracle is LMCache's rule on a sorted list, in its words: rank
// ceil((p*n)/100), at least 1.
func oracle(sorted []int64, p float64) int64 {
	r := int(math.Ceil(p * float64(len(sorted)) / 100))
	return sorted[max(r, 1)-1]
}

func TestDistribution(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 9, 10, 99, 100, 101, 1000, exactValues, exactValues + 1, 50_000} {
		var d distribution
		var sum int64
		values := make([]int64, n)
		for i := range values {
			values[i] = int64(math.Exp(rng.Float64() * 22)) // up to 3.6 s, evenly over the magnitudes
			sum += values[i]
			d.add(values[i])
		}
		slices.Sort(values)
		if got, want := d.mean(), float64(sum)/float64(n); got != want {
			t.Errorf("n=%d: mean %g; want %g", n, got, want)
		}
		if d.count != int64(n) || d.min != values[0] || d.max != values[n-1] {
			t.Errorf("n=%d: count %d, min %d, max %d; want %d, %d, %d", n, d.count, d.min, d.max, n, values[0], values[n-1])
		}
		ps := []int{0, 1, 50, 90, 99, 100}
		for i, got := range d.percentiles(ps...) {
			want := oracle(values, float64(ps[i]))
			if n <= exactValues && got != want {
				t.Errorf("n=%d: p%d = %d; want %d", n, ps[i], got, want)
			}
			if got < want || float64(got) > float64(want)*1.001 {
				t.Errorf("n=%d: p%d = %d; want %d to 0.1 %% more", n, ps[i], got, want)
			}
		}
	}
}

// Ranks as release 0.5.7rc2 gives them.
func TestRank(t *testing.T) {
	for _, tt := range []struct {
		p       int
		n, want int64
	}{
		{50, 100, 50}, {90, 100, 90}, {99, 100, 99}, {50, 2, 1}, {90, 2, 2}, {99, 2, 2}, {0, 5, 1}, {-3, 5, 1}, {100, 5, 5}, {200, 5, 5},
		{99, 101, 100}, {50, 3, 2}, {99, math.MaxInt64, 9131138316486228049},
	} {
		if got := rank(tt.p, tt.n); got != tt.want {
			t.Errorf("rank(%d, %d) = %d; want %d", tt.p, tt.n, got, tt.want)
		}
	}
}

func TestDistributionEmptyAndHuge(t *testing.T) {
	var d distribution
	if got := d.summary(); got != (Latency{}) {
		t.Errorf("summary without values = %+v; want zeros", got)
	}
	for range exactValues + 1 {
		d.add(math.MaxInt64)
	}
	d.add(-5)
	if d.min != 0 || d.max != math.MaxInt64 {
		t.Errorf("min %d, max %d; want 0 and %d", d.min, d.max, int64(math.MaxInt64))
	}
	if got := d.percentiles(100)[0]; got < maxHistogramNS {
		t.Errorf("p100 = %d; want at least %d", got, maxHistogramNS)
	}
}
