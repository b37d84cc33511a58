//lint:file-ignore ST1005 the texts are LMCache's

package lct

import (
	"fmt"
	"unicode/utf8"
)

// field is a member of one of the two structs that frames hold.
type field struct {
	name     string
	kind     kind // kindFloat takes ints also
	optional bool
}

var (
	headerFields = []field{
		{"magic", kindBin, false}, {"format_version", kindInt, false}, {"level", kindStr, false},
		{"trace_schema_version", kindInt, false}, {"t_mono_start", kindFloat, false}, {"t_wall_start", kindFloat, false},
		{"sm_config_json", kindStr, false}, {"sm_config_digest", kindStr, false}, {"level_meta", kindMap, true},
	}
	recordFields = []field{
		{"t_mono", kindFloat, false}, {"t_wall", kindFloat, false}, {"qualname", kindStr, false}, {"args", kindMap, false},
	}
)

// Indexes into headerFields and recordFields.
const (
	hdrMagic = iota
	hdrFormat
	hdrLevel
	hdrSchema
	hdrMono
	hdrWall
	hdrConfig
	hdrDigest
	hdrMeta
	numHeaderFields

	recMono     = 0
	recWall     = 1
	recQualname = 2
	recArgs     = 3
)

// fieldValue is what a field holds: num for ints and floats, raw for str and
// bin (the bytes) and map (the encoded map). raw points into the frame.
type fieldValue struct {
	num number
	raw []byte
	set bool
}

var fieldTypes = [...]string{kindInt: "int", kindFloat: "float", kindStr: "str", kindBin: "bytes", kindMap: "object"}

// scanStruct checks that the frame body b is the struct that tag and fields
// describe, and stores the values of its fields. Keys may come in any order and
// twice; those it does not know are passed over.
//
// Source: reference lct-v1.md, section 1.6.
func scanStruct(b []byte, tag string, fields []field, values []fieldValue) error {
	clear(values)
	s := scanner{b: b}
	at := s.pos
	h, n, err := s.next()
	switch {
	case err != nil:
		return err
	case h.kind == kindInvalid:
		return s.badOpcode(at)
	case h.kind != kindMap:
		if err := s.scalar(h, n); err != nil {
			return err
		}
		return fmt.Errorf("Expected `object`, got `%s`", kindNames[h.kind])
	}
	guess := 0
	for range n {
		key, err := s.name()
		if err != nil {
			return inKey(err)
		}
		if string(key) == "type" {
			if err := s.tag(tag); err != nil {
				return within(err, ".type")
			}
			continue
		}
		i := findField(fields, key, guess)
		if i < 0 {
			if err := s.skip(1); err != nil {
				return err
			}
			continue
		}
		guess = i + 1
		if err := s.field(fields[i].kind, &values[i]); err != nil {
			return within(err, "."+fields[i].name)
		}
		values[i].set = true
	}
	for i, f := range fields {
		if !values[i].set && !f.optional {
			return fmt.Errorf("Object missing required field `%s`", f.name)
		}
	}
	if s.pos != len(b) {
		return s.malformed("trailing characters", s.pos)
	}
	return nil
}

// findField returns the index of the field called name, -1 if there is none.
// The fields usually come in order: guess is tried first.
func findField(fields []field, name []byte, guess int) int {
	if guess < len(fields) && fields[guess].name == string(name) {
		return guess
	}
	for i := range fields {
		if fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// name reads the name of a field, or the struct's tag. Upstream compares the
// bytes: they need not be UTF-8.
func (s *scanner) name() ([]byte, error) {
	if s.pos >= len(s.b) {
		return nil, errTruncated
	}
	switch h := heads[s.b[s.pos]]; h.kind {
	case kindStr:
		_, n, err := s.next()
		if err != nil {
			return nil, err
		}
		return s.take(n)
	case kindNil: // called None in all other places
		return nil, expected("str", "null")
	default:
		return nil, expected("str", kindNames[h.kind])
	}
}

// tag reads the value of "type", which must be want.
func (s *scanner) tag(want string) error {
	got, err := s.name()
	if err != nil || string(got) == want {
		return err
	}
	if !utf8.Valid(got) {
		return utf8Error(got)
	}
	return &pathError{err: fmt.Errorf("Invalid value '%s'", got)}
}

// field reads the value of a field.
func (s *scanner) field(want kind, v *fieldValue) error {
	at := s.pos
	h, n, err := s.next()
	if err != nil {
		return err
	}
	if h.kind == kindInvalid {
		return s.badOpcode(at)
	}
	if h.kind != want && !(want == kindFloat && h.kind == kindInt) {
		if err := s.scalar(h, n); err != nil {
			return err
		}
		return expected(fieldTypes[want], kindNames[h.kind])
	}
	switch want {
	case kindInt, kindFloat:
		v.num, err = s.number(n)
		return err
	case kindMap:
		if err := s.strMap(n); err != nil {
			return err
		}
		v.raw = s.b[at:s.pos]
		return nil
	}
	if v.raw, err = s.take(n); err != nil {
		return err
	}
	if want == kindStr && !utf8.Valid(v.raw) {
		return utf8Error(v.raw)
	}
	return nil
}

// scalar passes over the content of a value of the wrong type: upstream
// notices a cut-off scalar before it notices the type.
func (s *scanner) scalar(h head, n int) error {
	switch h.kind {
	case kindArray, kindMap:
		return nil
	case kindExt:
		n++
	}
	_, err := s.take(n)
	return err
}

// strMap checks the n entries of a map whose keys must be strings.
func (s *scanner) strMap(n int) error {
	for range n {
		at := s.pos
		h, n, err := s.next()
		if err != nil {
			return err
		}
		if h.kind == kindInvalid {
			return s.badOpcode(at)
		}
		if h.kind != kindStr {
			if err := s.scalar(h, n); err != nil {
				return err
			}
			return inKey(expected("str", kindNames[h.kind]))
		}
		key, err := s.take(n)
		if err != nil {
			return err
		}
		if !utf8.Valid(key) {
			return utf8Error(key)
		}
		if err := s.value(2); err != nil {
			return within(err, "[...]")
		}
	}
	return nil
}

// rawRecord is what a record frame holds, args still encoded.
type rawRecord struct {
	monoS, wallS float64 // seconds
	qualname     []byte
	args         []byte // an encoded map with string keys
}

// scanRecord checks that b is a record.
func scanRecord(b []byte, r *rawRecord) error {
	var v [4]fieldValue
	if err := scanStruct(b, "record", recordFields, v[:]); err != nil {
		return err
	}
	*r = rawRecord{monoS: v[recMono].num.f, wallS: v[recWall].num.f, qualname: v[recQualname].raw, args: v[recArgs].raw}
	return nil
}
