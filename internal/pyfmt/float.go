package pyfmt

import (
	"math"
	"strconv"
)

// Float returns f as [AppendFloat] writes it.
func Float(f float64) string { return string(AppendFloat(nil, f)) }

// AppendFloat appends f as Python's json module writes it: the shortest digits
// that read back as f, always with a point or an exponent, the exponent form
// only below 1e-4 and from 1e16 on and with at least two exponent digits.
// What is not finite is NaN, Infinity or -Infinity.
//
// Source: reference lct-v1.md, section 4.
func AppendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "NaN"...)
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	}
	// Below 1e16 every float64 that is not smaller has its decimal point
	// inside or right behind its digits, so the magnitude alone decides.
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	n := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	for _, c := range b[n:] {
		if c == '.' {
			return b
		}
	}
	return append(b, ".0"...)
}
