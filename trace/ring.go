package trace

import (
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/mmapio"
)

// The memory of a ring, in one mapping that another process can open after this
// one was killed. All words are in the machine's byte order.
//
//	0                header, ringHeaderBytes: the words at the offsets below
//	ringHeaderBytes  data: frames; a power of two bytes
//	behind the data  definitions: what the ids in the frames stand for (ringdefs.go)
//
// A frame of the data, 8-aligned:
//
//	0   commit word: tag of the position <<32 | length | kind; stored last
//	8   time of the call, ns since the recorder's start
//	16  drops counted before the call, 32 bits; op, 16 bits; 0, 16 bits
//	24  Unix time of the call in ns (kind ringCallWall only)
//	    arguments (ringframe.go)
//
// An outcome (ringoutcome.go) has words of its own from 16 on.
//
// Positions count bytes since creation and never wrap; a position's offset in
// the data is its remainder. Frames do not wrap: a pad, which may be nothing but
// its commit word, fills the end. The length is a multiple of 8, which leaves its
// low bits for the kind. The tag is the mark by which a frame is known to belong
// to just this position: a producer that dies between claim and commit leaves a
// hole, and whoever drains the ring then finds the next frame by its tag.
const (
	ringMagic       = "LMCTRING"
	ringVersion     = 1
	ringHeaderBytes = 4096

	ringAtMagic        = 0
	ringAtVersion      = 8   // version; header bytes <<32
	ringAtDataBytes    = 16  // size of the data
	ringAtDefsBytes    = 24  // size of the definitions
	ringAtPID          = 32  // of the producer
	ringAtNonce        = 40  // 32 bits mixed into every tag
	ringAtMonoStart    = 48  // recorder's start on its monotonic clock, ns
	ringAtWallStart    = 56  // the same moment, Unix ns
	ringAtTail         = 128 // words that are written alone: a pair of cache lines each
	ringAtHead         = 256
	ringAtDropped      = 384
	ringAtDefsTail     = 512
	ringAtConsumed     = 640 // two slots of ringSlotBytes
	ringAtLostOutcomes = 768
	ringAtPathBytes    = 1024
	ringAtPath         = 1032 // path of the trace file, up to ringMaxPath bytes
	ringMaxPath        = ringHeaderBytes - ringAtPath
	ringSlotBytes      = 32
	ringFrameBytes     = 24 // of a call, before its arguments
	ringClosed         = 1  // flag in the tail word: nothing is claimed any more
	minRingDataBytes   = 128
	maxRingDataBytes   = 1 << 30
)

// Kinds of frame in the ring.
const (
	ringPad         = 1 // skip
	ringCall        = 2
	ringCallWall    = 3 // with the Unix time
	ringOutcome     = 4
	ringOutcomeWall = 5 // with the Unix time
	ringKindMask    = 7
)

// ring is a bounded queue of frames with many producers and one consumer. It
// never waits, except in claimWait.
//
// Ownership: bytes of positions [head, tail) are a producer's from its claim to
// its commit, and the consumer's from then on; the rest is free and zero. Only
// producers move tail, by CAS; only the consumer stores head, after it has
// zeroed what it gives back. Go atomics are sequentially consistent: the commit
// word publishes all bytes of the frame stored before it, and the head store
// gives them back zeroed, so that a claimed frame's commit word reads 0 until it
// is stored.
type ring struct {
	// Immutable after newRing.
	header []byte
	data   []byte
	mask   uint64 // len(data) - 1
	nonce  uint32
	mark   uint64 // bytes in use above which a producer wakes the consumer

	tail         *atomic.Uint64 // position behind the last claim, or with ringClosed
	head         *atomic.Uint64 // position before which everything is given back
	dropped      *atomic.Uint64 // calls that were made and are not in the ring
	lostOutcomes *atomic.Uint64 // outcomes that are not in the ring, of calls that are

	asleep atomic.Bool   // the consumer sleeps: it sets it, who wakes it clears it
	wake   chan struct{} // one wake-up may wait in it

	waiting atomic.Int32 // producers in claimWait
	mu      sync.Mutex   // for room
	room    sync.Cond    // head has moved, or the ring was closed, while someone waited
}

// ringLayout returns the sizes of a ring whose data has at least dataBytes and
// whose definitions have defsBytes: of its data, and of all its memory.
func ringLayout(dataBytes, defsBytes int) (data, all int) {
	data = min(max(dataBytes, minRingDataBytes), maxRingDataBytes)
	data = 1 << bits.Len(uint(data-1))
	return data, ringHeaderBytes + data + defsBytes
}

