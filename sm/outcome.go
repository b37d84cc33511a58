package sm

import (
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/trace"
)

// outcomeBits is memory for the bitmaps of a traced outcome. It stays on the
// caller's stack, unless there are more keys than most calls have.
type outcomeBits [16]uint64

// bits returns n bits, all clear; the memory is b's where they fit.
func (b *outcomeBits) bits(n int) trace.Bits {
	words := b[:]
	if n > 64*len(b) {
		words = make([]uint64, (n+63)/64)
	}
	return trace.Bits{Words: words[:(n+63)/64], N: n}
}

func countSuccess(codes []l1.Code) (n int) {
	for _, c := range codes {
		if c == l1.Success {
			n++
		}
	}
	return n
}

// traceReservation records what came of a ReserveWrite: which keys were
// reserved.
func (m *Manager) traceReservation(call tracedCall, results []l1.WriteResult) {
	var mem outcomeBits
	o := trace.Outcome{Bits: [trace.MaxOutcomeBits]trace.Bits{mem.bits(len(results))}}
	for i := range results {
		switch results[i].Code {
		case l1.Success:
			o.Counts[0]++
			o.Bits[0].Words[i/64] |= 1 << (i % 64)
		case l1.OutOfMemory:
			o.Counts[2]++
		default:
			o.Counts[1]++
		}
	}
	m.tracer.Outcome(call, &o)
}

// traceCodes records what came of a call that has one code a key: which
// succeeded. freed is the operation's third count.
func (m *Manager) traceCodes(call tracedCall, codes []l1.Code, freed int) {
	var mem outcomeBits
	o := trace.Outcome{Bits: [trace.MaxOutcomeBits]trace.Bits{mem.bits(len(codes))}}
	for i, c := range codes {
		if c == l1.Success {
			o.Counts[0]++
			o.Bits[0].Words[i/64] |= 1 << (i % 64)
		}
	}
	o.Counts[1], o.Counts[2] = uint32(len(codes))-o.Counts[0], uint32(freed)
	m.tracer.Outcome(call, &o)
}

// traceResult records what the prefetch found: which cells were hits in L1, and
// which were loaded.
func (p *prefetch) traceResult(res *PrefetchResult) {
	var mem [2]outcomeBits
	n := p.grid.cells()
	o := trace.Outcome{
		Counts: [trace.MaxCounts]uint32{uint32(res.L1Hits), uint32(res.L2Hits), uint32(n - res.L1Hits - res.L2Hits)},
		Bits:   [trace.MaxOutcomeBits]trace.Bits{mem[0].bits(n), mem[1].bits(n)},
	}
	for row := range res.Rows {
		for col := range p.grid.cols {
			c := row*p.grid.cols + col
			if res.Rows[row].L1.Test(col) {
				o.Bits[0].Words[c/64] |= 1 << (c % 64)
			} else if res.Rows[row].L2.Test(col) {
				o.Bits[1].Words[c/64] |= 1 << (c % 64)
			}
		}
	}
	p.m.tracer.Outcome(p.call, &o)
}
