package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	errShort  = errors.New("payload ends too early")
	errVarint = errors.New("varint longer than 64 bits")
)

// cursor takes values from the front of a payload. The first failure sticks:
// after it everything is zero, so that callers check once.
type cursor struct {
	b   []byte // what is left
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

func (c *cursor) u8() uint8 {
	if len(c.b) == 0 {
		c.fail(errShort)
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) uv() uint64 {
	if len(c.b) > 0 && c.b[0] < 0x80 {
		v := c.b[0]
		c.b = c.b[1:]
		return uint64(v)
	}
	if len(c.b) > 1 && c.b[1] < 0x80 {
		v := uint64(c.b[0]&0x7f) | uint64(c.b[1])<<7
		c.b = c.b[2:]
		return v
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		if n < 0 {
			c.fail(errVarint)
		} else {
			c.fail(errShort)
		}
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) sv() int64 {
	v := c.uv()
	return int64(v>>1) ^ -int64(v&1)
}

func (c *cursor) u64() uint64 {
	b := c.bytes(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// bytes returns the next n bytes, nil after a failure.
func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.fail(errShort)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// str returns a str; it points into the payload.
func (c *cursor) str() []byte { return c.bytes(c.uv()) }

// count returns a number of things that follow, each of at least least bytes, so
// that memory for them is never more than the payload warrants.
func (c *cursor) count(least int) int {
	n := c.uv()
	if n > uint64(len(c.b)/least) {
		c.fail(fmt.Errorf("%d entries of at least %d bytes in %d bytes", n, least, len(c.b)))
		return 0
	}
	return int(n)
}

// end fails if anything is left.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(fmt.Errorf("%d bytes left over", len(c.b)))
	}
	return c.err
}

func appendStr(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
