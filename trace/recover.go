package trace

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"

	"github.com/lmcache/lmcache-go/mmapio"
)

// DeadRing is the ring that a recorder left when its process was killed, just
// as its last store left it. It is only read: what it holds can be recovered
// any number of times. It belongs to one goroutine.
type DeadRing struct {
	path    string
	mapping *mmapio.Mapping // nil in tests on the heap
	guard   func(func()) error

	ring *ring // without the parts that change it
	defs []byte
	from ringNote
	end  uint64 // position behind the last claim

	// Of the recorder; they tell whose ring it is.
	pid                      int
	monoStartNS, wallStartNS int64
	tracePath                string // absolute; empty if it was too long
}

// ringNote is where the consumer stood when it last gave memory back: everything
// before pos is in the trace file.
type ringNote struct{ pos, frames, drops uint64 }

// RecoverRing opens the ring file at path. It returns an error that wraps
// mmapio.ErrInUse while its recorder lives. The caller must Close the ring.
func RecoverRing(path string) (*DeadRing, error) {
	m, err := mmapio.OpenOrphan(path)
	if err != nil {
		return nil, err
	}
	d, err := newDeadRing(path, m.Bytes(), mmapio.Guard)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("ring %s: %w", strconv.Quote(path), err)
	}
	d.mapping = m
	return d, nil
}

