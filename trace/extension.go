package trace

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The tags of a call's extension part, FORMAT.md 4.6.
const (
	extMono  = 1
	extWall  = 2
	extFrame = 3
)

// append appends the extension part of a call: the size, then the entries.
func (x *Extra) append(b []byte) []byte {
	n := 0
	if x.HasMono {
		n += 10
	}
	if x.HasWall {
		n += 10
	}
	if x.Frame != nil {
		n += 1 + uvSize(uint64(len(x.Frame))) + len(x.Frame)
	}
	b = binary.AppendUvarint(b, uint64(n))
	if x.HasMono {
		b = binary.LittleEndian.AppendUint64(append(b, extMono, 8), math.Float64bits(x.MonoS))
	}
	if x.HasWall {
		b = binary.LittleEndian.AppendUint64(append(b, extWall, 8), math.Float64bits(x.WallS))
	}
	if x.Frame != nil {
		b = binary.AppendUvarint(append(b, extFrame), uint64(len(x.Frame)))
		b = append(b, x.Frame...)
	}
	return b
}

func uvSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// parse reads the entries of an extension part; x points into b.
func (x *Extra) parse(b []byte) error {
	*x = Extra{}
	c := cursor{b: b}
	for len(c.b) > 0 {
		tag, value := c.uv(), c.str()
		if c.err != nil {
			return fmt.Errorf("extension: %w", c.err)
		}
		switch tag {
		case extMono, extWall:
			if len(value) != 8 {
				return fmt.Errorf("extension: time of %d bytes", len(value))
			}
			v := math.Float64frombits(binary.LittleEndian.Uint64(value))
			if tag == extMono {
				x.MonoS, x.HasMono = v, true
			} else {
				x.WallS, x.HasWall = v, true
			}
		case extFrame:
			x.Frame = value
		}
	}
	return nil
}
