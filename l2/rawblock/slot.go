package rawblock

import (
	"encoding/binary"
	"hash/crc32"
)

// A slot's header: LMCache's 24 bytes, and at recordAt our record.
//
//	 0  "LMCBLK01", or zeros where the object was deleted
//	 8  u64 identity of the key
//	16  u64 length of the object
//	64  "LMCGSLT1"
//	72  u64 epoch: which filling of the device the slot belongs to
//	80  u64 sequence number: of two slots of one key the higher counts
//	88  u32 CRC-32C of the object
//	92  u32 length of the key; 0 where the object was deleted
//	96  u32 CRC-32C of bytes 0 to 24, 64 to 96, and the key
//	100 the key
const (
	slotMagic   = "LMCBLK01"
	recordMagic = "LMCGSLT1"
	recordAt    = 64
	keyAt       = 100
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// slotHeader is what a header says.
type slotHeader struct {
	Identity uint64
	Length   uint64 // of the object
	Ours     bool   // the fields below are there; else LMCache wrote it
	Epoch    uint64
	Seq      uint64
	CRC      uint32
	Key      string // encoded; empty: deleted
}

// put fills b, a whole header.
func (h *slotHeader) put(b []byte) {
	clear(b)
	le := binary.LittleEndian
	if h.Key != "" {
		copy(b, slotMagic)
		le.PutUint64(b[8:], h.Identity)
		le.PutUint64(b[16:], h.Length)
	}
	copy(b[recordAt:], recordMagic)
	le.PutUint64(b[72:], h.Epoch)
	le.PutUint64(b[80:], h.Seq)
	le.PutUint32(b[88:], h.CRC)
	le.PutUint32(b[92:], uint32(len(h.Key)))
	copy(b[keyAt:], h.Key)
	le.PutUint32(b[96:], recordCRC(b, len(h.Key)))
}

func recordCRC(b []byte, key int) uint32 {
	c := crc32.Update(0, castagnoli, b[:24])
	c = crc32.Update(c, castagnoli, b[recordAt:96])
	return crc32.Update(c, castagnoli, b[keyAt:keyAt+key])
}

// parseSlot reads a header. It fails if the header is neither a whole one of
// ours nor one of LMCache.
func parseSlot(b []byte) (h slotHeader, ok bool) {
	if len(b) < minHeader {
		return h, false
	}
	le := binary.LittleEndian
	isSlot := string(b[:8]) == slotMagic
	if isSlot {
		h.Identity, h.Length = le.Uint64(b[8:]), le.Uint64(b[16:])
	}
	if string(b[recordAt:recordAt+8]) != recordMagic {
		return h, isSlot
	}
	key := le.Uint32(b[92:])
	if key > uint32(len(b)-keyAt) || (key > 0) != isSlot || le.Uint32(b[96:]) != recordCRC(b, int(key)) {
		return slotHeader{}, false
	}
	h.Ours, h.Epoch, h.Seq, h.CRC = true, le.Uint64(b[72:]), le.Uint64(b[80:]), le.Uint32(b[88:])
	h.Key = string(b[keyAt : keyAt+key])
	return h, h.Key == "" || identity(h.Key) == h.Identity
}
