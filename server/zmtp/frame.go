package zmtp

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A frame is a byte of flags, its size in one byte or eight, and its body.
const (
	flagMore    = 1 << 0 // another frame of the message follows
	flagLong    = 1 << 1 // the size has eight bytes
	flagCommand = 1 << 2
	flagsKnown  = flagMore | flagLong | flagCommand
)

// parseHeader returns the flags and the size of the frame that begins at b, and
// the bytes that its header takes: 0 if b does not hold all of it.
func parseHeader(b []byte) (flags byte, size uint64, n int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, nil
	}
	flags = b[0]
	switch {
	case flags&^flagsKnown != 0:
		return 0, 0, 0, &ProtocolError{fmt.Sprintf("frame with flags %#02x", flags)}
	case flags&flagCommand != 0 && flags&flagMore != 0:
		return 0, 0, 0, &ProtocolError{"command of several frames"}
	case flags&flagLong == 0:
		if len(b) < 2 {
			return 0, 0, 0, nil
		}
		return flags, uint64(b[1]), 2, nil
	case len(b) < 9:
		return 0, 0, 0, nil
	}
	return flags, binary.BigEndian.Uint64(b[1:]), 9, nil
}

func appendHeader(b []byte, flags byte, size int) []byte {
	if size <= math.MaxUint8 {
		return append(b, flags, byte(size))
	}
	return binary.BigEndian.AppendUint64(append(b, flags|flagLong), uint64(size))
}

// appendMessage appends the frames as one message; there is at least one.
func appendMessage(b []byte, frames [][]byte) []byte {
	for i, f := range frames {
		flags := byte(flagMore)
		if i == len(frames)-1 {
			flags = 0
		}
		b = append(appendHeader(b, flags, len(f)), f...)
	}
	return b
}

// messageSize is at least the bytes that appendMessage appends.
func messageSize(frames [][]byte) int {
	n := 0
	for _, f := range frames {
		n += 9 + len(f)
	}
	return n
}