// newRing makes a ring in zeroed mem of the size that ringLayout gave. The
// nonce should differ between rings.
func newRing(mem []byte, dataBytes int, nonce uint32) *ring {
	r := &ring{
		header: mem[:ringHeaderBytes:ringHeaderBytes],
		data:   mem[ringHeaderBytes : ringHeaderBytes+dataBytes : ringHeaderBytes+dataBytes],
		mask:   uint64(dataBytes) - 1,
		nonce:  nonce,
		mark:   uint64(dataBytes) / 4,
		wake:   make(chan struct{}, 1),
	}
	if dataBytes&(dataBytes-1) != 0 || dataBytes < minRingDataBytes {
		panic(fmt.Sprintf("trace: ring of %d bytes", dataBytes))
	}
	r.room.L = &r.mu
	r.tail = r.word(ringAtTail)
	r.head = r.word(ringAtHead)
	r.dropped = r.word(ringAtDropped)
	r.lostOutcomes = r.word(ringAtLostOutcomes)
	r.word(ringAtDataBytes).Store(uint64(dataBytes))
	r.word(ringAtDefsBytes).Store(uint64(len(mem) - ringHeaderBytes - dataBytes))
	r.word(ringAtNonce).Store(uint64(nonce))
	r.word(ringAtVersion).Store(ringVersion | ringHeaderBytes<<32)
	copy(r.header[ringAtMagic:], ringMagic)
	return r
}

func (r *ring) word(off int) *atomic.Uint64 { return mmapio.Uint64(r.header, off) }

// tag returns the mark of a frame at pos. Neighbouring positions and the same
// offset a lap later have different tags.
func (r *ring) tag(pos uint64) uint64 {
	return uint64(uint32(pos>>3)*0x9e3779b1^r.nonce) << 32
}

// maxFrame is the longest frame that always fits an empty ring, whatever its
// position.
func (r *ring) maxFrame() int { return len(r.data) / 2 }

// claimState is the outcome of a claim.
type claimState uint8

const (
	claimDone   claimState = iota
	claimFull              // no room now
	claimClosed            // no room ever
	claimRaced             // another producer was faster: try again
)

// claim takes n bytes, a multiple of 8 and at most maxFrame, for a frame that
// the caller must write and commit.
//
//go:nosplit
func (r *ring) claim(n int) (pos uint64, state claimState) {
	for {
		tail := r.tail.Load()
		pos, state = r.claimAt(tail, r.head.Load(), uint64(n))
		if state != claimRaced {
			return pos, state
		}
	}
}

// claimAt claims behind tail. Head was loaded after tail: a claim that fits is
// safe, since head only grows, and one that does not fit did not fit at the time
// of that load.
//
//go:nosplit
func (r *ring) claimAt(tail, head, n uint64) (pos uint64, state claimState) {
	if tail&ringClosed != 0 {
		return 0, claimClosed
	}
	if head > tail {
		return 0, claimRaced
	}
	var pad uint64
	if rest := uint64(len(r.data)) - tail&r.mask; rest < n {
		pad = rest
	}
	used := tail + pad + n - head
	if used > uint64(len(r.data)) {
		return 0, claimFull
	}
	if !r.tail.CompareAndSwap(tail, tail+pad+n) {
		return 0, claimRaced
	}
	if pad > 0 {
		r.commit(tail, pad, ringPad)
	}
	if used > r.mark {
		r.nudge()
	}
	return tail + pad, claimDone
}

// claimWait claims like claim but waits for room: it yields the processor a few
// times, then parks until the consumer has moved head. It does not burn a core.
func (r *ring) claimWait(n int) (pos uint64, state claimState) {
	for range 8 {
		if pos, state = r.claim(n); state != claimFull {
			return pos, state
		}
		r.nudge()
		runtime.Gosched()
	}
	// A consumer that stores head after our claim has failed sees waiting, and
	// then gets mu only when we have gone to sleep or got room.
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if pos, state = r.claim(n); state != claimFull {
			return pos, state
		}
		r.nudge()
		r.room.Wait()
	}
}

// frame returns the bytes of a claimed frame of n bytes.
//
//go:nosplit
func (r *ring) frame(pos uint64, n int) []byte {
	off := pos & r.mask
	return r.data[off : off+uint64(n) : off+uint64(n)]
}

// commit publishes the frame of n bytes at pos, of which all but the first 8
// have been written.
//
//go:nosplit
func (r *ring) commit(pos, n, kind uint64) {
	mmapio.Publish(mmapio.Uint64(r.data, int(pos&r.mask)), r.tag(pos)|n|kind)
}

