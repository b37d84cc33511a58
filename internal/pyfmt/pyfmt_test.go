package pyfmt_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// The values on the right were printed by Python 3: repr of the float, which is
// what its json module writes for all but the last three.
func TestFloat(t *testing.T) {
	for _, tt := range []struct {
		f    float64
		want string
	}{
		{0, "0.0"}, {math.Copysign(0, -1), "-0.0"}, {300, "300.0"}, {-1.5, "-1.5"}, {0.1, "0.1"},
		{0.0001, "0.0001"}, {0.00009999, "9.999e-05"}, {1e-05, "1e-05"}, {5e-324, "5e-324"},
		{1e15, "1000000000000000.0"}, {9999999999999998, "9999999999999998.0"}, {1e16, "1e+16"},
		{123456789012345680, "1.2345678901234568e+17"}, {1.7976931348623157e308, "1.7976931348623157e+308"},
		{math.NaN(), "NaN"}, {math.Inf(1), "Infinity"}, {math.Inf(-1), "-Infinity"},
	} {
		if got := pyfmt.Float(tt.f); got != tt.want {
			t.Errorf("Float(%v) = %s; want %s", tt.f, got, tt.want)
		}
	}
}

func TestAppendJSON(t *testing.T) {
	for _, tt := range []struct {
		v    any
		want string
	}{
		{nil, "null"}, {true, "true"}, {int64(-3), "-3"}, {2.0, "2.0"},
		{json.Number("123456789012345678901234567890"), "123456789012345678901234567890"},
		{json.Number("1E2"), "100.0"}, {json.Number("-0"), "0"}, {json.Number("-0.0"), "-0.0"}, {json.Number("1e999"), "Infinity"},
		{"\x7f a<>&/é😀\x00\x1b\"\\\n\r\t\b\f", `"\u007f a<>&/\u00e9\ud83d\ude00\u0000\u001b\"\\\n\r\t\b\f"`},
		{"\xff", `"\udcff"`},
		{[]any{}, "[]"}, {map[string]any{}, "{}"},
		{map[string]any{"b": []any{1, "x"}, "B": nil, "é": map[string]any{"z": 1, "a": 2}}, `{"B": null, "b": [1, "x"], "\u00e9": {"a": 2, "z": 1}}`},
	} {
		if got := string(pyfmt.AppendJSON(nil, tt.v)); got != tt.want {
			t.Errorf("AppendJSON(%#v) = %s; want %s", tt.v, got, tt.want)
		}
	}
}
