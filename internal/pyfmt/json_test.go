package pyfmt_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// The texts on the right were printed by json.dumps(v, sort_keys=True).
func TestAppendJSON(t *testing.T) {
	for _, tt := range []struct {
		v    any
		want string
	}{
		{nil, "null"}, {true, "true"}, {7, "7"}, {int64(-3), "-3"}, {2.0, "2.0"}, {math.Inf(-1), "-Infinity"},
		{json.Number("123456789012345678901234567890"), "123456789012345678901234567890"},
		{json.Number("1E2"), "100.0"}, {json.Number("-0"), "0"}, {json.Number("-0.0"), "-0.0"}, {json.Number("1e999"), "Infinity"},
		{"\x7f a<>&/é😀\x00\x1b\"\\\n\r\t\b\f", `"\u007f a<>&/\u00e9\ud83d\ude00\u0000\u001b\"\\\n\r\t\b\f"`},
		{[]any{}, "[]"}, {map[string]any{}, "{}"},
		{map[string]any{"b": []any{1, "x"}, "B": nil, "é": map[string]any{"z": 1, "a": 2}}, `{"B": null, "b": [1, "x"], "\u00e9": {"a": 2, "z": 1}}`},
	} {
		if got := string(pyfmt.AppendJSON(nil, tt.v)); got != tt.want {
			t.Errorf("AppendJSON(%#v) = %s; want %s", tt.v, got, tt.want)
		}
	}
}
