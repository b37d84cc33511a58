package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/mmapio"
)

// salvage copies what is whole in a native file to a writer, adds what a ring
// still holds, and seals the result. It belongs to one goroutine.
type salvage struct {
	r    *NativeReader
	w    *writer
	ring *DeadRing // nil if there is none
	rep  *Repair

	// copying says that the output's present block is a copy of the input's, so
	// that frames go over as they are. Behind damage they cannot: what they refer
	// to may be gone, and numbers would be missing.
	copying bool

	nextSeq      uint64     // of the next call if none is missing: behind all calls and announced drops
	absent       []seqRange // below nextSeq and not in the output, in order
	announced    uint64     // drops that notices told of, and the ring
	missing      uint64     // calls that are not there and were not announced
	calls        uint64     // that were made, and
	dropped      uint64     // dropped, as the input's counts say: at least so many
	lostOutcomes uint64     // of calls that are there: found to be, and
	sealedLost   uint64     // said to be by the footer
	from         lastFrame
	args         Args
	outcome      *OutcomeRecord // that the reader has just passed
	outErr       error          // the output's, met below the ring
}

// seqRange is a row of sequence numbers.
type seqRange struct{ first, end uint64 }

// maxCalls is more than any recorder can have counted: numbers beyond it are
// damage.
const maxCalls = 1 << 56

// openDamaged opens a native file for repair: one whose header is damaged too,
// if it can be told where its frames are.
func openDamaged(path string, file nativeFile, guard func(func()) error, rep *Repair) (*NativeReader, error) {
	r, err := newNativeReader(path, file, guard, nil)
	if err == nil {
		return r, nil
	}
	var damage *CorruptError
	var version *VersionError
	if !errors.As(err, &damage) && !errors.As(err, &version) && !errors.Is(err, ErrNotNative) && !errors.Is(err, ErrTruncatedHeader) {
		return nil, err
	}
	r = &NativeReader{path: path, file: file, guard: guard, data: file.Bytes(), warned: -1}
	var found bool
	fault := guard(func() { found = r.mendHeader() })
	if fault != nil {
		return nil, r.named(fault)
	}
	if !found {
		return nil, err
	}
	r.off = r.body
	bare := err
	for errors.Unwrap(bare) != nil {
		bare = errors.Unwrap(bare)
	}
	if damage != nil {
		bare = damage.Err
	}
	rep.add(Damage{To: r.body, Field: "header", Err: fmt.Errorf("%w; what it says is kept", bare)})
	return r, nil
}

// mendHeader finds out what a header whose checksum is wrong said. One that is
// right is left to say why it was refused.
func (r *NativeReader) mendHeader() bool {
	data, le := r.data, binary.LittleEndian
	if len(data) < fieldsOffset {
		return false
	}
	size := min(int64(le.Uint32(data[52:])), int64(len(data))-fieldsOffset)
	if headerChecksum(data, data[fieldsOffset:fieldsOffset+size]) == le.Uint64(data[56:]) && string(data[:len(Magic)]) == Magic {
		return false
	}
	// Where it is the magic or a version that is damaged, the checksum proves
	// the rest.
	head := append([]byte(nil), data[:fieldsOffset+size]...)
	copy(head, Magic)
	le.PutUint32(head[8:], FormatVersion)
	le.PutUint32(head[12:], SchemaVersion)
	body := int64(le.Uint64(head[16:]))
	proven := headerChecksum(head, head[fieldsOffset:]) == le.Uint64(head[56:])
	if !proven && !r.blockAt(body) {
		for body = fieldsOffset; !r.blockAt(body); body += 8 {
			if body+frameHeaderSize > int64(len(data)) {
				return false
			}
		}
	}
	r.body = body
	r.header = &Header{
		Native:        true,
		FormatVersion: FormatVersion,
		SchemaVersion: SchemaVersion,
		MonoStartNS:   int64(le.Uint64(head[24:])),
		WallStartNS:   int64(le.Uint64(head[32:])),
		BlockBytes:    int64(le.Uint64(head[40:])),
		PID:           int(le.Uint32(head[48:])),
	}
	_ = r.header.parseFields(data[fieldsOffset:max(fieldsOffset, min(body, fieldsOffset+size))]) // up to the first that cannot be
	_ = r.readCounters()
	return true
}

