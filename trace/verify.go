package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Verification says what is whole in a trace file, what is damaged, and what is
// missing.
type Verification struct {
	Header Header
	Bytes  int64 // of the file, up to where its frames end
	Sealed bool  // native: closed cleanly

	Records    int64 // frames of calls that are whole, with arguments that decode
	Unreadable int64 // frames of calls that are whole, whose arguments do not: what they refer to is lost, or wrong
	Lost       int64 // calls that were made and are not in Records
	Dropped    int64 // of Lost: those that the recorder counted
	AtLeast    bool  // Lost may be more: nothing in the file tells how many there were

	Outcomes     int64
	LostOutcomes int64 // of recorded calls, as the footer says

	Parts    []Part          // of the file behind its header, in order
	Gaps     []Gap           // where calls are missing, in order; the first MaxFindings
	Problems []*CorruptError // what is wrong and in no damaged part, in file order; the first MaxFindings
	More     int64           // gaps and problems that are left out
	Notes    []string        // what is not as in a sealed file, but nothing to blame it for
}

// MaxFindings bounds each list of a Verification.
const MaxFindings = 4096

// Part is a stretch of a file that is whole, or damaged.
type Part struct {
	Offset, End int64         // of its first byte and behind its last
	Damage      *CorruptError // nil if it is whole
	// Of a whole part. Numbers and times are 0 without records.
	Records           int64
	FirstSeq, LastSeq uint64
	FirstNS, LastNS   int64 // t_mono of the first and the last
}

// Gap says that calls are missing.
type Gap struct {
	FirstSeq uint64 // sequence number of the first
	Count    int64
	Dropped  bool  // the recorder counted them as dropped; else the file has lost them
	Offset   int64 // of the record behind the gap, or where the frames end
	// t_mono of the records around it; BeforeNS is -1 where there is none behind.
	AfterNS, BeforeNS int64
}

// OK reports whether every frame is valid and nothing is missing.
func (v *Verification) OK() bool {
	return v.Lost == 0 && v.Unreadable == 0 && len(v.Problems) == 0 && v.Damaged() == 0
}

// Damaged returns the number of damaged parts.
func (v *Verification) Damaged() (n int) {
	for i := range v.Parts {
		if v.Parts[i].Damage != nil {
			n++
		}
	}
	return n
}

// String gives the verdict in a line: "72003 records, 0 lost".
func (v *Verification) String() string {
	least := ""
	if v.AtLeast && v.Lost > 0 {
		least = "at least "
	}
	s := fmt.Sprintf("%d records, %s%d lost", v.Records, least, v.Lost)
	if v.Dropped > 0 {
		s += fmt.Sprintf(" (%d dropped by the recorder)", v.Dropped)
	}
	if n := v.Damaged(); n > 0 {
		s += "; damaged in " + numberOf(n, "place")
	}
	if n := len(v.Problems); n > 0 {
		s += "; " + numberOf(n, "finding")
	}
	return s
}

