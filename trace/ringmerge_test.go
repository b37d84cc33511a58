package trace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
)

// TestShardInterleavings runs two goroutines, which write to shards of a ring and
// move between them, and the consumer in different orders of their steps. A
// writer claims, reads the clock, commits; in the common shard it reads the clock
// first. The consumer reads the clock, looks at each tail, makes frames ready,
// reads until nothing may be read, and releases (the last three in one step where
// all orders are tried). Every order must lose no frame,
// deliver none twice, keep each goroutine's order, and the order of the times as
// long as nobody writes to the common shard.
//
// One round of the consumer within two frames of one goroutine and one of the other
// is tried in all orders. Longer runs are tried in random orders.
func TestShardInterleavings(t *testing.T) {
	schedules := 0
	_, all := ringLayout(512, 0)
	mem := make([]byte, all)
	for _, shards := range [][2][]int{
		{{0, 1}, {0}}, {{0, 1}, {1}}, {{1, 0}, {0}}, {{0, 1}, {2}}, {{2, 0}, {2}}, {{0, 2}, {1}}, {{0, 0}, {1}},
	} {
		for _, coarse := range []int64{1, 2} {
			if coarse > 1 && !slices.Equal(shards[1], []int{0}) {
				continue
			}
			var explore func(schedule []byte)
			explore = func(schedule []byte) {
				w := newMergeWorld(t, mem, 512, shards, coarse, 1)
				w.atOnce = true
				for _, actor := range schedule {
					w.step(actor)
				}
				more := false
				for actor := range byte(3) {
					if w.enabled(actor) {
						more = true
						explore(append(schedule[:len(schedule):len(schedule)], actor))
					}
				}
				if !more {
					schedules++
					w.finish(schedule)
				}
			}
			explore(nil)
			if testing.Short() || raceflag.Enabled {
				break
			}
		}
		if testing.Short() || raceflag.Enabled {
			break
		}
	}
	t.Logf("%d orders", schedules)

	runs := 30_000
	if testing.Short() || raceflag.Enabled {
		runs = 3_000
	}
	rng := rand.New(rand.NewPCG(8, 6))
	_, long := ringLayout(4096, 0)
	for range runs {
		var shards [2][]int
		for g := range shards {
			for range 10 {
				shards[g] = append(shards[g], rng.IntN(3))
			}
		}
		w := newMergeWorld(t, make([]byte, long), 4096, shards, 1+rng.Int64N(2), 1000)
		var schedule []byte
		for w.enabled(0) || w.enabled(1) {
			if actor := byte(rng.IntN(3)); w.enabled(actor) {
				w.step(actor)
				schedule = append(schedule, actor)
			}
		}
		w.finish(schedule)
	}
}

// mergeWorld is one run of the protocol over two shards and the common one.
type mergeWorld struct {
	t      *testing.T
	r      *ring
	c      *ringReader
	gs     [2]mergeActor
	pinned [2]int // the goroutine that is pinned to each processor + 1
	time   int64  // counts steps
	coarse int64  // steps of the clock's step
	rounds int    // that the consumer still makes
	phase  int
	began  int64 // the consumer's reading in this round
	got    [2]int
	last   int64
	atOnce bool // what the consumer reads after a look is one step
	mixed  bool // somebody writes to the common shard
}

type mergeActor struct {
	shards []int
	done   int
	at     int
	pos    uint64
	mono   int64
}

// newMergeWorld makes a ring in mem, which held one of the kind or is zero.
func newMergeWorld(t *testing.T, mem []byte, dataBytes int, shards [2][]int, coarse int64, rounds int) *mergeWorld {
	clear(mem[ringAtConsumed : ringAtConsumed+2*ringSlotBytes])
	clear(mem[ringAtShard : ringAtShard+3*ringShardBytes])
	clear(mem[ringHeaderBytes:])
	w := &mergeWorld{t: t, r: newRing(mem, dataBytes, 2, 0x5eed), coarse: coarse, rounds: rounds}
	w.c = newRingReader(w.r, func() int64 { return w.clock() + mergeSlack })
	for g := range w.gs {
		w.gs[g].shards = shards[g]
		w.mixed = w.mixed || slices.Contains(shards[g], 2)
	}
	return w
}