// blockAt reports whether a block starts at offset at.
func (r *NativeReader) blockAt(at int64) bool {
	if at < fieldsOffset || at%8 != 0 || at > int64(len(r.data))-frameHeaderSize-blockStartSize {
		return false
	}
	var h frameHeader
	if h.parse(r.data[at:]); h.kind != kindBlock || h.length < blockStartSize || h.length > maxPayload || h.size() > int64(len(r.data))-at {
		return false
	}
	var start blockStart
	return r.hasher.check(r.data[at:at+h.size()]) == nil && start.parse(r.data[at+frameHeaderSize:], at) == nil
}

// ResemblesNative reports whether the first bytes of a file, 12288 if it has as
// many, are those of a native trace, if need be a damaged one.
func ResemblesNative(head []byte) bool {
	if short := head[:min(len(head), len(Magic))]; len(short) > 0 && strings.HasPrefix(Magic, string(short)) {
		return true
	}
	if len(head) < fieldsOffset {
		return false
	}
	_, err := parseCounters(head)
	return err == nil
}

// deadRing opens the ring that the file's recorder left behind; nil if the file
// is sealed or names none.
func (r *NativeReader) deadRing() (*DeadRing, error) {
	path := r.header.RingPath
	if path == "" || r.counted && r.counters.clean {
		return nil, nil
	}
	d, err := RecoverRing(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ring %s is gone, with what had not been moved from it: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if !d.Of(r.header) {
		d.Close()
		return nil, fmt.Errorf("ring %s belongs to another recording, of %s", path, d.TracePath())
	}
	return d, nil
}

// warnRing says so if the file's recorder is dead and left calls in its ring.
func (r *NativeReader) warnRing() {
	ring, err := r.deadRing()
	if err != nil || ring == nil {
		return // sealed, or being recorded, or there is nothing to be had
	}
	defer ring.Close()
	var moved int64
	if err = r.guard(func() { moved = r.callsFrom(ring.firstSeq()) }); err != nil {
		return // the reader will meet it
	}
	held, err := ring.records()
	switch {
	case err != nil:
		r.warnf("its recorder was killed, and its ring cannot be read: %v", err)
	case held > moved:
		r.warnf("its recorder was killed; the ring %s still holds %d records, which lmcache trace repair adds", ring.Path(), held-moved)
	}
}

// callsFrom counts the calls numbered seq or higher, hopping over the frames. The
// drain counts in the header before it gives memory of the ring back: where it
// was not killed between the two, and dropped nothing just before, these are the
// frames that the header does not count.
func (r *NativeReader) callsFrom(seq uint64) (n int64) {
	var h frameHeader
	var start blockStart
	off := r.body
	if c := &r.counters; r.counted && c.nextSeq == seq && c.end >= r.body {
		off, seq = c.end, 0
	}
	for ; int64(len(r.data))-off > frameHeaderSize; off += h.size() {
		h.parse(r.data[off:])
		if h.length == 0 || h.length > maxPayload || h.size() > int64(len(r.data))-off {
			break
		}
		payload := r.data[off+frameHeaderSize : off+frameHeaderSize+int64(h.length)]
		switch h.kind {
		case kindBlock:
			if start.parse(payload, off) != nil {
				return n
			}
		case kindCall:
			c := cursor{b: payload}
			if start.firstSeq+uint64(c.sv()) >= seq {
				n++
			}
		}
	}
	return n
}

// add notes a damage.
func (r *Repair) add(d Damage) {
	r.Damage = append(r.Damage, d)
	r.Whole = false
}

// run copies everything and closes the writer. An error is the output's, or says
// that the input's bytes could not be had.
func (s *salvage) run() error {
	s.from = lastFrame{
		wallNS:   s.r.header.WallStartNS,
		outcomes: map[uint64]bool{}, oldOutcomes: map[movedOutcome]int{},
	}
	s.r.OnOutcome(func(o *OutcomeRecord) { s.outcome = o })
	for more := true; more; {
		var err error
		if more, err = s.next(); err != nil {
			return err
		}
	}
	return s.end()
}

// next takes in the next frame, or passes over damage. It reports whether there
// may be more.
func (s *salvage) next() (more bool, err error) {
	r := s.r
	var h frameHeader
	if frame := r.frame(&h); frame != nil {
		payload := frame[frameHeaderSize : frameHeaderSize+int(h.length)]
		record, field, err := r.take(&h, payload)
		if err == nil {
			if err := s.keep(&h, payload, record); err != nil {
				return false, err
			}
			r.off += h.size()
			return !r.sealed, nil
		}
		r.corrupt(field, err)
	}
	return s.skip()
}

// skip goes on behind damage. Behind the end of what was written it looks too:
// a power cut may keep pages in any order.
func (s *salvage) skip() (more bool, err error) {
	r := s.r
	var damage *CorruptError
	if r.err == nil {
		damage = &CorruptError{r.off, "tail", errors.New("no frame, while others follow")}
		r.err = damage
	} else if !errors.As(r.err, &damage) {
		return false, r.err
	}
	from := r.off
	if r.Skip() {
		s.rep.add(Damage{From: from, To: r.off, Field: damage.Field, Err: damage.Err})
		return true, nil
	}
	if !errors.As(r.err, &damage) {
		return false, r.err
	}
	r.err = nil
	size, to := int64(len(r.data)), from
	var frame frameHeader // cut off, as far as there is one
	fault := r.guard(func() {
		to += int64(len(bytes.TrimRight(r.data[from:], "\x00")))
		if size-from >= frameHeaderSize {
			frame.parse(r.data[from:])
		}
	})
	switch {
	case fault != nil:
		return false, fault
	case r.counted && size < r.counters.end:
		s.rep.add(Damage{From: from, To: size, Field: "tail", Err: fmt.Errorf("truncated: the file had %d bytes", r.counters.end)})
	case damage.Field != "tail":
		s.rep.add(Damage{From: from, To: to, Field: damage.Field, Err: damage.Err})
	case to > from && (frame.length > 0 || size-from < frameHeaderSize):
		s.rep.add(Damage{From: from, To: size, Field: "tail", Err: errors.New("truncated frame")})
	}
	return false, nil // a frame without its length was being written when the end came: no damage
}

// keep copies the whole frame h that the reader took in.
func (s *salvage) keep(h *frameHeader, payload []byte, record bool) error {
	t := &s.r.tables
	switch {
	case h.kind == kindFooter:
		var ft footer
		if ft.parse(payload) == nil && max(ft.records, ft.dropped, ft.lostOutcomes) < maxCalls {
			s.calls, s.dropped = max(s.calls, ft.records+ft.dropped), max(s.dropped, ft.dropped)
			s.sealedLost = ft.lostOutcomes
			s.w.drift = ft.drift
		}
		return nil
	case !t.valid:
		return nil // its block's start is lost
	case h.kind == kindBlock:
		s.copying = true
		s.dropped = max(s.dropped, t.start.dropped)
		return s.w.copyBlock(h, t.start.firstSeq)
	}
	if t.lost > 0 {
		s.copying = false
	}
	switch {
	case h.kind == kindCall && record && s.r.record.Seq < maxCalls:
		return s.call(h, payload)
	case h.kind == kindCall:
		err := fmt.Errorf("operation %d: %w", h.op, ErrUndefined)
		if record {
			err = fmt.Errorf("call number %d", s.r.record.Seq)
		}
		// It is left out, with the nodes that it may bring.
		if t.lost += h.size(); s.copying {
			s.copying = false
			s.rep.add(Damage{From: s.r.off, To: s.r.off + h.size(), Field: "args", Err: err})
		}
		s.unreadable()
	case h.kind == kindOutcome:
		return s.takeOutcome(h, payload)
	case h.kind == kindDrops:
		c := cursor{b: payload}
		next, lost, total := t.start.firstSeq+uint64(c.sv()), c.uv(), c.uv()
		if c.err != nil || max(next, lost, total) >= maxCalls {
			return nil
		}
		s.expect(next)
		s.announce(lost)
		s.dropped = max(s.dropped, total)
		return s.notice(s.nextSeq)
	case s.copying:
		return s.w.copyFrame(h, payload)
	}
	return nil
}

// call copies the present record.
func (s *salvage) call(h *frameHeader, payload []byte) error {
	rec := s.r.record
	if rec.Seq < s.nextSeq {
		s.rep.add(Damage{From: s.r.off, To: s.r.off + h.size(), Field: "sequence", Err: fmt.Errorf("call %d behind call %d", rec.Seq, s.nextSeq-1)})
		s.copying = false // what follows may use the nodes that this call brought
		return nil        // a part of the file that is in it twice
	}
	if !s.copying {
		if s.r.Args(&s.args) != nil {
			s.unreadable()
			return nil
		}
	}
	s.expect(rec.Seq)
	err := s.notice(rec.Seq)
	switch {
	case err != nil:
	case s.copying:
		err = s.w.copyCall(h, payload, &rec)
	default:
		err = s.w.Record(&rec, &s.args)
		if err != nil && !ofFile(err) {
			s.unreadable()
			return nil
		}
	}
	if err != nil {
		return err
	}
	s.nextSeq = max(s.nextSeq, rec.Seq+1)
	s.rep.Kept++
	s.from.call(s.ring, &rec)
	return nil
}

// takeOutcome copies the outcome that the reader has just passed.
func (s *salvage) takeOutcome(h *frameHeader, payload []byte) error {
	o := s.outcome // nil if it was not understood
	s.outcome = nil
	if o != nil {
		s.from.outcome(s.ring, o)
		if !s.has(o.Seq) {
			return nil // its call is lost
		}
	}
	if s.copying {
		return s.w.copyOutcome(h, payload, o)
	}
	ok := false
	if o != nil {
		var err error
		if ok, err = s.w.OutcomeRecord(o); ofFile(err) {
			return err
		} else if err != nil {
			ok = false
		}
	}
	if !ok {
		s.lostOutcomes++
	}
	return nil
}

// expect notes that the calls before seq that did not come are missing.
func (s *salvage) expect(seq uint64) {
	if seq <= s.nextSeq {
		return
	}
	if len(s.rep.Damage) == 0 {
		s.rep.add(Damage{From: s.r.off, To: s.r.off, Field: "sequence", Err: errors.New("calls are missing, and no notice says so")})
	}
	d := &s.rep.Damage[len(s.rep.Damage)-1]
	if d.Missing == 0 {
		d.FirstSeq = s.nextSeq
	}
	d.Missing += seq - s.nextSeq
	s.missing += seq - s.nextSeq
	s.lack(seq - s.nextSeq)
}

// lack notes that the next n calls are not in the output.
func (s *salvage) lack(n uint64) {
	if last := len(s.absent) - 1; last >= 0 && s.absent[last].end == s.nextSeq {
		s.absent[last].end += n
	} else if n > 0 {
		s.absent = append(s.absent, seqRange{s.nextSeq, s.nextSeq + n})
	}
	s.nextSeq += n
}

// has reports whether the output has call seq.
func (s *salvage) has(seq uint64) bool {
	_, found := slices.BinarySearchFunc(s.absent, seq, func(r seqRange, seq uint64) int {
		switch {
		case r.end <= seq:
			return -1
		case r.first > seq:
			return 1
		}
		return 0
	})
	return seq < s.nextSeq && !found
}

// announce notes that the next n calls were dropped by the recorder.
func (s *salvage) announce(n uint64) {
	s.announced += n
	s.lack(n)
}

// unreadable notes a whole frame of a call that is no longer understood. The next
// call's number will say that one is missing.
func (s *salvage) unreadable() {
	if n := len(s.rep.Damage); n > 0 {
		s.rep.Damage[n-1].Unreadable++
	}
}

// notice says in the output how many of the calls before seq are not in it.
func (s *salvage) notice(seq uint64) error {
	c := &s.w.counters
	switch {
	case seq < c.records || seq-c.records <= c.dropped:
		return nil
	case s.copying:
		return s.w.dropNotice(seq - c.records)
	}
	return s.w.Drops(seq - c.records)
}

// end adds what the ring holds and seals the output.
func (s *salvage) end() error {
	r, rep := s.r, s.rep
	s.copying = false
	if s.ring != nil {
		rep.Ring = &RingRecovery{Path: s.ring.Path()}
		s.expect(s.ring.firstSeq())
		s.from.nextSeq = s.nextSeq
		calls := s.ring.drainTo(ringOutput{s}, &s.from, rep.Ring)
		if s.outErr != nil {
			return s.outErr
		}
		if calls > s.nextSeq {
			s.announce(calls - s.nextSeq)
		}
		lost := min(uint64(rep.Ring.Unreadable), s.announced)
		s.announced, s.missing = s.announced-lost, s.missing+lost
	} else if r.sealed {
		rep.Ring = nil // it was empty, and removed
	}
	if c := &r.counters; r.counted && max(c.records, c.dropped, c.nextSeq) < maxCalls {
		s.calls, s.dropped = max(s.calls, c.nextSeq, c.records+c.dropped), max(s.dropped, c.dropped)
	}
	s.expect(s.calls)
	if !r.sealed {
		rep.Whole = false
	}
	// Where a notice is lost its drops count as missing so far.
	if s.dropped > s.announced {
		n := min(s.dropped-s.announced, s.missing)
		s.announced, s.missing = s.announced+n, s.missing-n
	}
	rep.Dropped, rep.Lost = int64(s.announced), int64(s.missing)
	s.w.LostOutcomes(max(s.lostOutcomes, s.sealedLost))
	if err := s.notice(s.nextSeq); err != nil {
		return err
	}
	return s.w.Close()
}

// ofFile reports whether an error of a writer is the file's, not the call's.
func ofFile(err error) bool {
	var space *mmapio.SpaceError
	var fault *mmapio.FaultError
	return errors.As(err, &space) || errors.As(err, &fault)
}

// ringOutput takes the calls of a ring.
type ringOutput struct{ s *salvage }

// Call implements frameWriter. A gap in the numbers is what the ring's frames
// tell of drops.
func (o ringOutput) Call(op Op, seq uint64, monoNS, wallNS int64, a *Args) error {
	s := o.s
	if seq > s.nextSeq {
		s.announce(seq - s.nextSeq)
	}
	err := s.notice(seq)
	if err == nil {
		err = s.w.Call(op, seq, monoNS, wallNS, a)
	}
	if err != nil {
		if ofFile(err) {
			s.outErr = err
		}
		return err
	}
	s.nextSeq = max(s.nextSeq, seq+1)
	return nil
}

// Outcome leaves out what the file has.
func (o ringOutput) Outcome(op Op, seq uint64, monoNS, wallNS, durationNS int64, out *Outcome) error {
	if o.s.from.outcomes[seq] || !o.s.has(seq) {
		return nil
	}
	err := o.s.w.Outcome(op, seq, monoNS, wallNS, durationNS, out)
	if ofFile(err) {
		o.s.outErr = err
	}
	return err
}

func (o ringOutput) LostOutcomes(total uint64) { o.s.lostOutcomes += total }
func (ringOutput) Drops(uint64) error          { return nil }
func (ringOutput) Flush()                      {}
func (ringOutput) Close() error                { return nil }
