package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// Values are read as LMCache's decoder reads them: a text is a str of valid
// UTF-8, bytes are a bin, an integer is no bool, unknown fields of a map are
// skipped.

var (
	errUTF8  = errors.New("text that is not UTF-8")
	errRange = errors.New("integer out of range")
	errShort = errors.New("array longer than its bytes")
)

func readText(b []byte) (string, []byte, error) {
	s, rest, err := msgp.ReadStringZC(b)
	if err != nil {
		return "", b, err
	}
	if !utf8.Valid(s) {
		return "", b, errUTF8
	}
	return string(s), rest, nil
}

func readInt(b []byte) (int, []byte, error) {
	n, rest, err := msgp.ReadInt64Bytes(b)
	if err == nil && (n > math.MaxInt || n < math.MinInt) {
		return 0, b, errRange
	}
	return int(n), rest, err
}

// readMaybeInt reads an integer or nil.
func readMaybeInt(b []byte) (n int64, known bool, rest []byte, err error) {
	if msgp.IsNil(b) {
		return 0, false, b[1:], nil
	}
	n, rest, err = msgp.ReadInt64Bytes(b)
	return n, true, rest, err
}

// readFlag reads a bool, or an integer in its place.
func readFlag(b []byte) (bool, []byte, error) {
	if msgp.NextType(b) == msgp.BoolType {
		return msgp.ReadBoolBytes(b)
	}
	n, rest, err := msgp.ReadInt64Bytes(b)
	return n != 0, rest, err
}

func readNumber(b []byte) (float64, []byte, error) {
	switch msgp.NextType(b) {
	case msgp.Float64Type:
		return msgp.ReadFloat64Bytes(b)
	case msgp.Float32Type:
		f, rest, err := msgp.ReadFloat32Bytes(b)
		return float64(f), rest, err
	}
	n, rest, err := msgp.ReadInt64Bytes(b)
	return float64(n), rest, err
}

// readArray reads the length of an array, each entry of which takes at least
// least bytes: an announced length costs its sender as many.
func readArray(b []byte, least int) (int, []byte, error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return 0, b, err
	}
	if uint64(n)*uint64(least) > uint64(len(rest)) {
		return 0, b, errShort
	}
	return int(n), rest, nil
}

// readTokens reads an array of token numbers. It is most of what a lookup costs
// to decode, so the forms that encoders choose are read here.
func readTokens(b []byte) ([]uint32, []byte, error) {
	n, b, err := readArray(b, 1)
	if err != nil || n == 0 {
		return nil, b, err
	}
	tokens := make([]uint32, n)
	for i := range tokens {
		switch {
		case len(b) >= 1 && b[0] < 0x80:
			tokens[i] = uint32(b[0])
			b = b[1:]
		case len(b) >= 3 && b[0] == 0xcd:
			tokens[i] = uint32(binary.BigEndian.Uint16(b[1:]))
			b = b[3:]
		case len(b) >= 5 && b[0] == 0xce:
			tokens[i] = binary.BigEndian.Uint32(b[1:])
			b = b[5:]
		default:
			if tokens[i], b, err = msgp.ReadUint32Bytes(b); err != nil {
				return nil, b, err
			}
		}
	}
	return tokens, b, nil
}

func appendTokens(b []byte, tokens []uint32) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(tokens)))
	for _, t := range tokens {
		switch {
		case t < 0x80:
			b = append(b, byte(t))
		case t <= math.MaxUint8:
			b = append(b, 0xcc, byte(t))
		case t <= math.MaxUint16:
			b = append(b, 0xcd, byte(t>>8), byte(t))
		default:
			b = append(b, 0xce, byte(t>>24), byte(t>>16), byte(t>>8), byte(t))
		}
	}
	return b
}

func readInts(b []byte) ([]int64, []byte, error) {
	n, b, err := readArray(b, 1)
	if err != nil || n == 0 {
		return nil, b, err
	}
	list := make([]int64, n)
	for i := range list {
		if list[i], b, err = msgp.ReadInt64Bytes(b); err != nil {
			return nil, b, err
		}
	}
	return list, b, nil
}

func appendInts[T ~int | ~int64](b []byte, list []T) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(list)))
	for _, n := range list {
		b = appendInt(b, n)
	}
	return b
}

// readFields reads a map. field gets the name of each entry and what follows,
// and returns what is behind the entry's value; for a name that it does not know
// it returns unknown.
func readFields(b []byte, field func(name []byte, b []byte) (rest []byte, err error)) ([]byte, error) {
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return b, err
	}
	for range n {
		name, rest, err := msgp.ReadStringZC(b)
		if err != nil {
			return b, err
		}
		b, err = field(name, rest)
		if err == errUnknownField {
			b, err = msgp.Skip(rest)
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

var errUnknownField = errors.New("unknown field")

// appendInt appends n in the shortest form, which LMCache's encoder chooses.
func appendInt[T ~int | ~int64](b []byte, n T) []byte {
	if n >= 0 {
		return msgp.AppendUint64(b, uint64(n))
	}
	return msgp.AppendInt64(b, int64(n))
}
