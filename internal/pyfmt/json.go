package pyfmt

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// AppendJSON appends v as json.dumps(v, sort_keys=True) writes it: keys sorted
// by code point at every level, ", " and ": " between, ASCII only. v is nil, a
// bool, an int, int64, float64, json.Number or string, a []any, or a
// map[string]any of such values. Another type is a bug of the caller: it panics.
func AppendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return AppendJSONFloat(b, v)
	case json.Number:
		return appendNumber(b, v)
	case string:
		return AppendJSONString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = AppendJSON(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		// Byte order of UTF-8 is code point order.
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(AppendJSONString(b, k), ": "...)
			b = AppendJSON(b, v[k])
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("pyfmt: no JSON form for %T", v))
}

// appendNumber writes a number that was read from JSON: Python keeps an integer
// of any length, except that -0 is 0, and makes a float of all else.
func appendNumber(b []byte, n json.Number) []byte {
	if !strings.ContainsAny(n.String(), ".eE") {
		if n == "-0" {
			n = "0"
		}
		return append(b, n...)
	}
	f, _ := n.Float64() // out of range: infinite, as in Python
	return AppendJSONFloat(b, f)
}