func numberOf(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Problem notes what is wrong with the frame at offset.
func (v *Verification) Problem(offset int64, field string, err error) {
	if len(v.Problems) == MaxFindings {
		v.More++
		return
	}
	v.Problems = append(v.Problems, &CorruptError{offset, field, err})
}

func (v *Verification) gap(g Gap) {
	if len(v.Gaps) == MaxFindings {
		v.More++
		return
	}
	v.Gaps = append(v.Gaps, g)
}

// VerifyNative checks every frame of the native trace file at path: checksums,
// definitions, arguments, outcomes, sequence numbers, and the counts of header and
// footer. Behind a bad frame it goes on where the next whole one is. The error is
// why there is nothing to verify: the file cannot be read, or its header is not
// that of a trace; or the end of ctx.
func VerifyNative(ctx context.Context, path string) (*Verification, error) {
	r, err := OpenNative(path, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.verify(ctx)
}

// verifier walks a file from its first frame.
type verifier struct {
	ctx context.Context
	r   *NativeReader
	v   *Verification

	whole    bool // the last part is whole and goes on
	next     uint64
	lastNS   int64            // of the last record
	pending  int64            // drops that notices have told of since then
	noticed  int64            // drops that notices have told of
	walked   int64            // calls that were read, with or without arguments
	damaged  bool             // somewhere
	missing  int64            // calls in gaps that no notice accounts for
	ops      map[string]int64 // records by qualified name
	totals   map[string]*OutcomeTotal
	index    []blockEntry // as the footer should have it
	ft       *footer
	ftOffset int64
}

func (r *NativeReader) verify(ctx context.Context) (*Verification, error) {
	w := &verifier{
		ctx: ctx, r: r, v: &Verification{Header: *r.header},
		ops: map[string]int64{}, totals: map[string]*OutcomeTotal{},
	}
	r.visit = w.frame
	r.onOutcome = w.outcome
	defer func() { r.visit, r.onOutcome = nil, nil }()
	if err := w.walk(); err != nil {
		return nil, err
	}
	if err := r.guard(w.conclude); err != nil {
		return nil, r.named(err)
	}
	return w.v, nil
}

// walk goes through all frames that can be found.
func (w *verifier) walk() error {
	r := w.r
	var a Args
	for n := 0; ; {
		for r.Next() {
			if n++; n%1024 == 0 && w.ctx.Err() != nil {
				return w.ctx.Err()
			}
			w.record(&a)
		}
		if w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		var damage *CorruptError
		switch {
		case r.Err() == nil && r.sealed:
			return nil
		case r.Err() == nil:
			again, err := w.behindEnd()
			if err != nil {
				return err
			}
			if !again {
				return nil
			}
		case errors.As(r.Err(), &damage):
			w.damage(damage)
			if !r.Skip() {
				if !errors.As(r.Err(), &damage) {
					return r.Err()
				}
				w.last().End = w.dataEnd()
				return nil
			}
			w.last().End = r.off
		default:
			return r.Err()
		}
	}
}

// behindEnd decides what follows where an unsealed file seems to end: more that was
// written meanwhile, or whole frames behind a length that is damaged.
func (w *verifier) behindEnd() (again bool, err error) {
	r := w.r
	off, size := r.off, len(r.data)
	found := int64(-1)
	if err := r.guard(func() { found = r.wholeFrameAfter(off) }); err != nil {
		return false, r.named(err)
	}
	var h frameHeader
	if r.frame(&h) != nil || len(r.data) != size {
		return true, nil // a recorder is at work: what was found has become reachable
	}
	if r.err != nil || found < 0 {
		return r.err != nil, nil
	}
	r.corrupt("length", errors.New("zero, but frames follow"))
	return true, nil
}

func (w *verifier) last() *Part { return &w.v.Parts[len(w.v.Parts)-1] }

// damage begins a damaged part.
func (w *verifier) damage(d *CorruptError) {
	w.whole, w.damaged = false, true
	if n := len(w.v.Parts); n > 0 && w.last().Damage != nil && w.last().End == d.Offset {
		return // one damage behind the other
	}
	w.v.Parts = append(w.v.Parts, Part{Offset: d.Offset, End: d.Offset, Damage: &CorruptError{d.Offset, d.Field, d.Err}})
}

// frame takes in every frame that is whole.
func (w *verifier) frame(h *frameHeader, payload []byte) {
	r, v := w.r, w.v
	end := r.off + h.size()
	if !r.tables.valid && h.kind != kindFooter {
		// Of a block whose start is lost: nobody can tell its calls. It belongs to
		// the damage before it.
		if len(v.Parts) == 0 || w.last().Damage == nil {
			w.damage(&CorruptError{r.off, "block", errors.New("no block start before it")})
		}
		w.last().End, w.whole = end, false
		return
	}
	if !w.whole {
		w.whole = true
		v.Parts = append(v.Parts, Part{Offset: r.off})
	}
	w.last().End = end
	if h.flags&flagsUnknown != 0 || h.kind != kindCall && h.flags&(flagNodes|flagExtension) != 0 {
		v.Problem(r.off, "flags", fmt.Errorf("%#x", h.flags&15))
	}
	switch h.kind {
	case kindBlock:
		w.block(h)
	case kindDrops:
		c := cursor{b: payload}
		next, n, total := r.tables.start.firstSeq+uint64(c.sv()), c.uv(), c.uv()
		switch {
		case c.end() != nil:
			v.Problem(r.off, "drops", c.err)
			return
		case n > math.MaxInt64-total || !w.damaged && (next != w.next || int64(total) != w.noticed+int64(n)):
			v.Problem(r.off, "drops", fmt.Errorf("%d calls lost before call %d, %d in all; it is call %d, and %d were", n, next, total, w.next, w.noticed))
		}
		w.pending += max(int64(total)-w.noticed, 0)
		w.noticed = max(w.noticed, int64(total))
	case kindOutcome:
		if err := r.takeOutcome(h, payload); err != nil && !(w.damaged && errors.Is(err, ErrUndefined)) {
			v.Problem(r.off, "outcome", err)
		}
	case kindFooter:
		w.ft, w.ftOffset = new(footer), r.off
		if err := w.ft.parse(payload); err != nil {
			v.Problem(r.off, "footer", err)
			w.ft = nil
		}
	}
}

// outcome checks that an outcome follows its call.
func (w *verifier) outcome(o *OutcomeRecord) {
	w.v.Outcomes++
	t := w.totals[o.Qualname]
	if t == nil {
		t = &OutcomeTotal{Qualname: o.Qualname}
		w.totals[o.Qualname] = t
	}
	t.Add(o)
	if !w.damaged && o.Seq >= w.next {
		w.v.Problem(o.Offset, "outcome", fmt.Errorf("of call %d, which is not before it", o.Seq))
	}
}

// block checks what the block start that was just read says of the file before.
func (w *verifier) block(h *frameHeader) {
	s := &w.r.tables.start
	var previous int64
	if n := len(w.index); n > 0 {
		previous = w.index[n-1].offset
	}
	if !w.damaged && (int64(s.records) != w.walked || s.previous != previous || int64(s.dropped) != w.noticed || s.firstSeq < w.next) {
		w.v.Problem(w.r.off, "block", fmt.Errorf("%d records and %d drops before it, previous block at %d, calls from %d on; there are %d, %d, %d, %d",
			s.records, s.dropped, s.previous, s.firstSeq, w.walked, w.noticed, previous, w.next))
	}
	w.index = append(w.index, blockEntry{offset: w.r.off, monoNS: h.monoNS, firstSeq: s.firstSeq})
}

// record takes in the present record.
func (w *verifier) record(a *Args) {
	rec, v := &w.r.record, w.v
	w.walked++
	w.ops[rec.Qualname]++
	if e := &w.index[len(w.index)-1]; e.records == 0 {
		e.records, e.minMonoNS, e.maxMonoNS = 1, rec.MonoNS, rec.MonoNS
	} else {
		e.records++
		e.minMonoNS, e.maxMonoNS = min(e.minMonoNS, rec.MonoNS), max(e.maxMonoNS, rec.MonoNS)
	}
	if err := w.r.decodeArgs(a); err != nil {
		v.Unreadable++
		v.Problem(rec.Offset, "args", err)
	} else {
		v.Records++
	}
	p := w.last()
	if p.Records == 0 {
		p.FirstSeq, p.FirstNS = rec.Seq, rec.MonoNS
	}
	p.Records++
	p.LastSeq, p.LastNS = rec.Seq, rec.MonoNS
	if rec.Seq < w.next {
		v.Problem(rec.Offset, "sequence", fmt.Errorf("call %d behind call %d", rec.Seq, w.next-1))
		return
	}
	w.gap(rec.Seq, rec.Offset, rec.MonoNS)
	w.next, w.lastNS = rec.Seq+1, rec.MonoNS
}

// gap notes the calls that are missing before call seq.
func (w *verifier) gap(seq uint64, offset, monoNS int64) {
	n := int64(min(seq-w.next, math.MaxInt64))
	dropped := min(n, w.pending)
	w.pending = 0
	if n == 0 {
		return
	}
	g := Gap{FirstSeq: w.next, Count: n, Offset: offset, AfterNS: w.lastNS, BeforeNS: monoNS}
	if dropped > 0 {
		g.Count, g.Dropped = dropped, true
		w.v.gap(g)
		g.FirstSeq, g.Count, g.Dropped = g.FirstSeq+uint64(dropped), n-dropped, false
	}
	if g.Count > 0 {
		w.missing = addTo(w.missing, g.Count)
		w.v.gap(g)
	}
}

// addTo returns a+b, or the largest number: garbage can say that anything is lost.
func addTo(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// dataEnd returns where the bytes end that are not zero.
func (w *verifier) dataEnd() (end int64) {
	_ = w.r.guard(func() {
		end = max(w.r.off, int64(len(bytes.TrimRight(w.r.data, "\x00"))+7)&^7)
	})
	return min(end, int64(len(w.r.data)))
}

// conclude compares what was walked with what header and footer say.
func (w *verifier) conclude() {
	r, v := w.r, w.v
	v.Sealed, v.Bytes = r.sealed, r.off
	if n := len(v.Parts); n > 0 {
		v.Bytes = max(v.Bytes, w.last().End)
	}
	c := &r.counters
	next, records, dropped := w.next, w.walked, w.noticed
	told := false
	if r.counted {
		next, records, dropped, told = max(next, c.nextSeq), max(records, int64(c.records)), max(dropped, int64(c.dropped)), c.clean
	} else if r.sealed || len(bytes.Trim(r.data[countersOffset:fieldsOffset], "\x00")) > 0 {
		v.Problem(countersOffset, "header", errCounters)
	}
	if w.ft != nil {
		next, records, dropped, told = max(next, w.ft.nextSeq), max(records, int64(w.ft.records)), max(dropped, int64(w.ft.dropped)), true
		w.footer()
	}
	trailing := w.pending
	w.gap(next, v.Bytes, -1)
	if more := trailing - int64(min(next-w.next, math.MaxInt64)); more > 0 {
		v.gap(Gap{FirstSeq: next, Count: more, Dropped: true, Offset: v.Bytes, AfterNS: w.lastNS, BeforeNS: -1})
	}
	if r.sealed && dropped > w.noticed && !w.damaged && r.end != endShort && r.end != endCut {
		v.Problem(countersOffset, "drops", fmt.Errorf("header or footer counts %d dropped calls, the notices in the file %d", dropped, w.noticed))
	}
	if !w.damaged && records > w.walked && r.end == endClean {
		v.Problem(countersOffset, "header", fmt.Errorf("header or footer counts %d records, the file has %d", records, w.walked))
	}
	// A notice that is missing itself shows in the counts, and its calls in a gap.
	if unnoticed := dropped - w.noticed; unnoticed > 0 {
		w.missing = max(w.missing-unnoticed, 0)
	}
	missing := max(w.missing, records-w.walked)
	v.Dropped = max(dropped, 0)
	v.Lost = addTo(addTo(missing, v.Dropped), v.Unreadable)
	v.AtLeast = !told && (w.damaged || r.end == endShort || r.end == endCut)
	w.ending()
}

// footer compares the footer with what was walked and with the header.
func (w *verifier) footer() {
	r, v, ft := w.r, w.v, w.ft
	v.LostOutcomes = int64(ft.lostOutcomes)
	wrong := func(what string, says, is any) {
		v.Problem(w.ftOffset, "footer", fmt.Errorf("says %s %v, it is %v", what, says, is))
	}
	if c := &r.counters; r.counted {
		if c.footer != w.ftOffset || c.end != r.off || !c.clean {
			v.Problem(countersOffset, "header", fmt.Errorf("says footer at %d, frames end at %d, clean %t; the footer is at %d", c.footer, c.end, c.clean, w.ftOffset))
		}
		if c.records != ft.records || c.dropped != ft.dropped || c.nextSeq != ft.nextSeq || c.maxMonoNS != ft.maxMonoNS {
			v.Problem(countersOffset, "header", errors.New("its counts are not those of the footer"))
		}
	}
	for i, ok := range validCounters(r.data) {
		if !ok && r.counted {
			v.Problem(int64(countersOffset+i*countersStride), "header", fmt.Errorf("copy %d of the counters is damaged", i))
		}
	}
	if w.damaged {
		return // its counts are what is missing, then
	}
	if int64(ft.records) != w.walked {
		wrong("records", ft.records, w.walked)
	}
	if ft.nextSeq != w.next {
		wrong("next sequence number", ft.nextSeq, w.next)
	}
	if int64(ft.dropped) != w.noticed {
		wrong("dropped calls", ft.dropped, w.noticed)
	}
	var outcomes int64
	for i := range ft.outcomes {
		outcomes += ft.outcomes[i].Outcomes
	}
	if ft.timed && outcomes != v.Outcomes {
		wrong("outcomes", outcomes, v.Outcomes)
	} else if ft.timed && !slices.EqualFunc(ft.outcomes, w.outcomeTotals(), sameTotal) {
		wrong("sums of the outcomes", "one thing", "another")
	}
	ops := make([]OpCount, 0, len(w.ops))
	for name, n := range w.ops {
		ops = append(ops, OpCount{name, n})
	}
	sortOps(ops)
	if !slices.Equal(ft.ops, ops) {
		wrong("records by operation", ft.ops, ops)
	}
	if !ft.timed {
		for i := range w.index {
			w.index[i].minMonoNS, w.index[i].maxMonoNS = 0, 0
		}
	}
	if !slices.Equal(ft.blocks, w.index) {
		wrong("index of blocks", "one thing", "another")
	}
}

func (w *verifier) outcomeTotals() []OutcomeTotal {
	totals := make([]OutcomeTotal, 0, len(w.totals))
	for _, t := range w.totals {
		totals = append(totals, *t)
	}
	sortOutcomes(totals)
	return totals
}

func sameTotal(a, b OutcomeTotal) bool {
	return a.Qualname == b.Qualname && a.Outcomes == b.Outcomes && a.Failed == b.Failed && a.DurationNS == b.DurationNS && slices.Equal(a.Counts, b.Counts)
}

// ending says how an unsealed file ends.
func (w *verifier) ending() {
	r, v := w.r, w.v
	if r.sealed {
		if extra := int64(len(r.data)) - r.off; extra > 0 {
			v.Notes = append(v.Notes, fmt.Sprintf("%d bytes behind the footer", extra))
		}
		return
	}
	switch r.end {
	case endShort:
		v.Problem(int64(len(r.data)), "length", fmt.Errorf("the file ends here, its frames at %d: it was cut", r.counters.end))
	case endCut:
		v.Problem(r.off, "length", errors.New("the file ends in this frame: it was cut"))
		if left := r.data[r.off:]; len(left) > 6 && kind(left[6]) == kindCall && w.missing == 0 {
			v.Lost = addTo(v.Lost, 1)
		}
	case endUnfinished:
		v.Notes = append(v.Notes, fmt.Sprintf("unfinished frame at offset %d: it was being written", r.off))
	}
	note := fmt.Sprintf("not sealed: process %d is writing it, or has ended without closing it", r.header.PID)
	if r.header.RingPath != "" {
		note += "; its ring " + r.header.RingPath + " holds what did not get here"
	}
	v.Notes = append(v.Notes, note)
}
