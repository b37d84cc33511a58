//lint:file-ignore ST1005 the texts are LMCache's

package lct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds the nesting of arrays and maps in a frame. Upstream's decoder
// stops where Python's recursion limit of 1000, less the frames of the program
// around it, is reached.
const maxDepth = 990

var (
	errTruncated = errors.New("Input data was truncated")
	errDepth     = errors.New("maximum recursion depth exceeded while deserializing an object")
	errNanos     = errors.New("Invalid MessagePack timestamp: nanoseconds out of range")
	errTimestamp = errors.New("Invalid MessagePack timestamp")
	errTimeRange = errors.New("Timestamp is out of range ")
)

// Kinds of msgpack objects, by the first byte.
type kind uint8

const (
	kindInvalid kind = iota
	kindNil
	kindBool
	kindInt
	kindFloat
	kindStr
	kindBin
	kindArray
	kindMap
	kindExt
)

// kindNames are the words of upstream's decoder (msgspec) for what it got.
var kindNames = [...]string{"unknown", "None", "bool", "int", "float", "str", "bytes", "array", "object", "ext"}

// head says how an object that starts with a certain byte goes on.
type head struct {
	kind  kind
	width uint8 // bytes of the length or value that follow the first byte
	fixed uint8 // fixstr, fixarray, fixmap: the length; fixext: the bytes of data
}

var heads = func() (h [256]head) {
	for c := range h {
		switch {
		case c < 0x80 || c >= 0xe0:
			h[c] = head{kind: kindInt}
		case c < 0x90:
			h[c] = head{kind: kindMap, fixed: uint8(c & 0x0f)}
		case c < 0xa0:
			h[c] = head{kind: kindArray, fixed: uint8(c & 0x0f)}
		case c < 0xc0:
			h[c] = head{kind: kindStr, fixed: uint8(c & 0x1f)}
		}
	}
	h[0xc0] = head{kind: kindNil}
	h[0xc2], h[0xc3] = head{kind: kindBool}, head{kind: kindBool}
	for i, w := range []uint8{1, 2, 4} {
		h[0xc4+i] = head{kind: kindBin, width: w}
		h[0xc7+i] = head{kind: kindExt, width: w}
		h[0xd9+i] = head{kind: kindStr, width: w}
	}
	h[0xca], h[0xcb] = head{kind: kindFloat, width: 4}, head{kind: kindFloat, width: 8}
	for i, w := range []uint8{1, 2, 4, 8} {
		h[0xcc+i] = head{kind: kindInt, width: w}
		h[0xd0+i] = head{kind: kindInt, width: w}
	}
	for i, n := range []uint8{1, 2, 4, 8, 16} {
		h[0xd4+i] = head{kind: kindExt, fixed: n}
	}
	h[0xdc], h[0xdd] = head{kind: kindArray, width: 2}, head{kind: kindArray, width: 4}
	h[0xde], h[0xdf] = head{kind: kindMap, width: 2}, head{kind: kindMap, width: 4}
	return h
}()

// scanner checks one frame body as upstream's decoder does, without keeping
// what it reads, and finds the fields of the struct at the top. msgp's Skip
// would not do: it passes over invalid UTF-8, keys that Python cannot hash and
// bad timestamps, and does not say where an error is.
type scanner struct {
	b   []byte // the frame body
	pos int    // next byte to read, at most len(b)
}

func (s *scanner) malformed(what string, at int) error {
	return fmt.Errorf("MessagePack data is malformed: %s (byte %d)", what, at)
}

func (s *scanner) badOpcode(at int) error {
	return s.malformed(fmt.Sprintf(`invalid opcode '\x%02x'`, s.b[at]), at)
}

