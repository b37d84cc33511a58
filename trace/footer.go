package trace

import (
	"encoding/binary"
	"slices"
	"strings"
)

// footer is what a sealed file says of itself: FORMAT.md 4.8.
type footer struct {
	records, dropped, nextSeq uint64
	minMonoNS, maxMonoNS      int64
	ops                       []OpCount // sorted by name
	drops                     []DropRange
	blocks                    []blockEntry
}

func (f *footer) append(b []byte) []byte {
	le := binary.LittleEndian
	for _, v := range []uint64{f.records, f.dropped, f.nextSeq, uint64(len(f.blocks)), uint64(f.minMonoNS), uint64(f.maxMonoNS)} {
		b = le.AppendUint64(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(f.ops)))
	for _, op := range f.ops {
		b = binary.AppendUvarint(appendStr(b, op.Qualname), uint64(op.Count))
	}
	b = binary.AppendUvarint(b, uint64(len(f.drops)))
	for _, d := range f.drops {
		b = binary.AppendUvarint(binary.AppendUvarint(b, d.NextSeq), uint64(d.Count))
		b = binary.AppendVarint(b, d.MonoNS)
	}
	b = binary.AppendUvarint(b, uint64(len(f.blocks)))
	var before blockEntry
	for _, e := range f.blocks {
		b = binary.AppendUvarint(b, uint64(e.offset-before.offset))
		b = binary.AppendVarint(b, e.monoNS-before.monoNS)
		b = binary.AppendVarint(b, int64(e.firstSeq-before.firstSeq))
		b = binary.AppendUvarint(b, e.records)
		before = e
	}
	return b
}

// parse reads the payload of a footer frame.
func (f *footer) parse(payload []byte) error {
	c := cursor{b: payload}
	f.records, f.dropped, f.nextSeq = c.u64(), c.u64(), c.u64()
	blocks := c.u64()
	f.minMonoNS, f.maxMonoNS = int64(c.u64()), int64(c.u64())
	for range c.count(2) {
		f.ops = append(f.ops, OpCount{string(c.str()), int64(c.uv())})
	}
	for range c.count(3) {
		f.drops = append(f.drops, DropRange{c.uv(), int64(c.uv()), c.sv()})
	}
	var e blockEntry
	for range c.count(4) {
		e.offset += int64(c.uv())
		e.monoNS += c.sv()
		e.firstSeq += uint64(c.sv())
		e.records = c.uv()
		f.blocks = append(f.blocks, e)
	}
	if err := c.end(); err != nil {
		return err
	}
	if blocks != uint64(len(f.blocks)) {
		return errShort
	}
	return nil
}

func sortOps(ops []OpCount) {
	slices.SortFunc(ops, func(a, b OpCount) int { return strings.Compare(a.Qualname, b.Qualname) })
}
