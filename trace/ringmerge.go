package trace

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lmcache/lmcache-go/mmapio"
)

// The order of the shards.
//
// Each frame has a key: its time, or that of a frame before it in its shard if
// that is later. The consumer reads the frame with the lowest key, at equal keys
// that of the first shard. So far the order depends on the frames alone.
//
// A frame may be read once no lower key can come. What is claimed from a
// processor's shard has its time read behind the claim. So when the consumer reads
// the clock, then the tails, whatever is claimed behind a tail has a later time;
// what is claimed and not committed holds up the frames that are later than the
// reading at which it was not yet claimed. mergeSlack covers that a processor may
// read its counter before others see the claim, and that counters differ.
//
// In the common shard, where producers race, the time is read before the claim,
// so that the times before a frame are older than the claim. A producer
// that loses its processor in between has its frame come late. Then, or should
// the slack not suffice, records are in the file in the order of their claims
// instead of their times; nothing else depends on it.
//
// Records of one goroutine are in its order: before its second call reads the
// clock, the first one is committed, and others see that long before the slack is
// over. The first one's key is not above the second one's, since all times up to
// its place were read before. They cannot tie either: to get to another
// processor takes longer than the clock needs for a step (Recorder.shards).
//
// An outcome is not read before its call, whatever the clock says.
const mergeSlack = int64(20 * time.Microsecond)

var errNoFrame = errors.New("ring: a frame that was not claimed")

// ringReader is the consumer's end of a ring. It belongs to one goroutine.
type ringReader struct {
	ring   *ring
	shards []shardReader
	now    func() int64 // the producers' clock; nil: all that is there may be read

	seen   int64  // what is not claimed yet will have a later time, as of the last look
	limit  int64  // frames below this key may be read
	others int64  // no shard but the one that was read last has a frame ready with a lower key
	frames uint64 // calls read since creation
	drops  uint64 // drops that the frames read have told of
	held   uint64 // bytes that were read and not given back
	slot   int    // of the two, where the state is noted next

	frame ringFrame // the last one that was read
	at    int       // its shard

	dead  bool  // the ring is: what is claimed and not committed never will be
	fresh bool  // in a dead ring: all shards were looked at
	holes int64 // places where that is so
	bad   int64 // places where something stands that is no frame
}

// shardReader is the consumer's end of a shard.
type shardReader struct {
	*shard
	pos      uint64 // behind the last frame that was read, and pads
	released uint64 // head, as this reader has stored it
	end      uint64 // position behind the last claim: as of the last look, or for good if the ring is dead
	until    uint64 // in a dead ring: no frame from here on is read for now
	closed   bool   // nothing is claimed behind end
	floor    int64  // no frame from pos on has a lower time

	ready bool   // a frame stands at pos:
	size  uint64 // its bytes
	kind  uint64
	key   int64  // its key; of the last one where none is ready
	bad   uint64 // places before it where a call stood that cannot be read
}