// next reads the first byte of an object and the length behind it. For
// scalars n is the width of the value.
func (s *scanner) next() (h head, n int, err error) {
	if s.pos >= len(s.b) {
		return h, 0, errTruncated
	}
	h = heads[s.b[s.pos]]
	s.pos++
	switch {
	case h.width == 0:
		return h, int(h.fixed), nil
	case h.kind == kindInt || h.kind == kindFloat:
		return h, int(h.width), nil
	case len(s.b)-s.pos < int(h.width):
		return h, 0, errTruncated
	}
	switch p := s.b[s.pos:]; h.width {
	case 1:
		n = int(p[0])
	case 2:
		n = int(binary.BigEndian.Uint16(p))
	default:
		n = int(binary.BigEndian.Uint32(p))
	}
	s.pos += int(h.width)
	return h, n, nil
}

// take returns the next n bytes.
func (s *scanner) take(n int) ([]byte, error) {
	if len(s.b)-s.pos < n {
		return nil, errTruncated
	}
	p := s.b[s.pos : s.pos+n]
	s.pos += n
	return p, nil
}

// value checks one object of any type. depth counts the containers around it.
func (s *scanner) value(depth int) error {
	at := s.pos
	h, n, err := s.next()
	if err != nil {
		return err
	}
	switch h.kind {
	case kindStr:
		p, err := s.take(n)
		if err != nil {
			return err
		}
		if !utf8.Valid(p) {
			return utf8Error(p)
		}
	case kindInt, kindFloat, kindBin:
		if len(s.b)-s.pos < n {
			return errTruncated
		}
		s.pos += n
	case kindArray:
		if depth >= maxDepth {
			return errDepth
		}
		for i := range n {
			if s.plainKey(depth + 1) {
				continue
			}
			if err := s.value(depth + 1); err != nil {
				return atIndex(err, i)
			}
		}
	case kindMap:
		if depth >= maxDepth {
			return errDepth
		}
		return s.mapEntries(n, depth)
	case kindExt:
		_, err := s.ext(n)
		return err
	case kindInvalid:
		return s.badOpcode(at)
	}
	return nil
}

// plainKey passes over an object key, if one comes next in the form that the
// releases write and nothing is wrong with it.
func (s *scanner) plainKey(depth int) bool {
	if s.pos >= len(s.b) || s.b[s.pos] != 0x82 || depth+2 >= maxDepth {
		return false
	}
	p, ok := splitKey(s.b[s.pos:])
	if !ok || !utf8.Valid(p.model) {
		return false
	}
	s.pos = len(s.b) - len(p.rest)
	return true
}

// mapEntries checks the n entries of a map below the top level of args.
func (s *scanner) mapEntries(n, depth int) error {
	for range n {
		hashable := true
		if s.pos < len(s.b) && heads[s.b[s.pos]].kind == kindStr {
			if err := s.value(depth + 1); err != nil {
				return err
			}
		} else {
			var err error
			if hashable, err = s.key(depth + 1); err != nil {
				return inKey(err)
			}
		}
		if err := s.value(depth + 1); err != nil {
			return within(err, "[...]")
		}
		if !hashable { // Python looks at the key when it stores the value
			return s.malformed("map keys must be hashable", s.pos)
		}
	}
	return nil
}

// key checks an object in the place of a map key, where upstream reads an array
// as a tuple, and reports whether Python can hash it.
func (s *scanner) key(depth int) (hashable bool, err error) {
	if s.pos >= len(s.b) {
		return false, errTruncated
	}
	switch heads[s.b[s.pos]].kind {
	case kindArray:
		if depth >= maxDepth {
			return false, errDepth
		}
		_, n, err := s.next()
		if err != nil {
			return false, err
		}
		hashable = true
		for i := range n {
			ok, err := s.key(depth + 1)
			if err != nil {
				return false, atIndex(err, i)
			}
			hashable = hashable && ok
		}
		return hashable, nil
	case kindExt:
		_, n, err := s.next()
		if err != nil {
			return false, err
		}
		return s.ext(n)
	case kindMap:
		return false, s.value(depth)
	}
	return true, s.value(depth)
}

