package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
)

// problem is one thing that is wrong with a request, in the form of LMCache's
// framework.
type problem struct {
	Type    string            `json:"type"`
	Loc     []any             `json:"loc"`
	Msg     string            `json:"msg"`
	Input   any               `json:"input"`
	Context map[string]string `json:"ctx,omitempty"`
}

// unprocessable answers what fails validation.
func unprocessable(w http.ResponseWriter, problems ...problem) {
	answer(w, http.StatusUnprocessableEntity, struct {
		Detail []problem `json:"detail"`
	}{problems})
}

// body is a JSON object with what is wrong with its fields.
type body struct {
	raw      map[string]json.RawMessage
	problems []problem
}

// readBody reads a JSON object. With optional an empty body is an empty object.
// It answers what is no object, and reports whether it did not.
func readBody(w http.ResponseWriter, r *http.Request, optional bool) (*body, bool) {
	data, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("body of more than %d bytes", tooLarge.Limit))
		return nil, false
	case err != nil:
		refuse(w, http.StatusBadRequest, "There was an error parsing the body")
		return nil, false
	case len(data) == 0 && optional:
		return &body{}, true
	case len(data) == 0:
		unprocessable(w, problem{Type: "missing", Loc: []any{"body"}, Msg: "Field required", Input: nil})
		return nil, false
	}
	b := &body{}
	err = json.Unmarshal(data, &b.raw)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		unprocessable(w, problem{Type: "json_invalid", Loc: []any{"body", syntax.Offset}, Msg: "JSON decode error",
			Input: struct{}{}, Context: map[string]string{"error": syntax.Error()}})
		return nil, false
	case b.raw == nil && optional && err == nil: // null
		return b, true
	case err != nil || b.raw == nil:
		unprocessable(w, problem{Type: "model_attributes_type", Loc: []any{"body"},
			Msg: "Input should be a valid dictionary or object to extract fields from", Input: json.RawMessage(data)})
		return nil, false
	}
	return b, true
}

// ok answers what is wrong with the fields, and reports whether nothing is.
func (b *body) ok(w http.ResponseWriter) bool {
	if len(b.problems) > 0 {
		unprocessable(w, b.problems...)
	}
	return len(b.problems) == 0
}

func (b *body) has(name string) bool {
	raw, ok := b.raw[name]
	return ok && string(raw) != "null"
}

// field decodes a field. A value of another type is a problem, and so is a
// missing one that is required.
func field[T any](b *body, name string, required bool, kind, msg string) (v T) {
	raw, ok := b.raw[name]
	switch {
	case !ok && required:
		b.problems = append(b.problems, problem{Type: "missing", Loc: []any{"body", name}, Msg: "Field required", Input: b.raw})
	case !ok || !required && string(raw) == "null":
	case string(raw) == "null" || json.Unmarshal(raw, &v) != nil:
		b.problems = append(b.problems, problem{Type: kind, Loc: []any{"body", name}, Msg: msg, Input: raw})
	}
	return v
}

func (b *body) text(name string, required bool) string {
	return field[string](b, name, required, "string_type", "Input should be a valid string")
}

func (b *body) flag(name string) bool {
	return field[bool](b, name, false, "bool_parsing", "Input should be a valid boolean, unable to interpret input")
}

func (b *body) number(name string, required bool) int {
	return field[int](b, name, required, "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
}

// choice is a text field with a fixed set of values, the first its default.
func (b *body) choice(name string, values ...string) string {
	v := b.text(name, false)
	if !b.has(name) {
		return values[0]
	}
	for _, c := range values {
		if v == c {
			return v
		}
	}
	b.problems = append(b.problems, notOneOf([]any{"body", name}, v, values))
	return v
}

func notOneOf(loc []any, got string, values []string) problem {
	expected := ""
	for i, v := range values {
		switch {
		case i > 0 && i == len(values)-1:
			expected += " or "
		case i > 0:
			expected += ", "
		}
		expected += "'" + v + "'"
	}
	return problem{Type: "literal_error", Loc: loc, Msg: "Input should be " + expected, Input: got, Context: map[string]string{"expected": expected}}
}

// queryInt reads a parameter of the query within bounds; it answers and reports
// false where it is not.
func queryInt(w http.ResponseWriter, r *http.Request, name string, def, least, most int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, true
	}
	n, err := strconv.Atoi(text)
	p := problem{Loc: []any{"query", name}, Input: text}
	switch {
	case err != nil:
		p.Type, p.Msg = "int_parsing", "Input should be a valid integer, unable to parse string as an integer"
	case n < least:
		p.Type, p.Msg, p.Context = "greater_than_equal", fmt.Sprintf("Input should be greater than or equal to %d", least), map[string]string{"ge": strconv.Itoa(least)}
	case n > most:
		p.Type, p.Msg, p.Context = "less_than_equal", fmt.Sprintf("Input should be less than or equal to %d", most), map[string]string{"le": strconv.Itoa(most)}
	default:
		return n, true
	}
	unprocessable(w, p)
	return 0, false
}

// gibibytes is a size in bytes that is shown in GiB, as Python shows a float.
type gibibytes int64

func (g gibibytes) MarshalJSON() ([]byte, error) { return float(float64(g) / (1 << 30)).MarshalJSON() }

// bytesOf returns the bytes of a size in GiB; ok is false if no int64 holds them.
func bytesOf(gb float64) (n int64, ok bool) {
	bytes := gb * (1 << 30)
	return int64(bytes), bytes >= 0 && bytes < math.MaxInt64
}
