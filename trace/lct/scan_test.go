package lct

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"
)

// TestFrames checks what is accepted, and the words for what is not, against
// the outcome under upstream's own decoder.
//
// Source: reference lct-v1.md, section 1.6.
func TestFrames(t *testing.T) {
	text, err := os.ReadFile("testdata/frames.tsv")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		col := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		body, err := hex.DecodeString(col[2])
		if err != nil || len(col) != 4 {
			t.Fatalf("%s: bad row: %v", col[0], err)
		}
		if col[1] == "record" {
			var r rawRecord
			err = scanRecord(body, &r)
		} else {
			var v [numHeaderFields]fieldValue
			err = scanStruct(body, "header", headerFields, v[:])
		}
		got := "ok"
		if err != nil {
			got = err.Error()
		}
		if got != col[3] {
			t.Errorf("%s: %s %s: got %s; want %s", col[0], col[1], col[2], got, col[3])
		}
		n++
	}
	if n < 300 {
		t.Errorf("%d rows; the file is cut off", n)
	}
}

// TestDepth checks that deep nesting is refused where Python gives up, and
// costs no stack.
func TestDepth(t *testing.T) {
	for _, inner := range []string{"\x91", "\x81\x01", "\x81\x91"} {
		for _, field := range []string{"\xa4args\x81\xa1a", "\xa2zz"} {
			frame := func(depth int) []byte {
				return []byte("\x85\xa6t_mono\x01\xa6t_wall\x01\xa8qualname\xa1q\xa4args\x80" + field + strings.Repeat(inner, depth) + "\x01")
			}
			var r rawRecord
			if err := scanRecord(frame(1_000_000), &r); err != errDepth {
				t.Errorf("%q, %q deep: got %v; want %v", field, inner, err, errDepth)
			}
			if err := scanRecord(append(frame(300), bytes.Repeat([]byte{1}, 300)...), &r); err == errDepth {
				t.Errorf("%q, %q 300 deep: got %v", field, inner, err)
			}
		}
	}
}

// TestRecordValues checks what the leniency of the decoder gives.
func TestRecordValues(t *testing.T) {
	tests := []struct {
		name, frame  string
		mono, wall   float64
		monoNS       int64
		qualname     string
		wantArgsSize int
	}{
		{"ints", "\x84\xa6t_mono\x05\xa6t_wall\xff\xa8qualname\xa1q\xa4args\x80", 5, -1, 5e9, "q", 1},
		{"float32, another order", "\x84\xa4args\x81\xa1a\x01\xa8qualname\xd9\x01q\xa6t_wall\xca\x3f\x80\x00\x00\xa6t_mono\xca\x3f\x00\x00\x00", 0.5, 1, 5e8, "q", 4},
		{"the last of two", "\x85\xa6t_mono\x05\xa6t_wall\x01\xa8qualname\xa1q\xa4args\x80\xa6t_mono\x07", 7, 1, 7e9, "q", 1},
		{"uint64", "\x84\xa6t_mono\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa6t_wall\x00\xa8qualname\xa0\xa4args\x80", 1 << 64, 0, math.MaxInt64, "", 1},
		{"infinity", "\x84\xa6t_mono\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00\xa6t_wall\x00\xa8qualname\xa0\xa4args\x80", math.Inf(1), 0, 0, "", 1},
		{"int64", "\x84\xa6t_mono\xd1\xff\x00\xa6t_wall\x00\xa8qualname\xa0\xa4args\x80", -256, 0, -256e9, "", 1},
	}
	for _, tt := range tests {
		var r rawRecord
		if err := scanRecord([]byte(tt.frame), &r); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.monoS != tt.mono || r.wallS != tt.wall || secondsToNS(r.monoS) != tt.monoNS || string(r.qualname) != tt.qualname || len(r.args) != tt.wantArgsSize {
			t.Errorf("%s: got %v, %v, %d ns, %q, %d bytes of args; want %v, %v, %d, %q, %d", tt.name,
				r.monoS, r.wallS, secondsToNS(r.monoS), r.qualname, len(r.args), tt.mono, tt.wall, tt.monoNS, tt.qualname, tt.wantArgsSize)
		}
	}
	if ns := secondsToNS(math.NaN()); ns != 0 {
		t.Errorf("secondsToNS(NaN): got %d; want 0", ns)
	}
	if ns := secondsToNS(1776470400.25); ns != 1776470400250000000 {
		t.Errorf("secondsToNS of a Unix time: got %d", ns)
	}
}