// ringFrame is a committed call in the ring, or the outcome of one.
type ringFrame struct {
	IsOutcome bool   // only ID, Op, the times and Args, which are an outcome's words, are set
	ID        uint64 // of the frame: its shard and position
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

func newRingReader(r *ring, now func() int64) *ringReader {
	c := &ringReader{ring: r, now: now, shards: make([]shardReader, len(r.shards)), limit: math.MaxInt64}
	for i := range c.shards {
		c.shards[i].shard, c.shards[i].until = &r.shards[i], math.MaxUint64
	}
	if len(r.shards) == 1 {
		c.now = nil
	}
	return c
}

// look finds out what may be read: next gives that, and no more.
func (c *ringReader) look() error {
	if c.now != nil {
		now := c.now()
		for i := range c.shards {
			c.shards[i].look(now, c.seen)
		}
		c.looked(now)
	}
	return c.advanceAll()
}

// advanceAll makes the next frame of every shard ready where there is one.
func (c *ringReader) advanceAll() error {
	c.others = math.MinInt64
	for i := range c.shards {
		if err := c.advance(&c.shards[i]); err != nil {
			return err
		}
	}
	return nil
}

// look notes what is claimed. The clock said now before, and seen at the last look.
func (s *shardReader) look(now, seen int64) {
	if s.pos >= s.end {
		s.floor = seen // none from here on was claimed at the last look
	}
	if s.ready && s.key > now {
		s.key = now // it was there before now: its clock was wrong
	}
	tail := s.tail.Load()
	s.end, s.closed = tail&^ringClosed, tail&ringClosed != 0
}

// looked ends the look that began at now.
func (c *ringReader) looked(now int64) {
	c.seen = max(c.seen, now-mergeSlack)
	c.limit = math.MaxInt64
}

// advance makes the next frame of s ready, or says by the limit that it is not.
func (c *ringReader) advance(s *shardReader) error {
	if s.ready {
		return nil
	}
	if err := c.peek(s); err != nil || s.ready || c.now == nil {
		return err
	}
	switch {
	case s.pos < s.end:
		c.limit = min(c.limit, max(s.floor, s.key))
	case !s.closed:
		c.limit = min(c.limit, c.seen)
	}
	return nil
}

// peek makes the next frame of s ready, if there is one. An error means that the
// ring's memory was overwritten.
func (c *ringReader) peek(s *shardReader) error {
	for s.pos-s.released < uint64(len(s.data)) { // at the full lap stands a frame that was read and not released
		if c.dead && (s.pos >= s.end || s.pos >= s.until) {
			return nil
		}
		word := mmapio.Uint64(s.data, int(s.pos&s.mask)).Load()
		n, kind, err := s.parse(word)
		if err == nil && c.dead && n > s.end-s.pos {
			err = errNoFrame
		}
		switch {
		case word == 0 && !c.dead:
			return nil
		case word == 0:
			c.holes++
			s.skip()
		case err != nil && !c.dead:
			return err
		case err != nil:
			c.bad++
			s.bad++ // a call, most likely
			s.skip()
		case kind == ringPad:
			s.pos += n
			c.held += n
		default:
			s.size, s.kind, s.ready = n, kind, true
			s.key = max(s.key, int64(ringWord(s.data, int(s.pos&s.mask)+8)))
			return nil
		}
	}
	return nil
}

// leastFrame is the least length of a frame by kind; 0 for what is no kind.
var leastFrame = [ringKindMask + 1]uint64{
	ringPad: 8, ringCall: ringFrameBytes, ringCallWall: ringFrameBytes + 8, ringOutcome: ringOutcomeBytes, ringOutcomeWall: ringOutcomeBytes + 8,
}

// parse takes the commit word at pos apart.
func (s *shardReader) parse(word uint64) (n, kind uint64, err error) {
	off := s.pos & s.mask
	n, kind = word&(1<<32-1)&^ringKindMask, word&ringKindMask
	least := leastFrame[kind]
	if word&^(1<<32-1) != s.tag(s.pos) || least == 0 || n < least || off+n > uint64(len(s.data)) || s.pos+n-s.released > uint64(len(s.data)) {
		return 0, 0, fmt.Errorf("ring: word %#x at position %d is no frame's", word, s.pos)
	}
	return n, kind, nil
}

// next reads the next committed call or outcome into frame; ok is false where
// there is none yet. An error means that the ring's memory was overwritten.
func (c *ringReader) next() (ok bool, err error) {
	best := 0
	if len(c.shards) == 1 {
		if err := c.advance(&c.shards[0]); err != nil || !c.shards[0].ready {
			return false, err
		}
	} else if best, err = c.choose(); best < 0 {
		return false, err
	}
	s := &c.shards[best]
	b := s.frame(s.pos, int(s.size))
	id := s.id | s.pos
	s.pos += s.size
	c.held += s.size
	s.ready = false
	c.at = best
	c.frame.ID = id
	c.frames += s.bad
	s.bad = 0
	switch s.kind {
	case ringCall, ringCallWall:
		c.call(b, s.kind == ringCallWall)
	default:
		c.outcome(b, s.kind == ringOutcomeWall)
	}
	return true, nil
}

// choose returns the shard whose frame is to be read next, -1 if there is none.
func (c *ringReader) choose() (best int, err error) {
	last := &c.shards[c.at]
	if err := c.advance(last); err != nil {
		return -1, err
	}
	if best = c.at; !last.ready || last.key >= min(c.others, c.limit) {
		if best = c.lowest(); best < 0 {
			return -1, nil
		}
	}
	// Once for each shard at most: calls and outcomes that wait for each other in
	// a circle are damage.
	for range c.shards {
		s := &c.shards[best]
		if s.kind != ringOutcome && s.kind != ringOutcomeWall {
			break
		}
		call := ringWord(s.data, int(s.pos&s.mask)+24)
		if call>>ringShardBits >= uint64(len(c.shards)) {
			break
		}
		of := &c.shards[call>>ringShardBits]
		if of.pos > call&ringPosMask {
			break // it was read
		}
		c.others = math.MinInt64
		if err := c.peek(of); err != nil {
			return -1, err
		}
		if !of.ready {
			if c.dead {
				break
			}
			return -1, nil
		}
		best = int(call >> ringShardBits)
	}
	return best, nil
}

// lowest returns the shard with the lowest key of those that are ready, -1 if it
// may not be read.
func (c *ringReader) lowest() (best int) {
	best = -1
	lowest := int64(math.MaxInt64)
	c.others = math.MaxInt64
	for i := range c.shards {
		s := &c.shards[i]
		switch {
		case !s.ready:
		case best < 0 || s.key < lowest:
			c.others = min(c.others, lowest)
			best, lowest = i, s.key
		default:
			c.others = min(c.others, s.key)
		}
	}
	if best < 0 || lowest >= c.limit && c.limit < math.MaxInt64 {
		return -1
	}
	return best
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

// empty reports whether all that is claimed was read.
func (c *ringReader) empty() bool {
	for i := range c.shards {
		if s := &c.shards[i]; s.pos != s.tail.Load()&^ringClosed {
			return false
		}
	}
	return true
}

// finished reports whether the ring was closed and all of it was read.
func (c *ringReader) finished() bool {
	for i := range c.shards {
		if c.shards[i].tail.Load()&ringClosed == 0 {
			return false
		}
	}
	return c.empty()
}

// skip passes over a place that holds no frame: to the next frame, which is where
// a commit word has the tag of just its position. Bytes that a producer left in a
// hole pass for one with a probability of 2^-32 a word at most: the tag has a nonce
// that is nowhere else.
func (s *shardReader) skip() {
	for s.pos += 8; s.pos < s.end; s.pos += 8 {
		word := mmapio.Uint64(s.data, int(s.pos&s.mask)).Load()
		if n, _, err := s.parse(word); err == nil && n <= s.end-s.pos {
			return
		}
	}
}

// release gives what was read back to the producers, zeroed. Before it touches
// anything it notes where it stands, so that after a crash at any point the ring
// can be drained from there: what is before the noted positions is in the trace
// file, and the next call's number is known.
func (c *ringReader) release() {
	if c.held == 0 {
		return
	}
	c.held = 0
	r := c.ring
	slot := ringAtConsumed + c.slot*ringSlotBytes
	check := r.word(slot + 16)
	check.Store(0) // no slot while it changes
	r.word(slot).Store(c.frames)
	r.word(slot + 8).Store(c.drops)
	var pos [maxRingShards + 1]uint64
	for i := range c.shards {
		pos[i] = c.shards[i].pos
		r.word(slot + ringSlotPos + 8*i).Store(pos[i])
	}
	check.Store(slotCheck(c.frames, c.drops, pos[:len(c.shards)]))
	c.slot = 1 - c.slot

	room := false
	for i := range c.shards {
		s := &c.shards[i]
		if s.pos == s.released {
			continue
		}
		from, to := s.released&s.mask, s.pos&s.mask
		if from < to {
			clear(s.data[from:to])
		} else {
			clear(s.data[from:])
			clear(s.data[:to])
		}
		s.released = s.pos
		s.head.Store(s.pos)
		// Who waits is woken once there is room for more than a few calls: to park and
		// to be woken costs as much as a hundred of them. There will be, since the
		// consumer goes on while anything is claimed.
		room = s.tail.Load()&^ringClosed-s.pos <= uint64(len(s.data))/4*3
	}
	if room && r.waiting.Load() > 0 { // for the common shard, the last one
		r.mu.Lock()
		r.room.Broadcast()
		r.mu.Unlock()
	}
}
