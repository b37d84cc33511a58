package trace

import (
	"encoding/binary"
	"math"
)

// SeekTime limits the reading to the blocks that may have records whose t_mono is
// within [fromNS, toNS], and returns how many records are before the first of
// them. Next then gives all of their records, also those of other times: within a
// block a reader needs what came before, and times need not grow.
//
// It takes the times from the footer; in a file without one it hops over the
// frames. What a recorder writes from now on is left out where that is later than
// toNS. Damage before the first block goes unnoticed. It may be called at any
// time, unless the reading ended with an error.
func (r *NativeReader) SeekTime(fromNS, toNS int64) (records int64, err error) {
	if r.err != nil {
		return 0, r.err
	}
	var index timeIndex
	if ft := r.footer(); ft != nil && ft.timed {
		index = timeIndex{blocks: ft.blocks, end: r.counters.footer, all: true}
	} else if err := r.guard(func() { index.scan(r) }); err != nil {
		return 0, r.named(err)
	}
	first := index.first(fromNS)
	for _, e := range index.blocks[:first] {
		records += int64(e.records)
	}
	r.off, r.stop = index.offset(first, r.body), index.offset(max(index.stop(toNS), first), math.MaxInt64)
	r.op, r.sealed, r.tables.valid, r.tables.lost, r.win = nil, false, false, 0, nil
	return records, nil
}

// timeIndex knows the times in each block.
type timeIndex struct {
	blocks []blockEntry
	end    int64 // offset behind the last block, if all are known
	all    bool
}

// first returns the number of the first block with a record at fromNS or later. In
// a file with damage, or without a footer, that is the last one at most: what is
// behind it is not known.
func (x *timeIndex) first(fromNS int64) int {
	for i, e := range x.blocks {
		if e.records > 0 && e.maxMonoNS >= fromNS {
			return i
		}
	}
	if x.all {
		return len(x.blocks)
	}
	return max(len(x.blocks)-1, 0)
}

// stop returns the number of the block from which on no record is at toNS or
// earlier.
func (x *timeIndex) stop(toNS int64) int {
	n := len(x.blocks)
	for n > 0 && (x.blocks[n-1].records == 0 || x.blocks[n-1].minMonoNS > toNS) {
		n--
	}
	return n
}

// offset returns where block i starts, for the one behind the last where they end,
// other if that is not known.
func (x *timeIndex) offset(i int, other int64) int64 {
	switch {
	case i < len(x.blocks):
		return x.blocks[i].offset
	case x.all:
		return x.end
	}
	return other
}

// scan hops from frame to frame, up to the first that is not whole.
func (x *timeIndex) scan(r *NativeReader) {
	data, off := r.data, r.body
	var e *blockEntry
	for off+frameHeaderSize < int64(len(data)) {
		length := binary.LittleEndian.Uint32(data[off:])
		next := off + frameSize(int(length))
		if length-1 >= maxPayload || next > int64(len(data)) {
			return
		}
		switch kind(data[off+6]) {
		case kindBlock:
			var s blockStart
			if s.parse(data[off+frameHeaderSize:next], off) != nil {
				return
			}
			x.blocks = append(x.blocks, blockEntry{offset: off, firstSeq: s.firstSeq})
			e = &x.blocks[len(x.blocks)-1]
		case kindCall:
			if e == nil {
				return
			}
			t := int64(binary.LittleEndian.Uint64(data[off+8:]))
			if e.records == 0 {
				e.minMonoNS, e.maxMonoNS = t, t
			}
			e.records++
			e.minMonoNS, e.maxMonoNS = min(e.minMonoNS, t), max(e.maxMonoNS, t)
		case kindFooter:
			x.end, x.all = off, true
			return
		}
		off = next
	}
}
