package replay

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// exactValues is how many values a distribution keeps as they are. Up to
	// there its percentiles are exact.
	exactValues = 10_000
	// maxHistogramNS is the largest value that the histogram tells apart from
	// larger ones: an hour.
	maxHistogramNS = int64(3600e9)
	// histogramDigits gives a resolution of 1 in 1000 and takes 300 KiB.
	histogramDigits = 3
)

// distribution collects durations in ns. Count, sum, minimum and maximum are
// exact. Percentiles are exact up to 10,000 values; beyond, every value counts
// as up to 0.1 % larger than it is, and no memory is used for further ones.
type distribution struct {
	count    int64
	sum      uint64 // exact for 584 years of calls
	min, max int64
	exact    []int64                 // the values, until there are too many
	hist     *hdrhistogram.Histogram // from then on; nil before
}

// add counts one duration; a negative one counts as 0.
func (d *distribution) add(ns int64) {
	ns = max(ns, 0)
	if d.count == 0 {
		d.min, d.max = ns, ns
	}
	d.count++
	d.sum += uint64(ns)
	d.min, d.max = min(d.min, ns), max(d.max, ns)
	if d.hist != nil {
		d.record(ns)
		return
	}
	if len(d.exact) < exactValues {
		if d.exact == nil {
			d.exact = make([]int64, 0, exactValues) // at once: the hot path then allocates only here
		}
		d.exact = append(d.exact, ns)
		return
	}
	d.hist = hdrhistogram.New(1, maxHistogramNS, histogramDigits)
	for _, v := range d.exact {
		d.record(v)
	}
	d.exact = nil
	d.record(ns)
}

func (d *distribution) record(ns int64) {
	if err := d.hist.RecordValue(min(ns, maxHistogramNS)); err != nil {
		panic(fmt.Sprintf("replay: %v", err)) // the value is within the bounds that the histogram was made for
	}
}

// mean returns the average in ns, 0 without values.
func (d *distribution) mean() float64 {
	if d.count == 0 {
		return 0
	}
	return float64(d.sum) / float64(d.count)
}

// percentiles returns the values of the percentages ps, which must be
// ascending, in ns: for each the value of rank ceil(p·count/100), at least 1,
// in the sorted list; 0 without values.
//
// Source: reference lct-v1.md, section 5.5, rule of release 0.5.7rc2.
func (d *distribution) percentiles(ps ...int) []int64 {
	out := make([]int64, len(ps))
	if d.count == 0 {
		return out
	}
	if d.hist == nil {
		sorted := slices.Sorted(slices.Values(d.exact))
		for i, p := range ps {
			out[i] = sorted[rank(p, d.count)-1]
		}
		return out
	}
	i, seen := 0, int64(0)
	for _, bar := range d.hist.Distribution() {
		seen += bar.Count
		for i < len(ps) && seen >= rank(ps[i], d.count) {
			out[i] = min(max(bar.To, d.min), d.max)
			i++
		}
	}
	return out
}

// rank returns ceil(p·n/100) within 1..n.
func rank(p int, n int64) int64 {
	hi, lo := bits.Mul64(uint64(min(max(p, 0), 100)), uint64(n))
	lo, carry := bits.Add64(lo, 99, 0)
	q, _ := bits.Div64(hi+carry, lo, 100)
	return max(int64(q), 1)
}

// Latency summarises a distribution of durations, in milliseconds. All but
// Count are 0 when Count is. The mean is the exact sum divided by the count;
// the percentile p is the value of rank ceil(p·Count/100) in the sorted list,
// exact up to 10,000 values, at most 0.1 % above it beyond; minimum and maximum
// are exact always.
type Latency struct {
	Count  int64   `json:"count"`
	MeanMS float64 `json:"mean_ms"`
	P50MS  float64 `json:"p50_ms"`
	P90MS  float64 `json:"p90_ms"`
	P99MS  float64 `json:"p99_ms"`
	MinMS  float64 `json:"min_ms"`
	MaxMS  float64 `json:"max_ms"`
}

func (d *distribution) summary() Latency {
	p := d.percentiles(50, 90, 99)
	return Latency{
		Count: d.count, MeanMS: d.mean() / 1e6,
		P50MS: milliseconds(p[0]), P90MS: milliseconds(p[1]), P99MS: milliseconds(p[2]),
		MinMS: milliseconds(d.min), MaxMS: milliseconds(d.max),
	}
}

func milliseconds(ns int64) float64 { return float64(ns) / 1e6 }
