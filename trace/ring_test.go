package trace

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/mmapio"
)

// heapRing returns a ring on the heap with shards beside the common one.
func heapRing(dataBytes, shards int) *ring {
	data, all := ringLayout(dataBytes, 0)
	return newRing(make([]byte, all), data, shards, 0x5eed)
}

// heapShard returns the only shard of a ring, and its reader.
func heapShard(dataBytes int) (*shard, *ringReader) {
	r := heapRing(dataBytes, 0)
	return r.common(), newRingReader(r, nil)
}

// pushMark claims and commits a call of n bytes whose time is mark.
func pushMark(r *shard, n int, mark int64) claimState {
	pos, state := r.claim(n)
	if state == claimDone {
		commitMark(r, pos, n, mark)
	}
	return state
}

func commitMark(r *shard, pos uint64, n int, mark int64) {
	b := r.frame(pos, n)
	putRingWord(b, 8, uint64(mark))
	putRingWord(b, 16, r.ring.dropped.Load()&(1<<32-1))
	for i := ringFrameBytes; i < n; i++ {
		b[i] = byte(mark)
	}
	r.commit(pos, uint64(n), ringCall)
}

// checkMark reports a frame whose bytes are not those that were committed.
func checkMark(f *ringFrame) error {
	for _, c := range f.Args {
		if c != byte(f.MonoNS) {
			return fmt.Errorf("frame %d has byte %#x; want %#x", f.MonoNS, c, byte(f.MonoNS))
		}
	}
	return nil
}

func TestRingWrapsAtEveryAlignment(t *testing.T) {
	sizes := []int{128, 256, 1024}
	if raceflag.Enabled {
		sizes = sizes[:2]
	}
	for _, size := range sizes {
		for first := ringFrameBytes; first <= size/2; first += 8 {
			for second := ringFrameBytes; second <= size/2; second += 8 {
				r, c := heapShard(size)
				var pushed, read int64
				for range 3 * size / 8 {
					for _, n := range []int{first, second} {
						if state := pushMark(r, n, pushed); state != claimDone {
							continue // full: the reader below makes room
						}
						pushed++
					}
					for {
						ok, err := c.next()
						f := &c.frame
						if err != nil {
							t.Fatalf("ring %d, frames %d and %d: %v", size, first, second, err)
						}
						if !ok {
							break
						}
						if f.MonoNS != read || f.Seq != uint64(read) {
							t.Fatalf("ring %d, frames %d and %d: got frame %d, seq %d; want %d", size, first, second, f.MonoNS, f.Seq, read)
						}
						if err := checkMark(f); err != nil {
							t.Fatal(err)
						}
						read++
					}
					c.release()
				}
				if read != pushed || read < int64(3*size/8) {
					t.Fatalf("ring %d, frames %d and %d: %d pushed, %d read", size, first, second, pushed, read)
				}
			}
		}
	}
}

func TestRingTakesAFrameOfHalfItsSizeAnywhere(t *testing.T) {
	for offset := ringFrameBytes; offset < 512; offset += 8 {
		r, c := heapShard(512)
		for left := offset; left > 0; {
			n := min(left, r.maxFrame())
			if left-n > 0 && left-n < ringFrameBytes {
				n -= ringFrameBytes
			}
			if pushMark(r, n, 1) != claimDone {
				t.Fatalf("offset %d: cannot get there", offset)
			}
			left -= n
		}
		for {
			if ok, err := c.next(); err != nil {
				t.Fatal(err)
			} else if !ok {
				break
			}
		}
		c.release()
		if state := pushMark(r, r.maxFrame(), 2); state != claimDone {
			t.Errorf("offset %d: frame of %d bytes in an empty ring: state %d", offset, r.maxFrame(), state)
		}
	}
}

func TestRingIsZeroWhereItIsFree(t *testing.T) {
	r, c := heapShard(256)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		for pushMark(r, ringFrameBytes+8*rng.IntN(10), 0xff) == claimDone {
		}
		for range rng.IntN(6) {
			if ok, err := c.next(); err != nil || !ok {
				break
			}
		}
		c.release()
		for pos := r.tail.Load(); pos < r.head.Load()+uint64(len(r.data)); pos++ {
			if b := r.data[pos&r.mask]; b != 0 {
				t.Fatalf("free byte at position %d is %#x", pos, b)
			}
		}
	}
}

