// Package pyfmt writes values as CPython prints them, for the texts that must
// agree with LMCache to the byte: the configuration JSON and its digest, the
// replay summaries, messages with a quoted name.
package pyfmt

import (
	"math"
	"strconv"
)

// Float returns repr(f): the shortest digits that read back as f, always with
// a sign of being a float. See AppendFloat.
func Float(f float64) string { return string(AppendFloat(nil, f)) }

// AppendFloat appends repr(f): ".0" behind an integral value, exponent form
// below 1e-4 and from 1e16 on, with at least two digits of exponent; nan, inf
// and -inf.
//
// Source: reference lct-v1.md, section 4.
func AppendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "nan"...)
	case math.IsInf(f, 1):
		return append(dst, "inf"...)
	case math.IsInf(f, -1):
		return append(dst, "-inf"...)
	}
	// The bounds hold for the shortest digits too: 1e-4 and 1e16 are themselves
	// floats, and rounding to the shortest form does not cross a float.
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	for _, c := range dst[start:] {
		if c == '.' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// AppendJSONFloat appends f as json.dumps does: as AppendFloat, but NaN,
// Infinity and -Infinity, which JSON proper does not have.
func AppendJSONFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	return AppendFloat(dst, f)
}
