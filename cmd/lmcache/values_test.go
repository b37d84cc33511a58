package main

import (
	"math"
	"testing"
	"time"
)

// What Python's float() and int() accept and refuse.
func TestPythonNumbers(t *testing.T) {
	for _, tt := range []struct {
		text    string
		float   float64
		floatOK bool
		integer int64
		intOK   bool
	}{
		{"12", 12, true, 12, true},
		{" 12\n", 12, true, 12, true},
		{"+5", 5, true, 5, true},
		{"-0", math.Copysign(0, -1), true, 0, true},
		{"010", 10, true, 10, true},
		{"1_000", 1000, true, 1000, true},
		{"1__0", 0, false, 0, false},
		{"_1", 0, false, 0, false},
		{"1_", 0, false, 0, false},
		{"1_.5", 0, false, 0, false},
		{"1_0.5", 10.5, true, 0, false},
		{".5", 0.5, true, 0, false},
		{"1e3", 1000, true, 0, false},
		{"1e999", math.Inf(1), true, 0, false},
		{"-inf", math.Inf(-1), true, 0, false},
		{"Infinity", math.Inf(1), true, 0, false},
		{"0x10", 0, false, 0, false},
		{"0x1p-2", 0, false, 0, false},
		{"", 0, false, 0, false},
		{"1 2", 0, false, 0, false},
	} {
		var f float64
		err := floatValue{&f}.Set(tt.text)
		if (err == nil) != tt.floatOK || f != tt.float {
			t.Errorf("float %q: got %v, %v; want %v, ok %v", tt.text, f, err, tt.float, tt.floatOK)
		}
		var n int64
		err = intValue[int64]{&n}.Set(tt.text)
		if (err == nil) != tt.intOK || n != tt.integer {
			t.Errorf("int %q: got %v, %v; want %v, ok %v", tt.text, n, err, tt.integer, tt.intOK)
		}
	}
}

func TestSizeValue(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int64
		ok   bool
		show string
	}{
		{"65536", 65536, true, "64KiB"}, {"8MiB", 8 << 20, true, "8MiB"}, {"1GiB", 1 << 30, true, "1GiB"},
		{"100", 100, true, "100"}, {"-1", 0, false, ""}, {"8M", 0, false, ""}, {"9223372036854775807GiB", 0, false, ""}, {"", 0, false, ""},
	} {
		var n int64
		err := sizeValue{&n}.Set(tt.text)
		if (err == nil) != tt.ok || n != tt.want {
			t.Errorf("%q: got %d, %v; want %d, ok %v", tt.text, n, err, tt.want, tt.ok)
		}
		if err == nil && (sizeValue{&n}).String() != tt.show {
			t.Errorf("%q shows as %s; want %s", tt.text, sizeValue{&n}, tt.show)
		}
	}
}

func TestDurationValue(t *testing.T) {
	for text, want := range map[string]time.Duration{"10m": 10 * time.Minute, "90.5": 90500 * time.Millisecond, "1h30m": 90 * time.Minute,
		"-1": 0, "nan": 0, "inf": 0, "1e30": 0, "": 0, "0s": 0} {
		var d time.Duration
		err := durationValue{&d}.Set(text)
		if d != want || (err == nil) != (want > 0) {
			t.Errorf("%q: got %v, %v; want %v", text, d, err, want)
		}
	}
}

// A layout reads back from its own text.
func TestParseLayout(t *testing.T) {
	for _, tt := range []struct {
		text  string
		bytes int64 // 0: refused
	}{
		{"[2,32,256,1024]:bfloat16", 2 * 32 * 256 * 1024 * 2},
		{"[4]:float32+[8]:uint8", 24},
		{"[4]:torch.float32", 16},
		{"[]:float32", 0}, {"[0]:float32", 0}, {"[-1]:float32", 0}, {"4:float32", 0}, {"[4]:complex7", 0},
		{"[4]", 0}, {"", 0}, {"[4]:float32+", 0}, {"[9223372036854775807,2]:float32", 0},
	} {
		l, err := parseLayout(tt.text)
		if l.Bytes() != tt.bytes || (err == nil) != (tt.bytes > 0) {
			t.Errorf("%q: got %d bytes, %v; want %d", tt.text, l.Bytes(), err, tt.bytes)
		}
		if again, err2 := parseLayout(l.Desc().String()); err == nil && (err2 != nil || again != l) {
			t.Errorf("%q reads back as %v, %v", l.Desc(), again.Desc(), err2)
		}
	}
}