func TestRingCountsDropsExactly(t *testing.T) {
	r, c := heapShard(512)
	var made, read uint64
	next := uint64(0) // sequence number that must not come before
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		for range rng.IntN(30) {
			made++
			if pushMark(r, ringFrameBytes+8*rng.IntN(8), int64(made-1)) == claimFull {
				r.ring.dropped.Add(1)
			}
		}
		for {
			ok, err := c.next()
			f := &c.frame
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			read++
			if f.Seq != uint64(f.MonoNS) || f.Seq < next { // the mark is the call's number
				t.Fatalf("call %d has sequence number %d", f.MonoNS, f.Seq)
			}
			next = f.Seq + 1
		}
		c.release()
	}
	if dropped := r.ring.dropped.Load(); read+dropped != made || dropped == 0 {
		t.Errorf("%d calls made, %d read, %d dropped", made, read, dropped)
	}
}

func TestRingReaderRefusesWhatIsNoFrame(t *testing.T) {
	for name, damage := range map[string]func(r *shard, word uint64) uint64{
		"tag of another position": func(r *shard, w uint64) uint64 { return w&(1<<32-1) | r.tag(8) },
		"beyond the end":          func(r *shard, w uint64) uint64 { return r.tag(0) | 1<<31 | ringCall },
		"no length":               func(r *shard, w uint64) uint64 { return r.tag(0) | ringCall },
		"shorter than a header":   func(r *shard, w uint64) uint64 { return r.tag(0) | 16 | ringCall },
		"no room for Unix time":   func(r *shard, w uint64) uint64 { return r.tag(0) | 24 | ringCallWall },
		"unknown kind":            func(r *shard, w uint64) uint64 { return r.tag(0) | 24 | 7 },
	} {
		r, c := heapShard(256)
		pushMark(r, 64, 1)
		word := mmapio.Uint64(r.data, 0)
		word.Store(damage(r, word.Load()))
		if ok, err := c.next(); ok || err == nil {
			t.Errorf("%s: ok %t, error %v", name, ok, err)
		}
	}
}

