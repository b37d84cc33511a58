package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// SummarizeNative counts what the native trace file at path holds: from its
// footer at once if it is sealed, else by hopping over its frames, which checks
// lengths but neither checksums nor arguments. Damage that ends the counting is
// in the summary and goes to warn, which may be nil, as do lesser complaints.
func SummarizeNative(path string, warn func(string)) (*Summary, error) {
	r, err := OpenNative(path, warn)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Summarize()
}

// Summarize counts the whole file, wherever the reader stands in it, and leaves
// it there.
func (r *NativeReader) Summarize() (*Summary, error) {
	s := &Summary{Header: *r.header}
	if ft := r.footer(); ft != nil {
		s.fromFooter(ft, r.counters.end)
		return s, nil
	}
	var scan preScan
	if err := r.guard(func() { scan.run(r) }); err != nil {
		return nil, r.named(err)
	}
	if scan.damage == nil && !scan.sealed {
		scan.damage = r.tail(scan.end)
	}
	scan.summarize(s)
	if r.counted && r.counters.dropped < math.MaxInt64 {
		s.Dropped = max(s.Dropped, int64(r.counters.dropped)) // where there was no room for a notice
	}
	if scan.damage != nil {
		s.Damage = r.named(scan.damage)
		if r.warn != nil {
			r.warn(s.Damage.Error())
		}
	}
	return s, nil
}

// footer returns the footer of a sealed file, nil if there is none to rely on.
func (r *NativeReader) footer() (ft *footer) {
	if !r.counted || r.counters.footer == 0 {
		return nil
	}
	err := r.guard(func() { ft = r.footerAt(r.counters.footer) })
	if err != nil || ft == nil {
		r.warnf("no footer at offset %d, where the header says: counting instead", r.counters.footer)
		return nil
	}
	return ft
}

func (r *NativeReader) footerAt(at int64) *footer {
	if at%8 != 0 || at < r.body || at > int64(len(r.data))-frameHeaderSize {
		return nil
	}
	var h frameHeader
	if h.parse(r.data[at:]); h.kind != kindFooter || h.length == 0 || h.length > maxPayload || h.size() > int64(len(r.data))-at {
		return nil
	}
	frame := r.data[at : at+h.size()]
	if r.hasher.check(frame) != nil {
		return nil
	}
	ft := new(footer)
	if ft.parse(frame[frameHeaderSize:frameHeaderSize+int(h.length)]) != nil {
		return nil
	}
	return ft
}

func (s *Summary) fromFooter(ft *footer, end int64) {
	s.Sealed = true
	s.Records, s.Ops = int64(ft.records), ft.ops
	s.DurationS = max(0, float64(ft.maxMonoNS)/1e9)
	s.Blocks, s.Bytes = int64(len(ft.blocks)), end
	s.Dropped, s.DropRanges = int64(ft.dropped), ft.drops
	s.Lost = lost(ft.nextSeq, ft.records)
	if ft.drift > 0 {
		s.ClockDriftKnown, s.ClockDrift = true, time.Duration(min(ft.drift-1, math.MaxInt64))
	}
	s.OutcomeTotals, s.LostOutcomes = ft.outcomes, int64(ft.lostOutcomes)
	for i := range ft.outcomes {
		s.Outcomes += ft.outcomes[i].Outcomes
	}
}

// lost returns how many of next sequence numbers have no record.
func lost(next, records uint64) int64 {
	if next < records || next-records > math.MaxInt64 {
		return 0 // numbers that repeat: nothing can be said
	}
	return int64(next - records)
}

// preScan hops from frame header to frame header.
type preScan struct {
	counts   []int64 // by the file's operation number, under its present name
	names    []string
	totals   map[string]int64 // under names that another block gave away
	records  int64
	blocks   int64
	firstSeq uint64 // of the present block
	nextSeq  uint64
	maxMono  int64
	dropped  uint64
	drops    []DropRange
	outcomes int64
	end      int64
	sealed   bool
	damage   *CorruptError
}

