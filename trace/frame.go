package trace

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// FORMAT.md, section 3.
const (
	frameHeaderSize = 32
	maxPayload      = 64 << 20 // bytes
)

// kind says what a frame is.
type kind uint8

const (
	kindBlock   kind = 1
	kindOp      kind = 2
	kindScope   kind = 3
	kindLayout  kind = 4
	kindPattern kind = 5
	kindCall    kind = 16
	kindOutcome kind = 17
	kindDrops   kind = 32
	kindFooter  kind = 48
)

// The bits of a frame's flags.
const (
	flagNodes     = 1 << 0
	flagExtension = 1 << 1
	flagsUnknown  = 1<<2 | 1<<3
	blockShift    = 4 // the low bits of the block number are above
)

// frameHeader is the fixed part of a frame.
type frameHeader struct {
	length   uint32 // of the payload, without padding
	op       uint16
	kind     kind
	flags    uint8
	monoNS   int64
	wallNS   int64
	checksum uint64
}

// size returns the bytes from this frame to the next.
func (h *frameHeader) size() int64 { return frameSize(int(h.length)) }

// frameSize returns the bytes that a frame with n bytes of payload takes.
func frameSize(n int) int64 { return frameHeaderSize + (int64(n)+7)&^7 }

// block returns the low four bits of the number of the frame's block.
func (h *frameHeader) block() uint64 { return uint64(h.flags >> blockShift) }

// put writes everything but the checksum to b[:24].
func (h *frameHeader) put(b []byte) {
	_ = b[23]
	binary.LittleEndian.PutUint32(b, h.length)
	binary.LittleEndian.PutUint16(b[4:], h.op)
	b[6] = uint8(h.kind)
	b[7] = h.flags
	binary.LittleEndian.PutUint64(b[8:], uint64(h.monoNS))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.wallNS))
}

func (h *frameHeader) parse(b []byte) {
	_ = b[31]
	h.length = binary.LittleEndian.Uint32(b)
	h.op = binary.LittleEndian.Uint16(b[4:])
	h.kind = kind(b[6])
	h.flags = b[7]
	h.monoNS = int64(binary.LittleEndian.Uint64(b[8:]))
	h.wallNS = int64(binary.LittleEndian.Uint64(b[16:]))
	h.checksum = binary.LittleEndian.Uint64(b[24:])
}

// frameHasher computes checksums of frames that lie in one piece. The zero
// value is ready.
type frameHasher struct {
	joined [256]byte // a short frame without its checksum
	digest *xxhash.Digest
}

// sum returns the checksum of the whole frame b, padding included: XXH64 of all
// but the checksum itself. The one-shot hash of a copy is faster than the
// streaming one up to about the size of joined.
func (s *frameHasher) sum(b []byte) uint64 {
	if n := len(b) - 8; n <= len(s.joined) {
		copy(s.joined[:24], b)
		copy(s.joined[24:], b[frameHeaderSize:])
		return xxhash.Sum64(s.joined[:n])
	}
	if s.digest == nil {
		s.digest = xxhash.New()
	}
	s.digest.Reset()
	s.digest.Write(b[:24])
	s.digest.Write(b[frameHeaderSize:])
	return s.digest.Sum64()
}

// check compares the checksum of the whole frame b with the one in it.
func (s *frameHasher) check(b []byte) error {
	if got, want := s.sum(b), binary.LittleEndian.Uint64(b[24:]); got != want {
		return fmt.Errorf("computed %016x, file has %016x", got, want)
	}
	return nil
}

// checkInPlace is check for a frame that may be changed: it closes the gap of
// the checksum, so that the bytes need no copy. h is the frame's header.
func checkInPlace(h *frameHeader, b []byte) error {
	// Word by word: the hash then loads what the store buffer still holds.
	le := binary.LittleEndian
	w0, w1, w2 := le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	le.PutUint64(b[8:], w0)
	le.PutUint64(b[16:], w1)
	le.PutUint64(b[24:], w2)
	if got := xxhash.Sum64(b[8:]); got != h.checksum {
		return fmt.Errorf("computed %016x, file has %016x", got, h.checksum)
	}
	return nil
}