func (w *mergeWorld) clock() int64 { return w.time / w.coarse }

func (w *mergeWorld) enabled(actor byte) bool {
	if actor == 2 {
		return w.rounds > 0
	}
	a := &w.gs[actor]
	if a.done == len(a.shards) {
		return false
	}
	cpu := a.shards[a.done]
	return cpu == 2 || w.pinned[cpu] == 0 || w.pinned[cpu] == int(actor)+1
}

const mergeFrame = 48

func (w *mergeWorld) step(actor byte) {
	w.time++
	if actor == 2 {
		w.consume()
		return
	}
	a := &w.gs[actor]
	cpu := a.shards[a.done]
	s := &w.r.shards[cpu]
	claim := func() {
		ok := false
		if cpu < 2 {
			w.pinned[cpu] = int(actor) + 1
			a.pos, ok = s.claimPinned(mergeFrame)
		} else {
			var state claimState
			a.pos, state = s.claim(mergeFrame)
			ok = state == claimDone
		}
		if !ok {
			w.t.Fatal("no room")
		}
	}
	read := func() { a.mono = w.clock() }
	steps := [2]func(){claim, read}
	if cpu == 2 {
		steps = [2]func(){read, claim}
	}
	if a.at < 2 {
		steps[a.at]()
		a.at++
		return
	}
	b := s.frame(a.pos, mergeFrame)
	putRingWord(b, 8, uint64(a.mono))
	putRingWord(b, 24, uint64(actor))
	putRingWord(b, 32, uint64(a.done))
	putRingWord(b, 40, ^uint64(a.mono))
	s.commit(a.pos, mergeFrame, ringCall)
	if cpu < 2 {
		w.pinned[cpu] = 0
	}
	a.at = 0
	a.done++
}

func (w *mergeWorld) consume() {
	n := len(w.c.shards)
	switch p := w.phase; {
	case p == 0:
		w.began = w.c.now()
	case p <= n:
		w.c.shards[p-1].look(w.began, w.c.seen)
	default:
		if p == n+1 {
			w.c.looked(w.began)
			if err := w.c.advanceAll(); err != nil {
				w.t.Fatal(err)
			}
		}
		for w.deliver() {
			if !w.atOnce {
				w.phase = n + 2
				return
			}
		}
		w.c.release()
		w.phase = 0
		w.rounds--
		return
	}
	w.phase++
}

func (w *mergeWorld) deliver() bool {
	ok, err := w.c.next()
	if err != nil {
		w.t.Fatal(err)
	}
	if !ok {
		return false
	}
	f := &w.c.frame
	g, i := ringWord(f.Args, 0), int(ringWord(f.Args, 8))
	if g > 1 || ringWord(f.Args, 16) != ^uint64(f.MonoNS) {
		w.t.Fatalf("frame %x", f.Args)
	}
	if i != w.got[g] {
		w.t.Fatalf("goroutine %d, %v: frame %d came; want %d", g, w.gs[g].shards, i, w.got[g])
	}
	if f.Seq != uint64(w.got[0]+w.got[1]) {
		w.t.Fatalf("frame %d has number %d", w.got[0]+w.got[1], f.Seq)
	}
	if f.MonoNS < w.last && !w.mixed {
		w.t.Fatalf("time goes from %d to %d", w.last, f.MonoNS)
	}
	w.last = f.MonoNS
	w.got[g]++
	return true
}

// finish closes the ring and reads the rest.
func (w *mergeWorld) finish(schedule []byte) {
	for i := range w.r.shards {
		w.r.shards[i].tail.Or(ringClosed)
	}
	w.rounds = 100
	for w.phase > 0 {
		w.time++
		w.consume()
	}
	w.rounds = 2
	for w.rounds > 0 {
		w.time++
		w.consume()
	}
	for g := range w.gs {
		if w.got[g] != len(w.gs[g].shards) {
			w.t.Fatalf("schedule %v: %d frames of goroutine %d came; want %d", schedule, w.got[g], g, len(w.gs[g].shards))
		}
	}
	if !w.c.finished() {
		w.t.Fatalf("schedule %v: not finished", schedule)
	}
}