// run scans the file of r. It is a loop over one cache line a frame: what is
// rare is elsewhere.
func (s *preScan) run(r *NativeReader) {
	data, off := r.data, r.body
	le := binary.LittleEndian
	s.counts, s.names = make([]int64, 64), make([]string, 64)
	for {
		if off+frameHeaderSize >= int64(len(data)) {
			break
		}
		h := data[off : off+frameHeaderSize+1 : len(data)]
		length := le.Uint32(h)
		next := off + frameSize(int(length))
		if length-1 >= maxPayload || next > int64(len(data)) {
			break
		}
		if kind(h[6]) != kindCall {
			if kind(h[6]) == kindOutcome {
				s.outcomes++
				off = next
				continue
			}
			if s.rare(data[off:next], off); s.damage != nil || s.sealed {
				if s.sealed {
					off = next
				}
				break
			}
			off = next
			continue
		}
		op := int(le.Uint16(h[4:]))
		if op >= len(s.counts) {
			s.grow(op)
		}
		s.counts[op]++
		s.maxMono = max(s.maxMono, int64(le.Uint64(h[8:])))
		seq := uint64(h[frameHeaderSize]) // a short varint, mostly
		if seq >= 0x80 {
			seq, _ = binary.Uvarint(data[off+frameHeaderSize : next])
		}
		s.nextSeq = max(s.nextSeq, s.firstSeq+uint64(int64(seq>>1)^-int64(seq&1))+1)
		off = next
	}
	s.end = off
}

// tail asks the reader's rules what it means that there is no frame at off.
func (r *NativeReader) tail(off int64) *CorruptError {
	probe := *r
	probe.off, probe.err, probe.warned = off, nil, -1
	probe.win, probe.winOff, probe.buffer = nil, off, nil
	var h frameHeader
	probe.frame(&h)
	var damage *CorruptError
	if errors.As(probe.err, &damage) {
		return damage
	}
	return nil
}

// rare takes in the frame at off that is no call.
func (s *preScan) rare(frame []byte, off int64) {
	var h frameHeader
	h.parse(frame)
	payload := frame[frameHeaderSize : frameHeaderSize+int(h.length)]
	c := cursor{b: payload}
	switch h.kind {
	case kindBlock:
		var start blockStart
		if err := start.parse(payload, off); err != nil {
			s.damage = &CorruptError{off, "block", err}
			return
		}
		s.blocks++
		s.firstSeq = start.firstSeq
	case kindOp:
		name := string(c.str())
		if c.err != nil {
			s.damage = &CorruptError{off, "definition", c.err}
			return
		}
		s.grow(int(h.op))
		if s.names[h.op] != name {
			s.settle(int(h.op))
			s.names[h.op] = name
		}
	case kindDrops:
		next, n, total := s.firstSeq+uint64(c.sv()), c.uv(), c.uv()
		if c.err != nil {
			s.damage = &CorruptError{off, "definition", c.err}
			return
		}
		s.dropped = total
		s.drops = addDropRange(s.drops, DropRange{next, int64(n), h.monoNS})
	case kindFooter:
		s.sealed = true
	}
}

func (s *preScan) grow(op int) {
	if n := op + 1 - len(s.counts); n > 0 {
		s.counts = append(s.counts, make([]int64, n)...)
		s.names = append(s.names, make([]string, n)...)
	}
}

// settle books the count of op under its present name.
func (s *preScan) settle(op int) {
	if s.counts[op] == 0 {
		return
	}
	if s.totals == nil {
		s.totals = map[string]int64{}
	}
	name := s.names[op]
	if name == "" {
		name = fmt.Sprintf("(operation %d)", op)
	}
	s.totals[name] += s.counts[op]
	s.records += s.counts[op]
	s.counts[op] = 0
}

func (s *preScan) summarize(sum *Summary) {
	for op := range s.counts {
		s.settle(op)
	}
	for name, n := range s.totals {
		sum.Ops = append(sum.Ops, OpCount{name, n})
	}
	sortOps(sum.Ops)
	sum.Records, sum.Blocks, sum.Bytes = s.records, s.blocks, s.end
	sum.DurationS = float64(s.maxMono) / 1e9
	sum.Dropped, sum.DropRanges = int64(s.dropped), s.drops
	sum.Lost = lost(s.nextSeq, uint64(s.records))
	sum.Sealed, sum.Outcomes = s.sealed, s.outcomes
}
