package pyfmt_test

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// The wanted texts were printed by CPython 3.
func TestFloat(t *testing.T) {
	for _, tt := range []struct {
		f    float64
		want string
	}{
		{0, "0.0"}, {math.Copysign(0, -1), "-0.0"}, {1, "1.0"}, {300, "300.0"}, {0.8, "0.8"}, {0.252, "0.252"},
		{1e-4, "0.0001"}, {9.999e-5, "9.999e-05"}, {1e-5, "1e-05"}, {1.5e-7, "1.5e-07"}, {-2.5e-10, "-2.5e-10"},
		{1e15, "1000000000000000.0"}, {9999999999999998, "9999999999999998.0"}, {1e16, "1e+16"}, {1.2345e16, "1.2345e+16"},
		{123456789012345680, "1.2345678901234568e+17"}, {1e22, "1e+22"}, {1e100, "1e+100"},
		{5e-324, "5e-324"}, {math.MaxFloat64, "1.7976931348623157e+308"},
		{1.0 / 3, "0.3333333333333333"}, {0.10423500009437703, "0.10423500009437703"},
		{math.NaN(), "nan"}, {math.Inf(1), "inf"}, {math.Inf(-1), "-inf"},
	} {
		if got := pyfmt.Float(tt.f); got != tt.want {
			t.Errorf("Float(%g) = %s; want %s", tt.f, got, tt.want)
		}
	}
	for _, tt := range []struct {
		f    float64
		want string
	}{{math.NaN(), "NaN"}, {math.Inf(1), "Infinity"}, {math.Inf(-1), "-Infinity"}, {300, "300.0"}} {
		if got := string(pyfmt.AppendJSONFloat(nil, tt.f)); got != tt.want {
			t.Errorf("AppendJSONFloat(%g) = %s; want %s", tt.f, got, tt.want)
		}
	}
}

func TestAppendJSONString(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", `""`}, {`a"b\c`, `"a\"b\\c"`}, {"a\x00é😀</&>\b\f\n\r\t", `"a\u0000\u00e9\ud83d\ude00</&>\b\f\n\r\t"`},
		{"\x7f", `"\u007f"`}, {"\xff", `"\ufffd"`},
	} {
		if got := string(pyfmt.AppendJSONString(nil, tt.s)); got != tt.want {
			t.Errorf("AppendJSONString(%q) = %s; want %s", tt.s, got, tt.want)
		}
	}
}

func TestRepr(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", `''`}, {"run.lct", `'run.lct'`}, {"it's", `"it's"`}, {`a"b`, `'a"b'`}, {`it's "x"`, `'it\'s "x"'`},
		{"a\nb\tc\\", `'a\nb\tc\\'`}, {"é\x07\u200b\u2028", `'é\x07\u200b\u2028'`},
		{"😀\U000e0001", `'😀\U000e0001'`}, {"\u00a0", `'\xa0'`}, {"\u00ad", `'\xad'`}, {"a\xff", `'a\udcff'`},
	} {
		if got := pyfmt.Repr(tt.s); got != tt.want {
			t.Errorf("Repr(%q) = %s; want %s", tt.s, got, tt.want)
		}
	}
}

// Property: the text reads back as the same float, and says that it is one.
func FuzzFloat(f *testing.F) {
	for _, v := range []float64{0, 1, 1e16, 1e-5, 0.1, -3.5e300} {
		f.Add(math.Float64bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		v := math.Float64frombits(bits)
		if math.IsNaN(v) {
			return
		}
		s := pyfmt.Float(v)
		if back, err := strconv.ParseFloat(s, 64); err != nil || back != v {
			t.Errorf("Float(%g) = %s reads back as %g, %v", v, s, back, err)
		}
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			t.Errorf("Float(%g) = %s looks like an int", v, s)
		}
	})
}

// Property: the text is ASCII and JSON reads it back.
func FuzzAppendJSONString(f *testing.F) {
	f.Add("plain")
	f.Add("a\x00é😀</&>\"\\")
	f.Fuzz(func(t *testing.T, s string) {
		b := pyfmt.AppendJSONString(nil, s)
		for _, c := range b {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("AppendJSONString(%q) has byte %#x", s, c)
			}
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("AppendJSONString(%q) = %s: %v", s, b, err)
		}
		if want := string([]rune(s)); back != want {
			t.Errorf("AppendJSONString(%q) reads back as %q", s, back)
		}
	})
}
