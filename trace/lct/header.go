package lct

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// magic is in the header's map, not at the start of the file.
const magic = "LMCT"

// formatVersion is the only format_version there has ever been.
const formatVersion = 1

// parseHeader reads frame 0 of data, a whole file, and checks the versions in
// it. next is the offset of the frame behind it; path is for messages.
//
// Source: reference lct-v1.md, section 1.7: order of the checks and messages.
func parseHeader(data []byte, path string) (h trace.Header, next int, err error) {
	switch {
	case len(data) == 0:
		return h, 0, errors.New("unexpected EOF reading frame length")
	case len(data) < prefixSize:
		return h, 0, errors.New("truncated frame length prefix at offset 0")
	}
	size := frameSize(data)
	if len(data)-prefixSize < size {
		return h, 0, fmt.Errorf("truncated frame body at offset %d (got %d of %d)", prefixSize, len(data)-prefixSize, size)
	}
	next = prefixSize + size
	var v [numHeaderFields]fieldValue
	if err := scanStruct(data[prefixSize:next], "header", headerFields, v[:]); err != nil {
		return h, 0, err
	}
	if m := v[hdrMagic].raw; string(m) != magic {
		return h, 0, fmt.Errorf("trace file %s: bad magic (got %s, expected b'%s')", pyfmt.Repr(path), pyReprBytes(m), magic)
	}
	if f := v[hdrFormat].num; f.big || f.i != formatVersion {
		return h, 0, fmt.Errorf("trace file %s: unsupported format_version %v (this build reads 1)", pyfmt.Repr(path), f)
	}
	if s := v[hdrSchema].num; s.big || s.i != 1 && s.i != 2 {
		return h, 0, fmt.Errorf("trace file %s: unsupported trace_schema_version %v (this build reads 1 and 2)", pyfmt.Repr(path), s)
	}
	h = trace.Header{
		FormatVersion: formatVersion,
		SchemaVersion: int(v[hdrSchema].num.i),
		Level:         trace.Level(v[hdrLevel].raw),
		MonoStartNS:   secondsToNS(v[hdrMono].num.f),
		WallStartNS:   secondsToNS(v[hdrWall].num.f),
		ConfigJSON:    string(v[hdrConfig].raw),
		ConfigDigest:  string(v[hdrDigest].raw),
	}
	h.LevelMeta, err = levelMeta(v[hdrMeta].raw)
	return h, next, err
}

// levelMeta reads the encoded map of the field level_meta; nil if there is none.
func levelMeta(b []byte) (meta []trace.LevelMeta, err error) {
	if b == nil {
		return nil, nil
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, err
	}
	for range n {
		var e trace.LevelMeta
		if e.Key, b, err = msgp.ReadStringBytes(b); err != nil {
			return nil, err
		}
		var text strings.Builder
		if msgp.NextType(b) == msgp.StrType {
			e.Value, b, err = msgp.ReadStringBytes(b)
		} else {
			b, err = writePython(&text, b)
			e.Value = text.String()
		}
		if err != nil {
			return nil, err
		}
		meta = append(meta, e)
	}
	// Of a key that is there twice the last value counts, as in a Python dict.
	slices.Reverse(meta)
	slices.SortStableFunc(meta, func(a, b trace.LevelMeta) int { return cmp.Compare(a.Key, b.Key) })
	return slices.CompactFunc(meta, func(a, b trace.LevelMeta) bool { return a.Key == b.Key }), nil
}

// writePython writes the value at the head of b as Python prints it.
func writePython(w *strings.Builder, b []byte) (rest []byte, err error) {
	switch msgp.NextType(b) {
	case msgp.NilType:
		w.WriteString("None")
		return msgp.ReadNilBytes(b)
	case msgp.BoolType:
		v, rest, err := msgp.ReadBoolBytes(b)
		w.WriteString(map[bool]string{false: "False", true: "True"}[v])
		return rest, err
	case msgp.IntType:
		v, rest, err := msgp.ReadInt64Bytes(b)
		w.WriteString(strconv.FormatInt(v, 10))
		return rest, err
	case msgp.UintType:
		v, rest, err := msgp.ReadUint64Bytes(b)
		w.WriteString(strconv.FormatUint(v, 10))
		return rest, err
	case msgp.Float32Type, msgp.Float64Type:
		v, rest, err := msgp.ReadFloat64Bytes(b)
		w.WriteString(pyfmt.Float(v))
		return rest, err
	case msgp.StrType:
		v, rest, err := msgp.ReadStringZC(b)
		w.WriteString(pyfmt.Repr(string(v)))
		return rest, err
	case msgp.BinType:
		v, rest, err := msgp.ReadBytesZC(b)
		w.WriteString(pyReprBytes(v))
		return rest, err
	case msgp.ArrayType:
		n, rest, err := msgp.ReadArrayHeaderBytes(b)
		w.WriteByte('[')
		for i := uint32(0); i < n && err == nil; i++ {
			if i > 0 {
				w.WriteString(", ")
			}
			rest, err = writePython(w, rest)
		}
		w.WriteByte(']')
		return rest, err
	case msgp.MapType:
		n, rest, err := msgp.ReadMapHeaderBytes(b)
		w.WriteByte('{')
		for i := uint32(0); i < n && err == nil; i++ {
			if i > 0 {
				w.WriteString(", ")
			}
			if rest, err = writePython(w, rest); err == nil {
				w.WriteString(": ")
				rest, err = writePython(w, rest)
			}
		}
		w.WriteByte('}')
		return rest, err
	}
	w.WriteString("<ext>")
	return msgp.Skip(b)
}
