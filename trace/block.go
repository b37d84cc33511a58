package trace

import (
	"encoding/binary"
	"fmt"
)

// blockMagic opens the payload of a block start: FORMAT.md 4.1.
const blockMagic = "LMCTBLCK"

const blockStartSize = 56

// blockStart is the payload of a block's first frame.
type blockStart struct {
	number   uint64
	offset   int64 // of its own frame
	previous int64 // offset of the block before, 0 if none
	firstSeq uint64
	records  uint64 // in all blocks before
	dropped  uint64 // noted in all blocks before
}

func (s *blockStart) append(b []byte) []byte {
	b = append(b, blockMagic...)
	for _, v := range []uint64{s.number, uint64(s.offset), uint64(s.previous), s.firstSeq, s.records, s.dropped} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// parse reads the payload of the block start at offset.
func (s *blockStart) parse(payload []byte, offset int64) error {
	if len(payload) < blockStartSize {
		return errShort
	}
	if string(payload[:8]) != blockMagic {
		return fmt.Errorf("bad magic %q", payload[:8])
	}
	c := cursor{b: payload[8:blockStartSize]}
	s.number, s.offset, s.previous = c.u64(), int64(c.u64()), int64(c.u64())
	s.firstSeq, s.records, s.dropped = c.u64(), c.u64(), c.u64()
	if s.offset != offset {
		return fmt.Errorf("it says that it is at offset %d", s.offset)
	}
	return nil
}
