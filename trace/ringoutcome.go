package trace

import (
	"errors"
	"runtime"
	"slices"
)

// An outcome in the ring, behind its commit word:
//
//	8   time of the call's end, ns since the recorder's start
//	16  0, 32 bits; op, 16 bits; 1 if the call failed, 16 bits
//	24  position of the call's frame | its shard<<56
//	32  duration in ns
//	40  MaxCounts counts, 32 bits each
//	56  number of bits of the bitmaps, 32 bits each
//	64  Unix time of the end in ns (kind ringOutcomeWall only)
//	    words of the bitmaps
const (
	ringOutcomeArgs  = 24 // what follows in ringFrame.Args, but for the Unix time
	ringOutcomeBytes = ringOutcomeArgs + 16 + 4*MaxCounts + 4*MaxOutcomeBits
)

// CallToken names a call that Recorder.Call has taken, for its outcome. The zero
// token is that of a call that was not, or whose outcome is not wanted.
type CallToken struct {
	at     uint64 // position of its frame in the ring + 1, with its shard; 0 for none
	monoNS int64  // its time
	op     Op
}

// WantsOutcome reports whether Recorder.Outcome would do anything: a caller asks
// before it gathers the outcome.
func (t CallToken) WantsOutcome() bool { return t.at != 0 }

// Outcome records what came of the call of t, which ends now. It copies o. Like
// Call it allocates nothing and waits only with OverflowBlock; where the ring
// has no room the outcome is lost and counted, the call is not. It may be called
// once a token, from any goroutine.
func (r *Recorder) Outcome(t CallToken, o *Outcome) {
	if t.at == 0 || !r.On() {
		return
	}
	header, kind := ringOutcomeBytes, uint64(ringOutcome)
	if r.sim != nil {
		header, kind = ringOutcomeBytes+8, ringOutcomeWall
	}
	n := header
	for i := range o.Bits {
		n += 8 * len(o.Bits[i].Words)
	}
	if n > r.ring.maxFrame() {
		r.ring.lostOutcomes.Add(1)
		return
	}
	p, state := r.take(n)
	if state != claimDone {
		if state == claimFull {
			r.ring.lostOutcomes.Add(1)
		}
		return
	}
	b := p.frame(p.pos, n)
	op := uint64(t.op) << 32
	if o.Failed {
		op |= 1 << 48
	}
	putRingWord(b, 8, uint64(p.monoNS))
	putRingWord(b, 16, op)
	putRingWord(b, 24, t.at-1)
	putRingWord(b, 32, uint64(max(p.monoNS-t.monoNS, 0)))
	putRingWord(b, 40, uint64(o.Counts[0])|uint64(o.Counts[1])<<32)
	putRingWord(b, 48, uint64(o.Counts[2])|uint64(o.Counts[3])<<32)
	putRingWord(b, 56, uint64(uint32(o.Bits[0].N))|uint64(uint32(o.Bits[1].N))<<32)
	if r.sim != nil {
		putRingWord(b, ringOutcomeBytes, uint64(r.sim.Wall()))
	}
	at := header
	for i := range o.Bits {
		for _, w := range o.Bits[i].Words {
			putRingWord(b, at, w)
			at += 8
		}
	}
	r.put(p, n, kind)
	runtime.KeepAlive(r) // and with it the ring's mapping
}

// outcome takes the frame of an outcome apart, as far as it concerns the reader.
func (c *ringReader) outcome(b []byte, wall bool) {
	f := &c.frame
	f.IsOutcome, f.HasWall, f.WallNS = true, wall, 0
	f.Op = Op(ringWord(b, 16) >> 32)
	f.MonoNS = int64(ringWord(b, 8))
	if wall {
		f.WallNS = int64(ringWord(b, ringOutcomeBytes))
	}
	f.Args = b[16:]
}

var errRingOutcome = errors.New("ring frame: an outcome of no call, or whose bitmaps are not as long as it says")

