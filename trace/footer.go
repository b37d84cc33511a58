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

	// What follows the index, if anything does.
	timed        bool // the times in blocks are known
	lostOutcomes uint64
	outcomes     []OutcomeTotal // sorted by name
	drift        clockDrift
}

// clockDrift is the largest difference to the system's clock that the recorder
// has found; 0 is not known, else 1 ns more.
type clockDrift uint64

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
	if !f.timed {
		return b
	}
	for _, e := range f.blocks {
		if e.records == 0 {
			e.minMonoNS, e.maxMonoNS = e.monoNS, e.monoNS
		}
		b = binary.AppendVarint(b, e.minMonoNS-e.monoNS)
		b = binary.AppendUvarint(b, uint64(e.maxMonoNS-e.minMonoNS))
	}
	b = binary.AppendUvarint(b, f.lostOutcomes)
	b = binary.AppendUvarint(b, uint64(len(f.outcomes)))
	for _, t := range f.outcomes {
		b = appendStr(b, t.Qualname)
		b = binary.AppendUvarint(b, uint64(t.Outcomes))
		b = binary.AppendUvarint(b, uint64(t.Failed))
		b = binary.AppendUvarint(b, uint64(t.DurationNS))
		b = binary.AppendUvarint(b, uint64(len(t.Counts)))
		for _, c := range t.Counts {
			b = binary.AppendUvarint(appendStr(b, c.Name), uint64(c.Keys))
		}
	}
	if f.drift > 0 {
		b = binary.AppendUvarint(b, uint64(f.drift))
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
	if len(c.b) > 0 {
		f.parseMore(&c)
	}
	if err := c.end(); err != nil {
		return err
	}
	if blocks != uint64(len(f.blocks)) {
		return errShort
	}
	return nil
}

// parseMore reads what follows the index.
func (f *footer) parseMore(c *cursor) {
	f.timed = true
	for i := range f.blocks {
		e := &f.blocks[i]
		least := e.monoNS + c.sv()
		span := c.uv()
		if most := least + int64(span); e.records > 0 {
			e.minMonoNS, e.maxMonoNS = least, most
		}
	}
	f.lostOutcomes = c.uv()
	for range c.count(5) {
		t := OutcomeTotal{Qualname: string(c.str()), Outcomes: int64(c.uv()), Failed: int64(c.uv()), DurationNS: int64(c.uv())}
		for range c.count(2) {
			t.Counts = append(t.Counts, NamedCount{string(c.str()), int64(c.uv())})
		}
		f.outcomes = append(f.outcomes, t)
	}
	if len(c.b) > 0 {
		f.drift = clockDrift(c.uv())
	}
}

func sortOps(ops []OpCount) {
	slices.SortFunc(ops, func(a, b OpCount) int { return strings.Compare(a.Qualname, b.Qualname) })
}
