package lct

import "math"

// secondsToNS converts seconds as Python writes them to whole nanoseconds. The
// part before the point is converted on its own, so that Unix times, whose
// float64 is spaced by 238 ns, come out as near as their digits are. It gives 0
// for NaN and infinities, and the nearest int64 for what does not fit.
func secondsToNS(s float64) int64 {
	if math.IsNaN(s) || math.IsInf(s, 0) {
		return 0
	}
	whole, frac := math.Modf(s)
	if math.Abs(whole) >= math.MaxInt64/1e9-1 {
		if s < 0 {
			return math.MinInt64
		}
		return math.MaxInt64
	}
	return int64(whole)*1e9 + int64(math.Round(frac*1e9))
}

// wallSeconds is the inverse of secondsToNS: for a Unix time of this century it
// gives back the very float64.
func wallSeconds(ns int64) float64 {
	return float64(ns/1e9) + float64(ns%1e9)/1e9
}

// monoSeconds gives the t_mono that upstream would have written for a call
// monoNS after a start at startNS. Upstream subtracts two clock readings that
// are already float64, so the difference carries their rounding: it is computed
// here in the same way, and gives back the very float64 of a recorded file.
func monoSeconds(monoNS, startNS int64) float64 {
	return max(0, float64(startNS+monoNS)/1e9-float64(startNS)/1e9)
}