// TestClaimHoldsUpLaterFrames: a claim that is not committed lets frames go that
// are older than it, and no others.
func TestClaimHoldsUpLaterFrames(t *testing.T) {
	r := heapRing(4096, 2)
	time := int64(0)
	c := newRingReader(r, func() int64 { return time + mergeSlack })
	push := func(s *shard) {
		pos, _ := s.claimPinned(32)
		commitMark(s, pos, 32, time)
		time += 10
	}
	read := func() (got []int64) {
		if err := c.look(); err != nil {
			t.Fatal(err)
		}
		for {
			if ok, err := c.next(); err != nil {
				t.Fatal(err)
			} else if !ok {
				return got
			}
			got = append(got, c.frame.MonoNS)
		}
	}
	for range 3 {
		push(&r.shards[0])
	}
	if got := read(); !slices.Equal(got, []int64{0, 10, 20}) {
		t.Fatalf("got %v", got)
	}
	push(&r.shards[0])                    // 30, which no look has seen without:
	pos, _ := r.shards[1].claimPinned(32) // after the last look, as far as anybody knows
	push(&r.shards[0])
	time += 5 // the claim's reading, later than that
	if got := read(); len(got) > 0 {
		t.Fatalf("%v came before what is claimed", got)
	}
	commitMark(&r.shards[1], pos, 32, time)
	time++
	if got := read(); !slices.Equal(got, []int64{30, 40, 55}) {
		t.Fatalf("got %v", got)
	}
	// A clock that was far ahead for a moment does not hold up what follows.
	pos, _ = r.shards[1].claimPinned(32)
	commitMark(&r.shards[1], pos, 32, 1<<40)
	push(&r.shards[1])
	if got := read(); len(got) > 0 {
		t.Fatalf("got %v", got)
	}
	time += 100
	read()
	time += 2 * mergeSlack
	push(&r.shards[0])
	time += 100
	if got := read(); len(got) == 0 || !c.empty() {
		t.Fatalf("got %v, empty %t", got, c.empty())
	}
}

// TestTiesGoByShard: at equal times the first shard's frame comes first.
func TestTiesGoByShard(t *testing.T) {
	r := heapRing(4096, 2)
	for _, i := range []int{2, 1, 0, 1, 0, 2} {
		pos, _ := r.shards[i].claim(32)
		commitMark(&r.shards[i], pos, 32, 7)
	}
	c := newRingReader(r, func() int64 { return 1 << 40 })
	if err := c.look(); err != nil {
		t.Fatal(err)
	}
	for n, want := range []int{0, 0, 1, 1, 2, 2} {
		if ok, err := c.next(); !ok || err != nil || c.at != want {
			t.Fatalf("frame %d: read %t of shard %d, %v; want shard %d", n, ok, c.at, err, want)
		}
	}
}

// TestOutcomeWaitsForItsCall, even if its clock was behind the call's.
func TestOutcomeWaitsForItsCall(t *testing.T) {
	r := heapRing(4096, 2)
	c := newRingReader(r, func() int64 { return 1 << 40 })
	call, _ := r.shards[1].claimPinned(32)
	commitMark(&r.shards[1], call, 32, 1000)
	s := &r.shards[0]
	pos, _ := s.claimPinned(ringOutcomeBytes)
	b := s.frame(pos, ringOutcomeBytes)
	putRingWord(b, 8, 10)
	putRingWord(b, 24, r.shards[1].id|call)
	s.commit(pos, ringOutcomeBytes, ringOutcome)
	if err := c.look(); err != nil {
		t.Fatal(err)
	}
	for _, outcome := range []bool{false, true} {
		if ok, err := c.next(); !ok || err != nil || c.frame.IsOutcome != outcome {
			t.Fatalf("read %t, %v: outcome %t; want %t", ok, err, c.frame.IsOutcome, outcome)
		}
	}
}