// nudge wakes the consumer if it sleeps. It never blocks.
func (r *ring) nudge() {
	if r.asleep.Load() && r.asleep.CompareAndSwap(true, false) {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// close makes every later claim fail, and returns the position at which the ring
// ends. Frames claimed before it are still committed. It may be called twice.
func (r *ring) close() (end uint64) {
	end = r.tail.Or(ringClosed) &^ ringClosed
	r.mu.Lock()
	r.room.Broadcast()
	r.mu.Unlock()
	r.nudge()
	return end
}

// ringReader is the consumer's end of a ring. It belongs to one goroutine.
type ringReader struct {
	ring     *ring
	pos      uint64 // behind the last frame that was read
	released uint64 // head, as this reader has stored it
	frames   uint64 // calls read since creation
	drops    uint64 // drops that the frames read have told of
	slot     int    // of the two, where the state is noted next

	frame ringFrame // the last one that was read
}

// ringFrame is a committed call in the ring, or the outcome of one.
type ringFrame struct {
	IsOutcome bool   // only Op, the times and Args, which are an outcome's words, are set
	Pos       uint64 // of the frame
	Op        Op
	MonoNS    int64
	WallNS    int64 // 0 where HasWall is false
	// Seq is the call's number among all that were made: the calls before it
	// in the ring and the drops counted before it. Drops are attributed to the
	// first later frame, exactly so with one producer.
	Seq     uint64
	HasWall bool
	Args    []byte // in the ring: valid until release
}

// next reads the next committed call or outcome into frame; ok is false where there is none
// yet. An error means that the ring's memory was overwritten.
func (c *ringReader) next() (ok bool, err error) {
	r := c.ring
	for c.pos-c.released < uint64(len(r.data)) { // at the full lap stands a frame that was read and not released
		off := c.pos & r.mask
		word := mmapio.Uint64(r.data, int(off)).Load()
		if word == 0 {
			return false, nil
		}
		n := word & (1<<32 - 1) &^ ringKindMask
		if word&^(1<<32-1) != r.tag(c.pos) || n == 0 || off+n > uint64(len(r.data)) || c.pos+n-c.released > uint64(len(r.data)) {
			return false, fmt.Errorf("ring: word %#x at position %d is no frame's", word, c.pos)
		}
		b := r.data[off : off+n : off+n]
		c.pos += n
		switch kind := word & ringKindMask; {
		case kind == ringPad:
			continue
		case kind == ringCall && n >= ringFrameBytes, kind == ringCallWall && n >= ringFrameBytes+8:
			c.frame.Pos = c.pos - n
			c.call(b, kind == ringCallWall)
			return true, nil
		case kind == ringOutcome && n >= ringOutcomeBytes, kind == ringOutcomeWall && n >= ringOutcomeBytes+8:
			c.frame.Pos = c.pos - n
			c.outcome(b, kind == ringOutcomeWall)
			return true, nil
		default:
			return false, fmt.Errorf("ring: frame of kind %d, %d bytes, at position %d", kind, n, c.pos-n)
		}
	}
	return false, nil
}

// call takes a frame apart. It stores field by field: a frame that is returned and
// copied is read back wider than it was stored, which doubles the drain's time.
func (c *ringReader) call(b []byte, wall bool) {
	word := ringWord(b, 16)
	c.noteDrops(word & (1<<32 - 1))
	f := &c.frame
	f.IsOutcome = false
	f.Op = Op(word >> 32)
	f.MonoNS = int64(ringWord(b, 8))
	f.Seq = c.frames + c.drops
	f.HasWall = wall
	if wall {
		f.WallNS, f.Args = int64(ringWord(b, 24)), b[ringFrameBytes+8:]
	} else {
		f.WallNS, f.Args = 0, b[ringFrameBytes:]
	}
	c.frames++
}

// noteDrops takes the low 32 bits of a count of drops. Producers that race may
// commit counts out of order: the count never goes back.
func (c *ringReader) noteDrops(low uint64) {
	if ahead := int32(uint32(low) - uint32(c.drops)); ahead > 0 {
		c.drops += uint64(ahead)
	}
}

// unreleased returns the bytes that were read and not given back.
func (c *ringReader) unreleased() uint64 { return c.pos - c.released }

// release gives what was read back to the producers, zeroed. Before it touches
// anything it notes where it stands, so that after a crash at any point the ring
// can be drained from there: what is before the noted position is in the trace
// file, and the next call's number is known.
func (c *ringReader) release() {
	if c.pos == c.released {
		return
	}
	r := c.ring
	slot := ringAtConsumed + c.slot*ringSlotBytes
	r.word(slot + 24).Store(0) // no slot while it changes
	r.word(slot).Store(c.pos)
	r.word(slot + 8).Store(c.frames)
	r.word(slot + 16).Store(c.drops)
	r.word(slot + 24).Store(slotCheck(c.pos, c.frames, c.drops))
	c.slot = 1 - c.slot

	from, to := c.released&r.mask, c.pos&r.mask
	if from < to {
		clear(r.data[from:to])
	} else {
		clear(r.data[from:])
		clear(r.data[:to])
	}
	c.released = c.pos
	r.head.Store(c.pos)
	if r.waiting.Load() > 0 {
		r.mu.Lock()
		r.room.Broadcast()
		r.mu.Unlock()
	}
}

// slotCheck returns the check word of a slot; it is never 0.
func slotCheck(pos, frames, drops uint64) uint64 {
	return (bits.RotateLeft64(pos, 17)^bits.RotateLeft64(frames, 34)^drops)*0x9e3779b97f4a7c15 | 1
}
