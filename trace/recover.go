package trace

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
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

	// Of the recorder; they tell whose ring it is.
	pid                      int
	monoStartNS, wallStartNS int64
	tracePath                string // absolute; empty if it was too long
}

// ringNote is where the consumer stood when it last gave memory back: everything
// before the positions is in the trace file.
type ringNote struct {
	frames, drops uint64
	pos           []uint64 // of each shard
}

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
	if len(mem) < ringV1HeaderBytes || string(mem[ringAtMagic:ringAtMagic+len(ringMagic)]) != ringMagic {
		return fmt.Errorf("no ring of a trace recorder")
	}
	r := &ring{header: mem[:ringV1HeaderBytes:ringV1HeaderBytes]}
	v := r.word(ringAtVersion).Load()
	version, header := v&math.MaxUint32, v>>32
	if v != 1|ringV1HeaderBytes<<32 && v != ringVersion|ringHeaderBytes<<32 || header > uint64(len(mem)) {
		return fmt.Errorf("version %d with a header of %d bytes; this build reads 1 with %d and %d with %d", version, header, ringV1HeaderBytes, ringVersion, ringHeaderBytes)
	}
	r.header = mem[:header:header]
	data, defs, left := r.word(ringAtDataBytes).Load(), r.word(ringAtDefsBytes).Load(), uint64(len(mem))-header
	if data < minRingDataBytes || data > maxRingDataBytes || data&(data-1) != 0 || data > left || defs > left-data {
		return fmt.Errorf("damaged header: %d bytes of data and %d of definitions in a file of %d", data, defs, len(mem))
	}
	shards := r.word(ringAtShards).Load()
	if shards > maxRingShards || shards&(shards-1) != 0 || shards > 0 && (version == 1 || data/2/shards < minRingDataBytes) {
		return fmt.Errorf("damaged header: %d bytes of data in %d shards", data, shards)
	}
	d.defs = mem[header+data : header+data+defs : header+data+defs]
	r.nonce = uint32(r.word(ringAtNonce).Load())
	r.dropped, r.lostOutcomes = r.word(ringAtDropped), r.word(ringAtLostOutcomes)
	r.split(mem[header:header+data:header+data], int(shards), version == 1)
	d.ring = r

	d.pid = int(r.word(ringAtPID).Load())
	d.monoStartNS, d.wallStartNS = int64(r.word(ringAtMonoStart).Load()), int64(r.word(ringAtWallStart).Load())
	if n := r.word(ringAtPathBytes).Load(); n <= ringMaxPath {
		d.tracePath = string(mem[ringAtPath : ringAtPath+n])
	}
	d.from = r.note(version == 1)
	if max(d.from.frames, d.from.drops) >= maxCalls {
		return fmt.Errorf("damaged header: %d calls read, %d dropped", d.from.frames, d.from.drops)
	}
	// A note is made before the heads move, and a claim needs room behind the
	// head: whatever the moment of death, these hold.
	for i := range r.shards {
		s := &r.shards[i]
		head, end, from := s.head.Load(), s.tail.Load()&^ringClosed, d.from.pos[i]
		if from < head || from > end || end-head > uint64(len(s.data)) || (from|end|head)&7 != 0 || end > ringPosMask {
			return fmt.Errorf("damaged header: shard %d read up to %d, noted %d, claimed up to %d of %d bytes", i, head, from, end, len(s.data))
		}
	}
	return nil
}