// ringOutcomeReader takes outcomes from ring frames, which it does not trust.
type ringOutcomeReader struct {
	call       uint64 // position of the call's frame, with its shard
	durationNS int64
	outcome    Outcome
}

// decode reads the frame f, which is an outcome's. The result is valid until the
// next call.
func (d *ringOutcomeReader) decode(f *ringFrame) error {
	b := f.Args
	o := &d.outcome
	o.Failed = ringWord(b, 0)>>48 != 0
	d.call, d.durationNS = ringWord(b, 8), int64(ringWord(b, 16))
	for i := range o.Counts {
		o.Counts[i] = uint32(ringWord(b, 24+i/2*8) >> (i % 2 * 32))
	}
	sizes := ringWord(b, 40)
	b = b[ringOutcomeBytes-16:]
	if f.HasWall {
		b = b[8:]
	}
	for i := range o.Bits {
		s := &o.Bits[i]
		s.N = int(uint32(sizes >> (i * 32)))
		words := (s.N + 63) / 64
		if words > len(b)/8 {
			return errRingOutcome
		}
		s.Words = slices.Grow(s.Words[:0], words)[:words]
		for j := range s.Words {
			s.Words[j] = ringWord(b, 8*j)
		}
		b = b[8*words:]
	}
	if len(b) != 0 {
		return errRingOutcome
	}
	return nil
}

// pendingCalls knows the sequence numbers of the calls of one shard whose outcome
// has not come, by their position. Both grow from call to call.
//
// An outcome mostly comes soon or, for a prefetch, a while later; of a call
// whose outcome never comes an entry stays. So the oldest are forgotten when
// there are too many.
type pendingCalls struct {
	list      []pendingCall
	forgotten uint64 // position behind the last call that was forgotten
	most      int    // of calls without outcome that are kept; maxPendingCalls if zero
}

type pendingCall struct {
	pos uint64
	seq uint64 // noSeq when its outcome has come
}

const (
	noSeq           = ^uint64(0)
	maxPendingCalls = 64 << 10
)

// add notes the number of the call at pos.
func (p *pendingCalls) add(pos, seq uint64) {
	if len(p.list) == cap(p.list) {
		p.compact()
	}
	p.list = append(p.list, pendingCall{pos, seq})
}

// compact leaves out what is done, and the oldest of what is not if that is too
// much, so that there is room for as much again.
func (p *pendingCalls) compact() {
	p.list = slices.DeleteFunc(p.list, func(c pendingCall) bool { return c.seq == noSeq })
	most := p.most
	if most == 0 {
		most = maxPendingCalls
	}
	if more := len(p.list) - most; more > 0 {
		p.forgotten = p.list[more-1].pos + 1
		p.list = slices.Delete(p.list, 0, more)
	}
	if len(p.list) > cap(p.list)/2 {
		p.list = slices.Grow(p.list, len(p.list)+1)
	}
}

// take returns the number of the call at pos, which has its outcome now; ok is
// false where the call is not known: it is not in the file, or was forgotten.
func (p *pendingCalls) take(pos uint64) (seq uint64, ok bool) {
	i := len(p.list) - 1
	for near := i - 4; i > near && i >= 0 && p.list[i].pos > pos; i-- {
	}
	if i >= 0 && p.list[i].pos > pos {
		i, _ = slices.BinarySearchFunc(p.list[:i], pos, func(c pendingCall, pos uint64) int {
			if c.pos < pos {
				return -1
			}
			return 1
		})
	}
	if i < 0 || i >= len(p.list) || p.list[i].pos != pos || p.list[i].seq == noSeq {
		return 0, false
	}
	seq = p.list[i].seq
	p.list[i].seq = noSeq
	for n := len(p.list); n > 0 && p.list[n-1].seq == noSeq; n-- {
		p.list = p.list[:n-1]
	}
	return seq, true
}