// ext checks an extension value with n bytes of data. Type -1 is a timestamp,
// which Python reads as a date and can hash.
func (s *scanner) ext(n int) (timestamp bool, err error) {
	t, err := s.take(1)
	if err != nil {
		return false, err
	}
	p, err := s.take(n)
	if err != nil || int8(t[0]) != -1 {
		return false, err
	}
	var nanos uint32
	var secs int64
	switch n {
	case 4:
		secs = int64(binary.BigEndian.Uint32(p))
	case 8:
		v := binary.BigEndian.Uint64(p)
		nanos, secs = uint32(v>>34), int64(v&(1<<34-1))
	case 12:
		nanos, secs = binary.BigEndian.Uint32(p), int64(binary.BigEndian.Uint64(p[4:]))
	default:
		return false, &pathError{err: errTimestamp}
	}
	const minYear1, maxYear9999 = -62135596800, 253402300799
	switch {
	case nanos > 999_999_999:
		return false, &pathError{err: errNanos}
	case secs < minYear1 || secs > maxYear9999:
		return false, &pathError{err: errTimeRange}
	}
	return true, nil
}

// skip passes over the value of a field that the struct does not have: upstream
// looks at lengths and first bytes only.
func (s *scanner) skip(depth int) error {
	at := s.pos
	h, n, err := s.next()
	if err != nil {
		return err
	}
	switch h.kind {
	case kindArray, kindMap:
		if depth >= maxDepth {
			return errDepth
		}
		if h.kind == kindMap {
			n *= 2
		}
		for range n {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
		}
		return nil
	case kindExt:
		n++ // its type
	case kindInvalid:
		return s.badOpcode(at)
	}
	_, err = s.take(n)
	return err
}

// number reads the int or float whose first byte is at s.pos-1.
func (s *scanner) number(n int) (v number, err error) {
	c := s.b[s.pos-1]
	p, err := s.take(n)
	if err != nil {
		return v, err
	}
	switch {
	case c == 0xca:
		return number{f: float64(math.Float32frombits(binary.BigEndian.Uint32(p)))}, nil
	case c == 0xcb:
		return number{f: math.Float64frombits(binary.BigEndian.Uint64(p))}, nil
	case n == 0:
		return signed(int64(int8(c))), nil
	}
	var u uint64
	for _, x := range p {
		u = u<<8 | uint64(x)
	}
	if c >= 0xd0 {
		return signed(int64(u<<(64-8*n)) >> (64 - 8*n)), nil
	}
	return number{f: float64(u), i: int64(u), big: u > math.MaxInt64}, nil
}

// number is a value for a field of type float or int.
type number struct {
	f   float64
	i   int64 // ints only
	big bool  // i is to be read as a uint64
}

func signed(i int64) number { return number{f: float64(i), i: i} }

func (v number) String() string {
	if v.big {
		return strconv.FormatUint(uint64(v.i), 10)
	}
	return strconv.FormatInt(v.i, 10)
}

// pathError is an error that upstream's decoder reports with the place of the
// value, in its notation. Errors of the encoding itself are reported without.
type pathError struct {
	err  error
	keys string // the way through map keys, the innermost first: "`key[1]` in "
	path string // the way to the value, or to the map with the outermost of keys
}

func (e *pathError) Unwrap() error { return e.err }

func (e *pathError) Error() string { return fmt.Sprintf("%v - at %s`$%s`", e.err, e.keys, e.path) }

func expected(want, got string) error {
	return &pathError{err: fmt.Errorf("Expected `%s`, got `%s`", want, got)}
}

// within puts element in front of the path of a pathError.
func within(err error, element string) error {
	if e, ok := err.(*pathError); ok {
		e.path = element + e.path
	}
	return err
}

func atIndex(err error, i int) error {
	if _, ok := err.(*pathError); ok {
		return within(err, "["+strconv.Itoa(i)+"]")
	}
	return err
}

// inKey says that the path of a pathError so far leads from the key of a map.
func inKey(err error) error {
	if e, ok := err.(*pathError); ok {
		e.keys, e.path = e.keys+"`key"+e.path+"` in ", ""
	}
	return err
}