// note returns the later one of the consumer's two notes; the zero note if none
// is whole, as before the first.
func (r *ring) note(v1 bool) ringNote {
	last := ringNote{pos: make([]uint64, len(r.shards))}
	read := uint64(0) // bytes, by the last one
	for slot := range 2 {
		n := ringNote{pos: make([]uint64, len(r.shards))}
		var check, sum uint64
		if v1 {
			at := ringV1AtConsumed + slot*32
			n.pos[0], n.frames, n.drops, check = r.word(at).Load(), r.word(at+8).Load(), r.word(at+16).Load(), r.word(at+24).Load()
			sum = slotCheckV1(n.pos[0], n.frames, n.drops)
		} else {
			at := ringAtConsumed + slot*ringSlotBytes
			n.frames, n.drops, check = r.word(at).Load(), r.word(at+8).Load(), r.word(at+16).Load()
			for i := range n.pos {
				n.pos[i] = r.word(at + ringSlotPos + 8*i).Load()
			}
			sum = slotCheck(n.frames, n.drops, n.pos)
		}
		all := uint64(0)
		for _, pos := range n.pos {
			all += pos
		}
		if check == sum && all > read {
			last, read = n, all
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
		for c := d.reader(); c.nextDead(); {
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

// reader reads the frames of a dead ring from the last note on. Nothing is ever
// given back. A producer that was killed between claim and commit left a hole,
// whose length nobody knows.
func (d *DeadRing) reader() *ringReader {
	c := newRingReader(d.ring, nil)
	c.dead, c.frames, c.drops = true, d.from.frames, d.from.drops
	for i := range c.shards {
		s := &c.shards[i]
		s.pos, s.released = d.from.pos[i], d.from.pos[i]
		s.end = s.tail.Load() &^ ringClosed
	}
	return c
}

// nextDead is next for a dead ring, in which nothing is wrong but counted.
func (c *ringReader) nextDead() bool {
	if !c.fresh {
		c.fresh = true
		_ = c.look()
	}
	ok, _ := c.next()
	return ok
}

// syncDrops takes over what the drain knew of drops when the next call was to get
// the number seq: it may have heard of them before a frame told so.
func (c *ringReader) syncDrops(seq uint64) {
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
	oldOutcomes map[movedOutcome]int // behind the last earlier call; how many are alike
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
		f.oldOutcomes[movedOutcome{o.Op, o.MonoNS, o.DurationNS}]++
	default:
		f.outcomes[o.Seq] = true
	}
}

// mostFrames returns how many frames fit the ring.
func (d *DeadRing) mostFrames() (n int) {
	for i := range d.ring.shards {
		n += len(d.ring.shards[i].data) / ringFrameBytes
	}
	return n
}

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

// moved finds the calls of the file in the ring: the numbers that they have
// there by the ids of their frames, and how far the recorder had read each shard
// for them. It was the recorder's clock that told in which order to read the
// shards, as it stood: so the calls are known by operation and time, in the order
// of the merge where those are equal.
func (d *DeadRing) moved(file *lastFrame) (seqs map[uint64]uint64, upTo []uint64) {
	type call struct {
		op     Op
		monoNS int64
	}
	known := make(map[call][]uint64, len(file.calls))
	for _, m := range file.calls {
		at := call{m.op, m.monoNS}
		known[at] = append(known[at], m.seq)
	}
	seqs, upTo = make(map[uint64]uint64, len(file.calls)), slices.Clone(d.from.pos)
	for c := d.reader(); len(known) > 0 && c.nextDead(); {
		f := &c.frame
		if f.IsOutcome {
			continue
		}
		at := call{f.Op, f.MonoNS}
		list := known[at]
		if len(list) == 0 {
			continue
		}
		seqs[f.ID], upTo[c.at] = list[0], c.shards[c.at].pos
		if known[at] = list[1:]; len(list) == 1 {
			delete(known, at)
		}
	}
	return seqs, upTo
}

// drainTo moves what the file does not have to out, in the ring's order, each
// call once, as the recorder's own drain would have gone on; but it is the
// sequence numbers alone that tell out of drops. It returns how many calls the
// recorder has counted until its death, with the dropped ones.
func (d *DeadRing) drainTo(out FrameWriter, file *lastFrame, rec *RingRecovery) (calls uint64) {
	c := d.reader()
	dr := newDrain(c, newRingIDs(d.defs, d.ring.word(ringAtDefsTail)), out, slog.New(slog.DiscardHandler))
	dr.outcomes = true
	dr.anchorMono, dr.anchorWall, dr.nextAnchor = file.monoNS, file.wallNS, math.MaxInt64
	var missing error
	err := d.guard(func() {
		seqs, upTo := d.moved(file)
		rec.Moved = int64(len(seqs))
		left := file.calls
		take := func() {
			f := &c.frame
			seq, there := seqs[f.ID]
			switch {
			case f.IsOutcome && dr.outcome.decode(f) == nil && d.before(dr.outcome.call):
				if o := (movedOutcome{f.Op, f.MonoNS, dr.outcome.durationNS}); file.oldOutcomes[o] > 0 {
					file.oldOutcomes[o]--
				} else {
					dr.lostOutcomes.Add(1)
				}
			case f.IsOutcome:
				dr.takeOutcome(f)
			case there:
				dr.pending[f.ID>>ringShardBits].add(f.ID, seq)
			default:
				// Where the file has later ones the recorder could not write this
				// call: it gets another chance.
				dr.call(f)
			}
		}
		// First what the recorder had read, then the rest: it may have read some
		// before others that have a lower key and came late.
		for i := range c.shards {
			c.shards[i].until = upTo[i]
		}
		for step := 0; step < 2 && !dr.ended; {
			if len(left) > 0 {
				c.syncDrops(left[0].seq)
			} else {
				c.syncDrops(file.nextSeq)
			}
			if !c.nextDead() {
				step++
				for i := range c.shards {
					c.shards[i].until = math.MaxUint64
				}
				c.fresh = false
				continue
			}
			if _, there := seqs[c.frame.ID]; there {
				left = left[1:]
			}
			take()
		}
		if len(left) > 0 {
			found := map[uint64]bool{}
			for _, seq := range seqs {
				found[seq] = true
			}
			for _, m := range file.calls {
				if !found[m.seq] {
					missing = fmt.Errorf("it does not fit the trace file: call %d of the file is not in it", m.seq)
					break
				}
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
	case missing != nil:
		rec.Err = missing
	}
	return c.frames + c.drops
}

// before reports whether the call with this id was read before the last note.
func (d *DeadRing) before(id uint64) bool {
	shard := id >> ringShardBits
	return shard < uint64(len(d.from.pos)) && id&ringPosMask < d.from.pos[shard]
}
