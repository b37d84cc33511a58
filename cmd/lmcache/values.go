package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// The flag values here read what Python's int, float and choices read, and
// complain in its words, so that scripts written for LMCache see no difference.

// floatValue is a float64 flag.
type floatValue struct{ p *float64 }

func (v floatValue) Type() string   { return "FLOAT" }
func (v floatValue) String() string { return strings.TrimSuffix(pyfmt.Float(*v.p), ".0") }

// Set reads s as Python's float does: spaces around it, single underscores
// between digits, inf and nan; no hexadecimal.
func (v floatValue) Set(s string) error {
	digits, ok := pythonDigits(s)
	f, err := strconv.ParseFloat(digits, 64)
	if !ok || strings.ContainsAny(digits, "xX") || errors.Is(err, strconv.ErrSyntax) {
		return fmt.Errorf("invalid float value: %s", pyfmt.Repr(s))
	}
	*v.p = f // out of range is infinite, as in Python
	return nil
}

// intValue is an int64 flag; it is also the flag of an int, through a setter.
type intValue[T int | int64] struct{ p *T }

func (v intValue[T]) Type() string   { return "INT" }
func (v intValue[T]) String() string { return strconv.FormatInt(int64(*v.p), 10) }

// Set reads s as Python's int does, within the range of an int64.
func (v intValue[T]) Set(s string) error {
	digits, ok := pythonDigits(s)
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case ok && errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("invalid value: %s (allowed: -2^63 to 2^63-1)", strings.TrimSpace(s))
	case !ok || err != nil:
		return fmt.Errorf("invalid int value: %s", pyfmt.Repr(s))
	}
	*v.p = T(n)
	return nil
}

// countValue is how many of something there are to be at most, all if it is not
// given.
type countValue[T int | int64] struct{ p *T }

func (v countValue[T]) Type() string   { return "INT" }
func (v countValue[T]) String() string { return strconv.FormatInt(int64(*v.p), 10) }

func (v countValue[T]) Set(s string) error {
	var n T
	if err := (intValue[T]{&n}).Set(s); err != nil {
		return err
	}
	if n < 1 {
		return fmt.Errorf("invalid value: %d (allowed: 1 or more)", n)
	}
	*v.p = n
	return nil
}

var misplacedUnderscore = regexp.MustCompile(`^_|_$|__|[^0-9]_|_[^0-9]`)

// pythonDigits takes away what Python allows around and within a number.
func pythonDigits(s string) (digits string, ok bool) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "_") {
		return s, true
	}
	return strings.ReplaceAll(s, "_", ""), !misplacedUnderscore.MatchString(s)
}

// choiceValue is a string flag with a fixed set of values.
type choiceValue struct {
	p       *string
	choices []string
}

func (v choiceValue) Type() string   { return "NAME" }
func (v choiceValue) String() string { return *v.p }
func (v choiceValue) Set(s string) error {
	if !slices.Contains(v.choices, s) {
		return invalidChoice(s, v.choices)
	}
	*v.p = s
	return nil
}

func invalidChoice(got string, choices []string) error {
	quoted := make([]string, len(choices))
	for i, c := range choices {
		quoted[i] = pyfmt.Repr(c)
	}
	return fmt.Errorf("invalid choice: %s (choose from %s)", pyfmt.Repr(got), strings.Join(quoted, ", "))
}

// listValue is a repeatable string flag.
type listValue struct{ p *[]string }

func (v listValue) Type() string   { return "JSON" }
func (v listValue) String() string { return strings.Join(*v.p, " ") }
func (v listValue) Set(s string) error {
	*v.p = append(*v.p, s)
	return nil
}

// quotaValue is a listValue of quotas.
type quotaValue struct{ listValue }

func (v quotaValue) Type() string { return "SALT=GB" }

// switchValue is one of a pair of flags that set the same bool to opposite
// values; the last one on the command line counts.
type switchValue struct {
	p     *bool
	value bool // what the flag sets
}

func (v switchValue) Type() string     { return "bool" }
func (v switchValue) IsBoolFlag() bool { return true }
func (v switchValue) String() string   { return strconv.FormatBool(*v.p == v.value) }
func (v switchValue) Set(s string) error {
	if s != "true" { // the flag alone; it takes no value
		return errors.New("takes no value")
	}
	*v.p = v.value
	return nil
}

// sizeValue is a size in bytes, with an optional suffix KiB, MiB or GiB.
type sizeValue struct{ p *int64 }

func (v sizeValue) Type() string { return "BYTES" }
func (v sizeValue) String() string {
	for _, u := range []struct {
		shift int
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if *v.p > 0 && *v.p%(1<<u.shift) == 0 {
			return strconv.FormatInt(*v.p>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(*v.p, 10)
}

func (v sizeValue) Set(s string) error {
	digits, shift := s, 0
	for unit, n := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, n
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n<<shift>>shift != n {
		return fmt.Errorf("invalid size: %s (a number of bytes, or with KiB, MiB, GiB)", pyfmt.Repr(s))
	}
	*v.p = n << shift
	return nil
}