func newDeadRing(path string, mem []byte, guard func(func()) error) (d *DeadRing, err error) {
	d = &DeadRing{path: path, guard: guard}
	if fault := guard(func() { err = d.attach(mem) }); fault != nil {
		err = fault
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// attach reads the header of mem, of which nothing is believed.
func (d *DeadRing) attach(mem []byte) error {
	if len(mem) < ringHeaderBytes || string(mem[ringAtMagic:ringAtMagic+len(ringMagic)]) != ringMagic {
		return fmt.Errorf("no ring of a trace recorder")
	}
	r := &ring{header: mem[:ringHeaderBytes:ringHeaderBytes]}
	if v := r.word(ringAtVersion).Load(); v != ringVersion|ringHeaderBytes<<32 {
		return fmt.Errorf("version %d with a header of %d bytes; this build reads %d with %d", v&math.MaxUint32, v>>32, ringVersion, ringHeaderBytes)
	}
	data, defs, left := r.word(ringAtDataBytes).Load(), r.word(ringAtDefsBytes).Load(), uint64(len(mem)-ringHeaderBytes)
	if data < minRingDataBytes || data > maxRingDataBytes || data&(data-1) != 0 || data > left || defs > left-data {
		return fmt.Errorf("damaged header: %d bytes of data and %d of definitions in a file of %d", data, defs, len(mem))
	}
	r.data = mem[ringHeaderBytes : ringHeaderBytes+data : ringHeaderBytes+data]
	d.defs = mem[ringHeaderBytes+data : ringHeaderBytes+data+defs : ringHeaderBytes+data+defs]
	r.mask = data - 1
	r.nonce = uint32(r.word(ringAtNonce).Load())
	r.tail, r.head = r.word(ringAtTail), r.word(ringAtHead)
	r.dropped, r.lostOutcomes = r.word(ringAtDropped), r.word(ringAtLostOutcomes)
	d.ring = r

	d.pid = int(r.word(ringAtPID).Load())
	d.monoStartNS, d.wallStartNS = int64(r.word(ringAtMonoStart).Load()), int64(r.word(ringAtWallStart).Load())
	if n := r.word(ringAtPathBytes).Load(); n <= ringMaxPath {
		d.tracePath = string(mem[ringAtPath : ringAtPath+n])
	}
	head := r.head.Load()
	d.end = r.tail.Load() &^ ringClosed
	d.from = r.note()
	// A note is made before the head moves, and a claim needs room behind the
	// head: whatever the moment of death, these hold.
	if max(d.from.frames, d.from.drops) >= maxCalls || d.from.pos < head || d.from.pos > d.end || d.end-head > data || (d.from.pos|d.end|head)&7 != 0 {
		return fmt.Errorf("damaged header: read up to %d, noted %d, claimed up to %d of %d bytes", head, d.from.pos, d.end, data)
	}
	return nil
}

// note returns the later one of the consumer's two notes; the zero note if none
// is whole, as before the first.
func (r *ring) note() (last ringNote) {
	for slot := range 2 {
		at := ringAtConsumed + slot*ringSlotBytes
		n := ringNote{r.word(at).Load(), r.word(at + 8).Load(), r.word(at + 16).Load()}
		if r.word(at+24).Load() == slotCheck(n.pos, n.frames, n.drops) && n.pos > last.pos {
			last = n
		}
	}
	return last
}

// Path returns the path that RecoverRing got.
func (d *DeadRing) Path() string { return d.path }

// TracePath returns the absolute path of the trace file as the recorder knew
// it, empty if that is not known.
func (d *DeadRing) TracePath() string { return d.tracePath }

// Of reports whether the ring belongs to the recording with header h: the same
// process started it in the same nanosecond. The file may have another name by
// now.
func (d *DeadRing) Of(h *Header) bool {
	return d.pid == h.PID && d.monoStartNS == h.MonoStartNS && d.wallStartNS == h.WallStartNS
}

// firstSeq is the number of the first call that may be in the ring: a call of
// the file with this number or a higher one was moved there and not yet given
// back, so that it is still in the ring too.
func (d *DeadRing) firstSeq() uint64 { return d.from.frames + d.from.drops }

// records returns how many calls the ring holds. The trace file may have some of
// them: those numbered firstSeq or higher.
func (d *DeadRing) records() (n int64, err error) {
	err = d.guard(func() {
		for c := d.reader(); c.next(); {
			if !c.frame.IsOutcome {
				n++
			}
		}
	})
	return n, err
}

// Close releases the ring file and leaves it where it is. It may be called
// twice.
func (d *DeadRing) Close() error {
	if d.mapping == nil {
		return nil
	}
	return d.mapping.Close()
}

// deadReader reads the frames of a dead ring from the last note on. Nothing is
// ever given back.
type deadReader struct {
	ringReader
	end   uint64
	holes int64 // places that were claimed and never committed
	bad   int64 // places where something stands that is no frame
}

func (d *DeadRing) reader() *deadReader {
	return &deadReader{ringReader: ringReader{
		ring: d.ring, pos: d.from.pos, released: d.from.pos, frames: d.from.frames, drops: d.from.drops,
	}, end: d.end}
}

// next reads the next committed frame. A producer that was killed
// between claim and commit left a hole, whose length nobody knows: the next
// frame is where a commit word has the tag of just its position.
func (c *deadReader) next() bool {
	for c.pos < c.end {
		ok, err := c.ringReader.next()
		switch {
		case ok:
			return true
		case c.pos >= c.end:
			return false
		case err != nil:
			c.bad++
			c.frames++ // a call, most likely
		default:
			c.holes++
		}
		for c.pos < c.end && !c.committed() {
			c.pos += 8
		}
	}
	return false
}

// committed reports whether a frame stands at pos. Bytes that a producer left in
// a hole pass for one with a probability of 2^-32 a word at most: the tag has a
// nonce that is nowhere else.
func (c *deadReader) committed() bool {
	r, off := c.ring, c.pos&c.ring.mask
	word := mmapio.Uint64(r.data, int(off)).Load()
	if word&^(1<<32-1) != r.tag(c.pos) {
		return false
	}
	n := word & (1<<32 - 1) &^ ringKindMask
	if n > c.end-c.pos || off+n > uint64(len(r.data)) {
		return false
	}
	switch word & ringKindMask {
	case ringPad:
		return n >= 8
	case ringCall:
		return n >= ringFrameBytes
	case ringCallWall:
		return n >= ringFrameBytes+8
	case ringOutcome:
		return n >= ringOutcomeBytes
	case ringOutcomeWall:
		return n >= ringOutcomeBytes+8
	}
	return false
}

// syncDrops takes over what the drain knew of drops when the next call was to get
// the number seq: it may have heard of them before a frame told so.
func (c *deadReader) syncDrops(seq uint64) {
	if seq > c.frames {
		c.drops = max(c.drops, min(seq-c.frames, c.ring.dropped.Load()))
	}
}

// lastFrame is what a recovery needs to know of the trace file: how much of the
// ring is there already.
type lastFrame struct {
	monoNS, wallNS int64       // of the last call, or the start: a pair of clock readings
	nextSeq        uint64      // number of the next call, by the file
	calls          []movedCall // those numbered firstSeq or higher, in order
	// outcomes of such calls, by number. An earlier call's number is no longer
	// known to the ring: what it says of the outcome must do.
	outcomes    map[uint64]bool
	oldOutcomes map[movedOutcome]bool // behind the last earlier call
}

// movedCall is a call of the trace file that is still in the ring.
type movedCall struct {
	op     Op
	seq    uint64
	monoNS int64
}

// movedOutcome tells one outcome of the trace file from others.
type movedOutcome struct {
	op                 Op
	monoNS, durationNS int64
}

// call notes a call of the file, outcome an outcome.
func (f *lastFrame) call(d *DeadRing, rec *Record) {
	f.monoNS, f.wallNS = rec.MonoNS, rec.WallNS
	switch {
	case d == nil:
	case rec.Seq < d.firstSeq():
		clear(f.oldOutcomes)
	case len(f.calls) < d.mostFrames():
		f.calls = append(f.calls, movedCall{rec.Op, rec.Seq, rec.MonoNS})
	}
}

func (f *lastFrame) outcome(d *DeadRing, o *OutcomeRecord) {
	switch {
	case d == nil || len(f.outcomes)+len(f.oldOutcomes) >= d.mostFrames():
	case o.Seq < d.firstSeq():
		f.oldOutcomes[movedOutcome{o.Op, o.MonoNS, o.DurationNS}] = true
	default:
		f.outcomes[o.Seq] = true
	}
}

// mostFrames returns how many frames fit the ring.
func (d *DeadRing) mostFrames() int { return len(d.ring.data) / ringFrameBytes }

// RingRecovery says what a ring gave.
type RingRecovery struct {
	Path         string
	Recovered    int64 // calls that the file did not have
	Moved        int64 // calls that it had already
	Holes        int64 // calls and outcomes that were being copied when their process was killed: none had returned
	Unreadable   int64 // calls whose bytes make no sense
	LostOutcomes int64 // outcomes of calls that the file has, but nobody knows under which number
	Err          error // why nothing, or not all, could be read
}

// drainTo moves what the file does not have to out, in the ring's order, each
// call once, as the recorder's own drain would have gone on; but it is the
// sequence numbers alone that tell out of drops. It returns how many calls the
// recorder has counted until its death, with the dropped ones.
func (d *DeadRing) drainTo(out FrameWriter, file *lastFrame, rec *RingRecovery) (calls uint64) {
	c := d.reader()
	dr := &drain{
		ids: newRingIDs(d.defs, d.ring.word(ringAtDefsTail)),
		out: out, log: slog.New(slog.DiscardHandler), outcomes: true,
		anchorMono: file.monoNS, anchorWall: file.wallNS, nextAnchor: math.MaxInt64,
	}
	moved := file.calls
	err := d.guard(func() {
		for !dr.ended {
			if len(moved) > 0 {
				c.syncDrops(moved[0].seq)
			} else {
				c.syncDrops(file.nextSeq)
			}
			if !c.next() {
				break
			}
			f := &c.frame
			switch {
			case f.IsOutcome && dr.outcome.decode(f) == nil && dr.outcome.call < d.from.pos:
				if !file.oldOutcomes[movedOutcome{f.Op, f.MonoNS, dr.outcome.durationNS}] {
					dr.lostOutcomes.Add(1)
				}
			case f.IsOutcome:
				dr.takeOutcome(f)
			case len(moved) > 0 && f.Op == moved[0].op && f.MonoNS == moved[0].monoNS:
				dr.pending.add(f.Pos, moved[0].seq)
				moved = moved[1:]
				rec.Moved++
			default:
				// Where the file has later ones the recorder could not write this
				// call: it gets another chance.
				dr.call(f)
			}
		}
		c.noteDrops(d.ring.dropped.Load() & (1<<32 - 1))
		out.LostOutcomes(d.ring.lostOutcomes.Load() + dr.lostOutcomes.Load())
	})
	rec.Recovered = int64(dr.calls)
	rec.Holes, rec.Unreadable = c.holes, c.bad+int64(dr.lost.Load())
	rec.LostOutcomes = int64(dr.lostOutcomes.Load())
	switch {
	case err != nil:
		rec.Err = err
	case dr.ended:
		rec.Err = dr.outErr
	case len(moved) > 0:
		rec.Err = fmt.Errorf("it does not fit the trace file: call %d of the file is not in it", moved[0].seq)
	}
	return c.frames + c.drops
}