// shardedRecorder returns a recorder on the heap with shards whatever the machine.
func shardedRecorder(opt Options, shards int) (r *Recorder, start func(out FrameWriter)) {
	opt, err := opt.withDefaults()
	if err != nil {
		panic(err)
	}
	data, all := ringLayout(opt.RingBytes, 1<<20)
	r = newRecorder(make([]byte, all), data, shards, nil, opt)
	h := r.header(opt)
	return r, func(out FrameWriter) { r.begin(out, &h) }
}

// TestShardsKeepOrder records from goroutines that move between more processors
// than the machine has, and than there are shards, with outcomes, until the
// recorder is closed under them: what has a token is in the file, numbered from
// 0 in the order of the times; a goroutine's calls are in its order; and
// every outcome that was given before is there.
func TestShardsKeepOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for _, c := range []struct {
		name      string
		ringBytes int
		shards    int
		procs     int
		wait      bool // the system's clock tells the times
	}{
		{"a shard each", 8 << 20, 4, 4, false},
		{"the system's clock", 8 << 20, 4, 4, true},
		{"full shards", 1 << 14, 4, 4, false},
		{"fewer shards", 1 << 20, 2, 6, false},
	} {
		runtime.GOMAXPROCS(c.procs)
		r, start := shardedRecorder(Options{RingBytes: c.ringBytes, Overflow: OverflowBlock}, c.shards)
		if c.wait {
			r.ticks = nil
			r.start = r.machineNow()
		}
		out := &keeper{}
		start(out)
		const producers, least = 6, 300
		var wg sync.WaitGroup
		var made [producers]int
		for p := range producers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(p), 1))
				for i := 0; ; i++ {
					a := &Args{Keys: []kv.ObjectKey{{Group: uint32(p), Rank: uint64(i), HashLen: 8}}}
					if rnd.IntN(4) == 0 { // another way into the ring
						a.Keys = append(a.Keys, kv.ObjectKey{Group: 99})
					}
					token := r.Call(OpFinishWrite, a)
					if !token.WantsOutcome() {
						return
					}
					made[p]++
					if i%3 == 0 {
						r.Outcome(token, &Outcome{Counts: [MaxCounts]uint32{uint32(p), uint32(i)}})
					}
					if rnd.IntN(3) == 0 {
						runtime.Gosched()
					}
				}
			})
		}
		used := func() (n int) {
			for i := range r.ring.shards {
				if r.ring.shards[i].tail.Load()&^ringClosed > 0 {
					n++
				}
			}
			return n
		}
		for r.Stats().Recorded < producers*least || used() < 3 {
			runtime.Gosched()
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		var next [producers]int
		var last int64
		back := 0
		seqs := map[uint64][2]int{}
		for i, k := range out.calls {
			key := k.args.Keys[0]
			p := int(key.Group)
			if int(key.Rank) != next[p] || k.seq != uint64(i) {
				t.Fatalf("%s: record %d, number %d, is call %d of goroutine %d; want call %d", c.name, i, k.seq, key.Rank, p, next[p])
			}
			seqs[k.seq] = [2]int{p, next[p]}
			next[p]++
			if k.mono < last {
				back++
			}
			last = max(last, k.mono)
		}
		if next != made {
			t.Errorf("%s: %v calls in the file; %v had a token", c.name, next, made)
		}
		if common := r.ring.common().tail.Load() &^ ringClosed; back > 0 && common == 0 {
			t.Errorf("%s: %d times went back, and nobody used the common shard", c.name, back)
		}
		outcomes := 0
		for _, o := range out.outcomes {
			if got := [2]int{int(o.outcome.Counts[0]), int(o.outcome.Counts[1])}; seqs[o.seq] != got {
				t.Fatalf("%s: outcome of %v at call %v", c.name, got, seqs[o.seq])
			}
			outcomes++
		}
		want := 0
		for _, n := range made {
			want += (n + 2) / 3
		}
		if got := outcomes + int(r.Stats().LostOutcomes); got > want || got < want-producers {
			t.Errorf("%s: %d outcomes and %d lost; want %d, but for those in the closing", c.name, outcomes, r.Stats().LostOutcomes, want)
		}
		if got := r.Stats(); got.Dropped != 0 || got.Recorded != uint64(len(out.calls)) {
			t.Errorf("%s: %+v, %d calls", c.name, got, len(out.calls))
		}
		t.Logf("%s: %d calls in %d shards, %d came late", c.name, len(out.calls), used(), back)
	}
}

