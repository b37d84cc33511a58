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
//	ringHeaderBytes  data of the shards, one behind the other: frames. The common
//	                 shard comes last; all if there is no other, else half of the
//	                 data, of which the others have equal parts of the other half.
//	                 Each is a power of two bytes
//	behind the data  definitions: what the ids in the frames stand for (ringdefs.go)
//
// A frame of the data, 8-aligned:
//
//	0   commit word: tag of the position <<32 | length | kind; stored last
//	8   time of the call, ns since the recorder's start
//	16  drops counted in all shards before the call, 32 bits; op, 16 bits; 0, 16 bits
//	24  Unix time of the call in ns (kind ringCallWall only)
//	    arguments (ringframe.go)
//
// An outcome (ringoutcome.go) has words of its own from 16 on.
//
// Positions count bytes of a shard since creation and never wrap; a position's
// offset in the shard's data is its remainder. Frames do not wrap: a pad, which
// may be nothing but its commit word, fills the end. The length is a multiple of
// 8, which leaves its low bits for the kind. The tag is the mark by which a frame
// is known to belong to just this position: a producer that dies between claim
// and commit leaves a hole, and whoever drains the ring then finds the next frame
// by its tag.
//
// A ring of version 1 has one shard, the words of which stand at ringV1AtTail to
// ringV1AtConsumed, and a header of ringV1HeaderBytes; all else is the same.
const (
	ringMagic       = "LMCTRING"
	ringVersion     = 2
	ringHeaderBytes = 36 << 10

	ringAtMagic        = 0
	ringAtVersion      = 8   // version; header bytes <<32
	ringAtDataBytes    = 16  // size of the data of all shards
	ringAtDefsBytes    = 24  // size of the definitions
	ringAtPID          = 32  // of the producer
	ringAtNonce        = 40  // 32 bits mixed into every tag
	ringAtMonoStart    = 48  // recorder's start on its monotonic clock, ns
	ringAtWallStart    = 56  // the same moment, Unix ns
	ringAtShards       = 64  // number of shards beside the common one
	ringAtDropped      = 384 // words that are written alone: a pair of cache lines each
	ringAtDefsTail     = 512
	ringAtLostOutcomes = 768
	ringAtPathBytes    = 1024
	ringAtPath         = 1032                 // path of the trace file, up to ringMaxPath bytes
	ringMaxPath        = 4096 - ringAtPath    //
	ringAtConsumed     = 4096                 // two slots of ringSlotBytes: frames, drops, check, then a position for each shard
	ringSlotBytes      = 1024                 //
	ringSlotPos        = 24                   // in a slot
	ringAtShard        = 8192                 // for each shard ringShardBytes: tail, head, dropped
	ringShardBytes     = 3 * 128              //
	maxRingShards      = 64                   // beside the common one
	minRingShardBytes  = 64 << 10             // of data: else there is the common shard alone
	ringFrameBytes     = 24                   // of a call, before its arguments
	ringClosed         = 1                    // flag in the tail word: nothing is claimed any more
	minRingDataBytes   = 128                  //
	maxRingDataBytes   = 1 << 30              //
	ringShardBits      = 56                   // a position with its shard: the shard's index stands from this bit on
	ringPosMask        = 1<<ringShardBits - 1 //

	ringV1HeaderBytes = 4096
	ringV1AtTail      = 128
	ringV1AtHead      = 256
	ringV1AtConsumed  = 640 // two slots of 32 bytes: position, frames, drops, check
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

// ring is a bounded queue of frames with many producers and one consumer, in
// shards. It never waits, except in claimWait.
//
// A producer that is pinned to processor p writes to shard p, which nobody else
// then does; where there is none, or no room in it, to the common one. The
// consumer merges them (ringmerge.go).
type ring struct {
	// Immutable after newRing.
	header []byte
	shards []shard // the last one is the common one
	nonce  uint32

	dropped      *atomic.Uint64 // calls that were made and are not in the ring
	lostOutcomes *atomic.Uint64 // outcomes that are not in the ring, of calls that are

	open   atomic.Bool   // cleared before the shards' tails are closed
	asleep atomic.Bool   // the consumer sleeps: it sets it, who wakes it clears it
	wake   chan struct{} // one wake-up may wait in it

	waiting atomic.Int32 // producers in claimWait
	mu      sync.Mutex   // for room, and closing
	room    sync.Cond    // a head has moved, or the ring was closed, while someone waited
}

// shard is a queue of frames with one consumer.
//
// Ownership: bytes of positions [head, tail) are a producer's from its claim to
// its commit, and the consumer's from then on; the rest is free and zero. Only
// producers move tail: in the common shard by CAS, in the others with a plain
// store by the one that is pinned to the processor. Only the consumer stores head,
// after it has zeroed what it gives back. Go atomics are sequentially consistent:
// the commit word publishes all bytes of the frame stored before it, and the head
// store gives them back zeroed, so that a claimed frame's commit word reads 0
// until it is stored.
type shard struct {
	ring *ring
	data []byte
	mask uint64 // len(data) - 1
	mark uint64 // bytes in use above which a producer wakes the consumer
	id   uint64 // index << ringShardBits

	tail    *atomic.Uint64 // position behind the last claim, or with ringClosed
	head    *atomic.Uint64 // position before which everything is given back
	dropped *atomic.Uint64 // calls that found no room here, nor elsewhere
}

// ringLayout returns the sizes of a ring whose data has at least dataBytes and
// whose definitions have defsBytes: of its data, and of all its memory.
func ringLayout(dataBytes, defsBytes int) (data, all int) {
	data = min(max(dataBytes, minRingDataBytes), maxRingDataBytes)
	data = 1 << bits.Len(uint(data-1))
	return data, ringHeaderBytes + data + defsBytes
}

// ringShards returns how many shards beside the common one pay for producers on
// as many processors.
func ringShards(dataBytes, processors int) int {
	n := min(1<<bits.Len(uint(processors-1)), maxRingShards)
	for n > 0 && dataBytes/2/n < minRingShardBytes {
		n /= 2
	}
	return n
}

// newRing makes a ring in zeroed mem of the size that ringLayout gave, with
// shards beside the common one: none, or a power of two. The nonce should differ
// between rings.
func newRing(mem []byte, dataBytes, shards int, nonce uint32) *ring {
	if dataBytes&(dataBytes-1) != 0 || dataBytes < minRingDataBytes || shards < 0 || shards > maxRingShards || shards&(shards-1) != 0 {
		panic(fmt.Sprintf("trace: ring of %d bytes in %d shards", dataBytes, shards))
	}
	r := &ring{
		header: mem[:ringHeaderBytes:ringHeaderBytes],
		nonce:  nonce,
		wake:   make(chan struct{}, 1),
	}
	r.open.Store(true)
	r.room.L = &r.mu
	r.dropped = r.word(ringAtDropped)
	r.lostOutcomes = r.word(ringAtLostOutcomes)
	r.split(mem[ringHeaderBytes:ringHeaderBytes+dataBytes], shards, false)
	r.word(ringAtDataBytes).Store(uint64(dataBytes))
	r.word(ringAtDefsBytes).Store(uint64(len(mem) - ringHeaderBytes - dataBytes))
	r.word(ringAtShards).Store(uint64(shards))
	r.word(ringAtNonce).Store(uint64(nonce))
	r.word(ringAtVersion).Store(ringVersion | ringHeaderBytes<<32)
	copy(r.header[ringAtMagic:], ringMagic)
	return r
}

// split gives each of shards and the common shard its part of the data and its
// words.
func (r *ring) split(data []byte, shards int, v1 bool) {
	r.shards = make([]shard, shards+1)
	part := len(data) / 2 / max(shards, 1)
	for i := range r.shards {
		n := part
		if i == shards {
			n = len(data)
		}
		s := &r.shards[i]
		*s = shard{ring: r, data: data[:n:n], mask: uint64(n) - 1, mark: uint64(n) / 4, id: uint64(i) << ringShardBits}
		data = data[n:]
		if v1 {
			s.tail, s.head = r.word(ringV1AtTail), r.word(ringV1AtHead)
			continue
		}
		at := ringAtShard + i*ringShardBytes
		s.tail, s.head, s.dropped = r.word(at), r.word(at+128), r.word(at+256)
	}
}

func (r *ring) word(off int) *atomic.Uint64 { return mmapio.Uint64(r.header, off) }

// common returns the shard that any producer may use.
func (r *ring) common() *shard { return &r.shards[len(r.shards)-1] }

// tag returns the mark of a frame at pos. Neighbouring positions and the same
// offset a lap later have different tags.
func (s *shard) tag(pos uint64) uint64 {
	return uint64(uint32(pos>>3)*0x9e3779b1^s.ring.nonce) << 32
}

// maxFrame is the longest frame that always fits an empty shard, whatever its
// position.
func (s *shard) maxFrame() int { return len(s.data) / 2 }

// maxFrame is the longest frame that always fits an empty ring.
func (r *ring) maxFrame() int { return r.common().maxFrame() }

// claimState is the outcome of a claim.
type claimState uint8

const (
	claimDone   claimState = iota
	claimFull              // no room now
	claimClosed            // no room ever
	claimRaced             // another producer was faster: try again
)

// claim takes n bytes, a multiple of 8 and at most maxFrame, of a shard that
// others claim from too, for a frame that the caller must write and commit.
func (s *shard) claim(n int) (pos uint64, state claimState) {
	for {
		tail := s.tail.Load()
		pos, state = s.claimAt(tail, s.head.Load(), uint64(n))
		if state != claimRaced {
			return pos, state
		}
	}
}

// claimAt claims behind tail. Head was loaded after tail: a claim that fits is
// safe, since head only grows, and one that does not fit did not fit at the time
// of that load. It may be preempted where it starts, when nothing is claimed yet,
// but not between the claim and the caller's commit.
func (s *shard) claimAt(tail, head, n uint64) (pos uint64, state claimState) {
	if tail&ringClosed != 0 {
		return 0, claimClosed
	}
	if head > tail {
		return 0, claimRaced
	}
	pad := s.pad(tail, n)
	if tail+pad+n-head > uint64(len(s.data)) {
		return 0, claimFull
	}
	if !s.tail.CompareAndSwap(tail, tail+pad+n) {
		return 0, claimRaced
	}
	if pad > 0 {
		s.commit(tail, pad, ringPad)
	}
	return tail + pad, claimDone
}

// pad returns how many bytes behind tail a frame of n bytes leaves unused.
//
//go:nosplit
func (s *shard) pad(tail, n uint64) uint64 {
	if rest := uint64(len(s.data)) - tail&s.mask; rest < n {
		return rest
	}
	return 0
}

// claimPinned claims like claim from the shard of the processor that the caller
// is pinned to, from before until after the commit. The ring was open since. It
// reports false if there is no room.
//
//go:nosplit
func (s *shard) claimPinned(n uint64) (pos uint64, ok bool) {
	tail := s.tail.Load()
	pad := s.pad(tail, n)
	if tail+pad+n-s.head.Load() > uint64(len(s.data)) {
		return 0, false
	}
	mmapio.Publish(s.tail, tail+pad+n)
	if pad > 0 {
		s.commit(tail, pad, ringPad)
	}
	return tail + pad, true
}

// claimWait claims like claim but waits for room: it yields the processor a few
// times, then parks until the consumer has moved head. It does not burn a core.
// Before each try it calls before, which may be nil.
func (s *shard) claimWait(n int, before func()) (pos uint64, state claimState) {
	r := s.ring
	try := func() (uint64, claimState) {
		if before != nil {
			before()
		}
		return s.claim(n)
	}
	for range 8 {
		if pos, state = try(); state != claimFull {
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
		if pos, state = try(); state != claimFull {
			return pos, state
		}
		r.nudge()
		r.room.Wait()
	}
}

// frame returns the bytes of a claimed frame of n bytes.
//
//go:nosplit
func (s *shard) frame(pos uint64, n int) []byte {
	off := pos & s.mask
	return s.data[off : off+uint64(n) : off+uint64(n)]
}

// commit publishes the frame of n bytes at pos, of which all but the first 8
// have been written.
//
//go:nosplit
func (s *shard) commit(pos, n, kind uint64) {
	mmapio.Publish(mmapio.Uint64(s.data, int(pos&s.mask)), s.tag(pos)|n|kind)
}

// committed wakes the consumer if what is claimed up to end is worth it.
//
//go:nosplit
func (s *shard) committed(end uint64) {
	if end-s.head.Load() > s.mark && s.ring.asleep.Load() {
		s.ring.nudge()
	}
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

// close makes every later claim fail. What was claimed before it from the common
// shard may still have to be committed. It may be called twice.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Swap(false) && len(r.shards) > 1 {
		// Who is pinned may have found the ring open, and moves a tail without
		// looking again. The world does not stop before it is done; who comes later
		// finds the ring closed.
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
	}
	for i := range r.shards {
		r.shards[i].tail.Or(ringClosed)
	}
	r.room.Broadcast()
	r.nudge()
}

// slotCheck returns the check word of a slot; it is never 0.
func slotCheck(frames, drops uint64, pos []uint64) uint64 {
	sum := bits.RotateLeft64(frames, 34) ^ drops
	for _, p := range pos {
		sum = bits.RotateLeft64(sum*0x9e3779b97f4a7c15, 17) ^ p
	}
	return sum*0x9e3779b97f4a7c15 | 1
}

// slotCheckV1 returns that of a ring of version 1.
func slotCheckV1(pos, frames, drops uint64) uint64 {
	return (bits.RotateLeft64(pos, 17)^bits.RotateLeft64(frames, 34)^drops)*0x9e3779b97f4a7c15 | 1
}