// TestRingInterleavings runs two producers and the consumer of a tiny ring in
// different orders of their atomic steps: load tail, load head, claim, commit;
// read one frame, or release. Every order must lose no frame, deliver none
// twice, keep each producer's order, and hand out no byte that another holds.
//
// One frame each is tried in all orders, from several start positions: the frames
// fit beside each other or not, and either may need a pad. Longer runs are tried
// in random orders.
func TestRingInterleavings(t *testing.T) {
	schedules := 0
	for start := uint64(0); start < 128; start += 24 { // rest before the end: all, some, the least
		for _, sizes := range [][2][]int{{{48}, {64}}, {{24}, {32}}} {
			var explore func(schedule []byte)
			explore = func(schedule []byte) {
				w := newRingWorld(t, start, sizes)
				for _, actor := range schedule {
					w.step(actor)
				}
				end := true
				for actor := range byte(3) {
					if w.enabled(actor) {
						end = false
						explore(append(schedule[:len(schedule):len(schedule)], actor))
					}
				}
				if end {
					schedules++
					w.finish(schedule)
				}
			}
			explore(nil)
		}
		if testing.Short() || raceflag.Enabled {
			break
		}
	}
	t.Logf("%d orders", schedules)

	runs := 50_000
	if testing.Short() || raceflag.Enabled {
		runs = 5_000
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range runs {
		var sizes [2][]int
		for p := range sizes {
			for range 8 {
				sizes[p] = append(sizes[p], ringFrameBytes+8*rng.IntN(6))
			}
		}
		w := newRingWorld(t, 8*rng.Uint64N(16), sizes)
		var schedule []byte
		for w.enabled(0) || w.enabled(1) || w.enabled(2) {
			if actor := byte(rng.IntN(3)); w.enabled(actor) {
				w.step(actor)
				schedule = append(schedule, actor)
			}
		}
		w.finish(schedule)
	}
}

// ringWorld is one run of the protocol.
type ringWorld struct {
	t     *testing.T
	r     *shard
	c     *ringReader
	prod  [2]ringActor
	got   [2]int // frames delivered of each producer
	owned []byte // who holds each byte of the data: 0 nobody, else producer + 1
	idle  bool   // the consumer found nothing: it waits for a commit
}

type ringActor struct {
	sizes      []int
	done       int
	at         int // step of the frame: 0 load tail, 1 load head, 2 claim, 3 commit
	tail, head uint64
	pos        uint64
	full       bool // waits for a release
}

// newRingWorld makes an empty ring that stands at position start.
func newRingWorld(t *testing.T, start uint64, sizes [2][]int) *ringWorld {
	w := &ringWorld{t: t, idle: true}
	w.r, w.c = heapShard(128)
	w.r.tail.Store(start)
	w.r.head.Store(start)
	w.c.shards[0].pos, w.c.shards[0].released = start, start
	w.owned = make([]byte, len(w.r.data))
	for i := range w.prod {
		w.prod[i].sizes = sizes[i]
	}
	return w
}

func (w *ringWorld) enabled(actor byte) bool {
	if actor == 2 {
		return !w.idle || w.c.held > 0
	}
	p := &w.prod[actor]
	return p.done < len(p.sizes) && !p.full
}

// step takes the next step of an actor that is enabled.
func (w *ringWorld) step(actor byte) {
	if actor == 2 {
		w.consume()
		return
	}
	p := &w.prod[actor]
	n := p.sizes[p.done]
	switch p.at {
	case 0:
		p.tail = w.r.tail.Load()
		p.at = 1
	case 1:
		p.head = w.r.head.Load()
		p.at = 2
	case 2:
		var state claimState
		switch p.pos, state = w.r.claimAt(p.tail, p.head, uint64(n)); state {
		case claimDone:
			p.at = 3
			w.idle = false // it may have committed a pad
			for i := range n {
				off := (p.pos + uint64(i)) & w.r.mask
				if w.owned[off] != 0 || w.r.data[off] != 0 {
					w.t.Fatalf("producer %d was given byte %d: holder %d, value %#x", actor, off, w.owned[off], w.r.data[off])
				}
				w.owned[off] = actor + 1
			}
		case claimFull:
			if p.tail == p.head {
				w.t.Fatalf("frame of %d bytes is refused by an empty ring", n)
			}
			p.at, p.full = 0, w.r.head.Load() == p.head
		default:
			p.at = 0
		}
	case 3:
		commitMark(w.r, p.pos, n, int64(actor)<<4|int64(p.done))
		p.at = 0
		p.done++
		w.idle = false
	}
}

// consume reads one frame, or where there is none releases what was read.
func (w *ringWorld) consume() {
	ok, err := w.c.next()
	f := &w.c.frame
	if err != nil {
		w.t.Fatal(err)
	}
	if ok {
		producer, index := int(f.MonoNS>>4), int(f.MonoNS&15)
		if index != w.got[producer] {
			w.t.Fatalf("producer %d: frame %d came; want %d", producer, index, w.got[producer])
		}
		if err := checkMark(f); err != nil {
			w.t.Fatal(err)
		}
		w.got[producer]++
		return
	}
	w.idle = true
	for pos := w.c.shards[0].released; pos < w.c.shards[0].pos; pos++ {
		w.owned[pos&w.r.mask] = 0
	}
	w.c.release()
	for i := range w.prod {
		w.prod[i].full = false
	}
}

func (w *ringWorld) finish(schedule []byte) {
	for i, p := range w.prod {
		if p.done != len(p.sizes) || w.got[i] != p.done {
			w.t.Fatalf("schedule %v: producer %d committed %d of %d frames, %d came", schedule, i, p.done, len(p.sizes), w.got[i])
		}
	}
}

func TestRingManyProducers(t *testing.T) {
	const producers, frames = 4, 5000
	r, c := heapShard(2048)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(p)))
			for i := range frames {
				n := ringFrameBytes + 8*rng.IntN(20)
				pos, state := r.claimWait(n, nil)
				if state != claimDone {
					t.Errorf("claim: state %d", state)
					return
				}
				commitMark(r, pos, n, int64(p)<<32|int64(i))
			}
		})
	}
	var next [producers]int64
	for read := 0; read < producers*frames; {
		ok, err := c.next()
		f := &c.frame
		if err != nil {
			t.Fatal(err)
		}
		if !ok || c.held > 512 {
			c.release()
		}
		if !ok {
			runtime.Gosched()
			continue
		}
		p := f.MonoNS >> 32
		if got := f.MonoNS & (1<<32 - 1); got != next[p] {
			t.Fatalf("producer %d: frame %d came; want %d", p, got, next[p])
		}
		if f.Seq != uint64(read) {
			t.Fatalf("frame %d has sequence number %d", read, f.Seq)
		}
		next[p]++
		read++
	}
	wg.Wait()
}

func TestRingCloseEndsWaiting(t *testing.T) {
	r, _ := heapShard(128)
	for pushMark(r, 64, 1) == claimDone {
	}
	state := make(chan claimState)
	go func() {
		_, s := r.claimWait(64, nil)
		state <- s
	}()
	for r.ring.waiting.Load() == 0 {
		runtime.Gosched()
	}
	r.ring.close()
	if end := r.tail.Load() &^ ringClosed; end != 128 {
		t.Errorf("ring ends at %d; want 128", end)
	}
	if s := <-state; s != claimClosed {
		t.Errorf("waiting claim: state %d; want closed", s)
	}
	if s := pushMark(r, 24, 1); s != claimClosed {
		t.Errorf("claim after close: state %d; want closed", s)
	}
}