// TestFullShardUsesTheCommonOne, and what is too long for it; what then finds no
// room is counted for the shard.
func TestFullShardUsesTheCommonOne(t *testing.T) {
	s := newStepped(Options{RingBytes: 8192}, 2)
	s.aim(1)
	const frame = 88 // of one key
	fits := 2048/frame + 4096/frame
	for i := range fits + 10 {
		s.call(OpFinishWrite, oneKey(i), false)
	}
	if got := s.shards[1].dropped.Load(); got != 10 || s.r.ring.dropped.Load() != 10 || len(s.op) != fits {
		t.Errorf("%d calls taken, %d dropped by shard 1, %d in all; want %d and 10", len(s.op), got, s.r.ring.dropped.Load(), fits)
	}
	if s.shards[0].tail.Load() != 0 {
		t.Error("the other processor's shard was used")
	}
	s.check(t, "full", s.mem)
	s.release(t, "nothing read")
	for range fits {
		s.drainOne()
	}
	s.release(t, "read")
	s.call(OpFinishWrite, oneKey(0), false)
	s.call(OpFinishWrite, &Args{Keys: make([]kv.ObjectKey, 60)}, false) // 1976 bytes, of the shard's 2048
	if got := s.shards[2].tail.Load() - s.shards[2].head.Load(); got < 1976 {
		t.Errorf("%d bytes in the common shard", got)
	}
	s.check(t, "long", s.mem)
}

// TestRecoverVersion1 recovers a ring as the releases before shards left it.
func TestRecoverVersion1(t *testing.T) {
	s := newStepped(Options{RingBytes: 4096}, 0)
	for i := range 30 {
		s.call(OpFinishWrite, oneKey(i), i%2 == 0)
		if i < 20 {
			s.drainOne()
		}
		if i == 9 {
			s.r.drain.in.release()
		}
	}
	v2 := s.mem
	mem := make([]byte, len(v2)-ringHeaderBytes+ringV1HeaderBytes)
	copy(mem, v2[:ringV1HeaderBytes])
	copy(mem[ringV1HeaderBytes:], v2[ringHeaderBytes:])
	putRingWord(mem, ringAtVersion, 1|ringV1HeaderBytes<<32)
	putRingWord(mem, ringV1AtTail, ringWord(v2, ringAtShard))
	putRingWord(mem, ringV1AtHead, ringWord(v2, ringAtShard+128))
	frames, drops, pos := ringWord(v2, ringAtConsumed), ringWord(v2, ringAtConsumed+8), ringWord(v2, ringAtConsumed+ringSlotPos)
	if pos == 0 {
		t.Fatal("nothing was released")
	}
	for i, v := range []uint64{pos, frames, drops, slotCheckV1(pos, frames, drops)} {
		putRingWord(mem, ringV1AtConsumed+8*i, v)
	}
	rep := s.check(t, "version 1", mem)
	if rep.Ring.Recovered == 0 || rep.Ring.Moved == 0 {
		t.Errorf("%+v", rep.Ring)
	}
	want, _ := newDeadRing("ring", v2, unguarded)
	got, err := newDeadRing("ring", mem, unguarded)
	if err != nil {
		t.Fatal(err)
	}
	_, a, err := repairBytes(t, s.file.data, want)
	_, b, errV1 := repairBytes(t, s.file.data, got)
	if err != nil || errV1 != nil || !bytes.Equal(a, b) {
		t.Errorf("the two versions give different files: %v, %v", err, errV1)
	}
}

// TestRecoverFindsCallsOutOfOrder: the recorder had read a call before an earlier
// one of the common shard, whose writer lost its processor between clock and
// claim. Each is in the repaired file once.
func TestRecoverFindsCallsOutOfOrder(t *testing.T) {
	s := newStepped(Options{RingBytes: 8192}, 2)
	late := s.r.machineNow() - s.r.start
	for i := range 4 {
		s.aim(i % 2)
		s.call(OpFinishWrite, oneKey(i), false)
		s.drainOne()
	}
	write := func(mono int64, rank int) { // as callOneRun does, with another time
		s.aim(2)
		s.call(OpFinishWrite, oneKey(rank), false)
		pos := s.shards[2].tail.Load() - 88
		putRingWord(s.shards[2].frame(pos, 88), 8, uint64(mono))
	}
	write(late, 4)
	s.check(t, "not read", s.mem)
	s.drainOne()
	s.check(t, "read", s.mem)
	if got := len(frames(s.file.data, kindCall)); got != 5 {
		t.Fatalf("%d calls in the file", got)
	}
	write(late+1, 5)
	rep := s.check(t, "one more", s.mem)
	if rep.Ring.Moved != 5 || rep.Ring.Recovered != 1 {
		t.Errorf("%+v", rep.Ring)
	}
}

func TestRingShards(t *testing.T) {
	for _, c := range []struct{ data, processors, want int }{
		{8 << 20, 1, 1}, {8 << 20, 2, 2}, {8 << 20, 3, 4}, {8 << 20, 64, 64}, {8 << 20, 256, 64},
		{1 << 20, 64, 8}, {128 << 10, 2, 1}, {64 << 10, 8, 0}, {4096, 2, 0},
	} {
		if got := ringShards(c.data, c.processors); got != c.want {
			t.Errorf("%d bytes, %d processors: %d shards; want %d", c.data, c.processors, got, c.want)
		}
	}
	for shards := 0; shards <= maxRingShards; shards = max(1, 2*shards) {
		r := heapRing(1<<20, shards)
		all := 0
		for i := range r.shards {
			all += len(r.shards[i].data)
			if i > 0 && i < shards && len(r.shards[i].data) != len(r.shards[0].data) {
				t.Errorf("%d shards: they differ", shards)
			}
		}
		if all != 1<<20 || shards > 0 && len(r.common().data) != 1<<19 {
			t.Errorf("%d shards: %d bytes, %d of them common", shards, all, len(r.common().data))
		}
	}
}

// TestCopyHashes holds the machine's way of copying against the plain one.
func TestCopyHashes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	base := kv.ObjectKey{Rank: 1<<63 | 77, Scope: 5, Group: 9, HashLen: 32}
	for n := 1; n < 40; n++ {
		keys := make([]kv.ObjectKey, n)
		for i := range keys {
			keys[i] = base
			for j := range keys[i].Hash {
				keys[i].Hash[j] = byte(rnd.Uint32())
			}
		}
		dst := make([][kv.MaxHash]byte, n+1)
		guard := dst[n]
		check := func(what string, same bool) {
			if got := copyHashes(dst[:n], keys) == 0; got != same {
				t.Errorf("%d keys, %s: one run: %t; want %t", n, what, got, same)
			}
			for i := range keys {
				if dst[i] != keys[i].Hash {
					t.Fatalf("%d keys, %s: hash %d differs", n, what, i)
				}
			}
			if dst[n] != guard {
				t.Fatalf("%d keys: it writes behind the end", n)
			}
		}
		check("same", true)
		if n == 1 {
			continue
		}
		at := 1 + rnd.IntN(n-1)
		for what, change := range map[string]func(k *kv.ObjectKey){
			"low rank":  func(k *kv.ObjectKey) { k.Rank ^= 1 },
			"high rank": func(k *kv.ObjectKey) { k.Rank ^= 1 << 63 },
			"scope":     func(k *kv.ObjectKey) { k.Scope ^= 1 << 31 },
			"group":     func(k *kv.ObjectKey) { k.Group ^= 1 << 31 },
			"length":    func(k *kv.ObjectKey) { k.HashLen = 8 },
		} {
			keys[at] = base
			change(&keys[at])
			check(fmt.Sprintf("%s of key %d", what, at), false)
			keys[at] = base
		}
	}
}
