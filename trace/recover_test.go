package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/mmapio"
)

// repairBytes repairs a file in memory.
func repairBytes(t testing.TB, data []byte, ring *DeadRing) (*Repair, []byte, error) {
	t.Helper()
	rep := &Repair{Native: true, Whole: true}
	r, err := openDamaged("d.lct", bytesFile(data), unguarded, rep)
	if err != nil {
		return nil, nil, err
	}
	h := *r.header
	h.RingPath = ""
	f := newMemoryFile(max(testHead, headSize(&h, 8)))
	w, err := newWriter(f, &h, writerOptions{BlockBytes: blockBytes(&h)})
	if err != nil {
		t.Fatal(err)
	}
	s := &salvage{r: r, w: w, ring: ring, rep: rep}
	if err := s.run(); err != nil {
		t.Fatalf("repair: %v", err)
	}
	return rep, f.data, nil
}

// readRepaired reads a repaired file, which must be sound, with its outcomes.
func readRepaired(t testing.TB, what string, data []byte) (calls []call, outcomes []OutcomeRecord) {
	t.Helper()
	r, err := newNativeReader("out.lct", bytesFile(data), unguarded, func(m string) { t.Errorf("%s: warning: %s", what, m) })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	r.OnOutcome(func(o *OutcomeRecord) {
		own := *o
		own.Counts = slices.Clone(o.Counts)
		outcomes = append(outcomes, own)
	})
	for r.Next() {
		var a Args
		if err := r.Args(&a); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		rec := r.Record()
		calls = append(calls, call{rec.Op, rec.Seq, rec.MonoNS, rec.WallNS, cloneArgs(&a)})
	}
	if r.Err() != nil || !r.Sealed() {
		t.Fatalf("%s: sealed %t: %v", what, r.Sealed(), r.Err())
	}
	s, err := r.Summarize()
	if err != nil || s.Records != int64(len(calls)) {
		t.Fatalf("%s: summary of %d records, %v; read %d", what, s.Records, err, len(calls))
	}
	return calls, outcomes
}

// stepped is a recorder without goroutines: the test is producer, drain, and the
// one who kills both.
type stepped struct {
	r    *Recorder
	mem  []byte // of the ring
	file *memoryFile

	shards []shard // of the ring, whichever it is aimed at

	op       []Op   // calls that have returned and were not dropped
	args     []Args // of these
	outcomes int    // of these, that have returned
}

func newStepped(opt Options, shards int) *stepped {
	opt, _ = opt.withDefaults()
	data, all := ringLayout(opt.RingBytes, 16<<10)
	s := &stepped{mem: make([]byte, all), file: newMemoryFile(testHead)}
	s.r = newRecorder(s.mem, data, shards, nil, opt)
	h := s.r.header(opt)
	h.RingPath = "ring"
	s.r.ring.describe(&h, "d.lct")
	w, err := newWriter(s.file, &h, writerOptions{BlockBytes: 4096})
	if err != nil {
		panic(err)
	}
	in := newRingReader(s.r.ring, func() int64 { return s.r.machineNow() - s.r.start + mergeSlack })
	s.r.drain = newDrain(in, newRingIDs(s.r.defs.mem, s.r.defs.tail), w, opt.Log)
	s.r.drain.outcomes, s.r.drain.anchor = true, func() (int64, int64) { return 0, h.WallStartNS }
	s.shards = s.r.ring.shards
	s.r.on.Store(true)
	return s
}

// aim makes the shard that of whatever processor the test is on.
func (s *stepped) aim(shard int) {
	if shard == len(s.shards)-1 {
		s.r.ring.shards = s.shards[shard:]
		return
	}
	list := slices.Repeat(s.shards[shard:shard+1], maxRingShards)
	s.r.ring.shards = append(list, s.shards[len(s.shards)-1])
}

func (s *stepped) call(op Op, a *Args, outcome bool) {
	before := s.r.ring.dropped.Load()
	token := s.r.Call(op, a)
	if s.r.ring.dropped.Load() != before {
		return
	}
	s.op, s.args = append(s.op, op), append(s.args, plain(a))
	if !outcome {
		return
	}
	before = s.r.ring.lostOutcomes.Load()
	s.r.Outcome(token, &Outcome{Counts: [MaxCounts]uint32{uint32(len(s.op))}})
	if s.r.ring.lostOutcomes.Load() == before {
		s.outcomes++
	}
}

// hole claims as a producer does that is killed before it commits: it has
// written some of the frame, words that look like commit words among it.
func (s *stepped) hole(rnd *rand.Rand) {
	n := ringFrameBytes + 8*rnd.IntN(20)
	g := &s.shards[rnd.IntN(len(s.shards))]
	pos, state := g.claim(n)
	if state != claimDone {
		return
	}
	b := g.frame(pos, n)
	for off := 8; off < n; off += 8 {
		word := rnd.Uint64()
		if rnd.IntN(2) == 0 {
			word = g.tag(pos+8*uint64(1+rnd.IntN(40))) | 32 | ringCall
			if word>>32 == g.tag(pos+uint64(off))>>32 {
				word = 0 // what a hole has here with a probability of 2^-32
			}
		}
		putRingWord(b, off, word)
	}
}

// drainOne moves a frame to the file.
func (s *stepped) drainOne() {
	d := s.r.drain
	if err := d.in.look(); err != nil {
		panic(err)
	}
	if ok, err := d.in.next(); err != nil {
		panic(err)
	} else if !ok {
		return
	}
	if d.in.frame.IsOutcome {
		d.takeOutcome(&d.in.frame)
	} else {
		d.call(&d.in.frame)
	}
}

// check kills the recorder with this ring memory and repairs the file.
func (s *stepped) check(t *testing.T, what string, mem []byte) *Repair {
	t.Helper()
	ring, err := newDeadRing("ring", mem, unguarded)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	file := slices.Clone(s.file.data)
	r := openBytes(t, file)
	if !ring.Of(r.Header()) {
		t.Fatalf("%s: the ring is not the file's", what)
	}
	rep, out, err := repairBytes(t, file, ring)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	calls, outcomes := readRepaired(t, what, out)
	dropped := s.r.ring.dropped.Load()
	if !rep.Complete() || rep.Dropped != int64(dropped) || len(rep.Damage) > 0 || rep.Records() != int64(len(s.op)) {
		t.Fatalf("%s: %d calls, %d dropped; the repair says %+v, ring %+v", what, len(s.op), dropped, rep, rep.Ring)
	}
	if n, err := ring.records(); err != nil || n-r.callsFrom(ring.firstSeq()) != rep.Ring.Recovered {
		t.Fatalf("%s: the ring holds %d records, %v; recovered %d, moved %d", what, n, err, rep.Ring.Recovered, rep.Ring.Moved)
	}
	if len(calls) != len(s.op) {
		t.Fatalf("%s: %d calls; want %d", what, len(calls), len(s.op))
	}
	bySeq := map[uint64]int{}
	for i, c := range calls {
		if i > 0 && c.seq <= calls[i-1].seq {
			t.Fatalf("%s: call %d has number %d after %d", what, i, c.seq, calls[i-1].seq)
		}
		bySeq[c.seq] = i
		if got := plain(&c.args); c.op != s.op[i] || !reflect.DeepEqual(got, s.args[i]) {
			t.Fatalf("%s: call %d: got %v %+v; want %v %+v", what, i, c.op, got, s.op[i], s.args[i])
		}
	}
	if n := len(calls); n > 0 && calls[n-1].seq >= uint64(n)+dropped {
		t.Fatalf("%s: the last of %d calls, %d dropped, has number %d", what, n, dropped, calls[n-1].seq)
	}
	seen := map[uint64]bool{}
	for _, o := range outcomes {
		i, ok := bySeq[o.Seq]
		if !ok || seen[o.Seq] || o.Counts[0] != int64(i+1) {
			t.Fatalf("%s: outcome %+v of call %d, known %t, seen before %t", what, o, i, ok, seen[o.Seq])
		}
		seen[o.Seq] = true
	}
	if n := len(outcomes) + int(rep.Ring.LostOutcomes); n != s.outcomes {
		t.Fatalf("%s: %d outcomes and %d lost; want %d", what, len(outcomes), rep.Ring.LostOutcomes, s.outcomes)
	}
	return rep
}

// release gives the ring's memory back and checks the states on the way there.
func (s *stepped) release(t *testing.T, what string) {
	c := s.r.drain.in
	slot := ringAtConsumed + c.slot*ringSlotBytes
	from, held := make([]uint64, len(c.shards)), c.held
	for i := range c.shards {
		from[i] = c.shards[i].released
	}
	before := slices.Clone(s.mem)
	c.release()
	after := slices.Clone(s.mem)
	if held == 0 {
		return
	}
	state := slices.Clone(before)
	take := func(name string, off, n int) {
		copy(state[off:off+n], after[off:off+n])
		s.check(t, what+", "+name, state)
	}
	clear(state[slot+16 : slot+24])
	s.check(t, what+", the note is no longer valid", state)
	take("the note has its counts", slot, 16)
	take("the note has a position", slot+ringSlotPos, 8)
	take("the note has its positions", slot+ringSlotPos, 8*len(c.shards))
	take("the note is valid", slot+16, 8)
	for i := range c.shards {
		g := &c.shards[i]
		if g.released == from[i] {
			continue
		}
		base := len(s.mem)
		for at := range s.mem { // where the shard's data is
			if &s.mem[at] == &g.data[0] {
				base = at
				break
			}
		}
		for _, part := range []uint64{1, 2} { // the memory is cleared
			for pos := from[i]; pos < from[i]+(g.released-from[i])*part/2&^7; pos += 8 {
				off := base + int(pos&g.mask)
				copy(state[off:off+8], after[off:off+8])
			}
			s.check(t, fmt.Sprintf("%s, %d halves of shard %d are cleared", what, part, i), state)
		}
		take(fmt.Sprintf("head %d has moved", i), ringAtShard+i*ringShardBytes+128, 8)
	}
	if !slices.Equal(state, after) {
		t.Fatalf("%s: the steps do not lead to the end", what)
	}
}

// TestRecoverAnyState kills a recorder after every step of its producers and of
// its drain, those within release among them.
func TestRecoverAnyState(t *testing.T) {
	runs := 40
	if raceflag.Enabled || testing.Short() {
		runs = 8
	}
	recovered, moved, holes, lostOutcomes := int64(0), int64(0), int64(0), int64(0)
	for seed := range uint64(runs) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		opt := Options{RingBytes: 2048 << rnd.IntN(3)}
		var sim *clock.Virtual
		if seed%2 == 0 {
			sim = clock.NewVirtual(1_776_470_400_000_000_000)
			opt.Clock = sim
		}
		shards := 0
		if sim == nil {
			shards = []int{0, 1, 2, 4}[rnd.IntN(4)]
		}
		s := newStepped(opt, shards)
		g := newCallGen(seed)
		steps := 60 + rnd.IntN(60)
		for step := range steps {
			what := fmt.Sprintf("seed %d, step %d", seed, step)
			s.aim(rnd.IntN(len(s.shards)))
			switch k := rnd.IntN(20); {
			case k < 8:
				op := Op(1 + rnd.IntN(int(numOps)-1))
				a := g.call(op)
				if len(a.Keys) > 4 {
					a.Keys = a.Keys[:4]
				}
				if a.Spec != nil {
					a.Spec.Groups = nil
				}
				if sim != nil && rnd.IntN(3) == 0 {
					_ = sim.SleepUntil(t.Context(), sim.Now()+1)
				}
				s.call(op, a, rnd.IntN(3) > 0)
			case k < 10 && step > steps*2/3: // the drain does not get beyond it
				s.hole(rnd)
			case k < 16:
				s.drainOne()
			case k < 18:
				s.r.drain.idle()
			default:
				s.release(t, what)
			}
			rep := s.check(t, what, s.mem)
			recovered, moved, holes = recovered+rep.Ring.Recovered, moved+rep.Ring.Moved, holes+rep.Ring.Holes
			lostOutcomes += rep.Ring.LostOutcomes
		}
	}
	if recovered == 0 || moved == 0 || holes == 0 || lostOutcomes == 0 {
		t.Errorf("%d recovered, %d moved, %d holes, %d lost outcomes: not all that can happen did", recovered, moved, holes, lostOutcomes)
	}
}

// TestRecoverTruncatedFile loses the file's end beside the crash: what the ring
// still has fills it up, the rest is counted.
func TestRecoverTruncatedFile(t *testing.T) {
	s := newStepped(Options{RingBytes: 4096}, 0)
	for i := range 30 {
		s.call(OpFinishWrite, oneKey(i), false)
		if i < 20 {
			s.drainOne()
			if i == 9 {
				s.r.drain.in.release()
			}
		}
	}
	offsets := frames(s.file.data, kindCall)
	if len(offsets) != 20 {
		t.Fatalf("%d calls in the file", len(offsets))
	}
	for kept, want := range map[int]int64{20: 0, 15: 0, 10: 0, 7: 3, 0: 10} {
		data := s.file.data
		if kept < 20 {
			data = data[:offsets[kept]]
		}
		ring, err := newDeadRing("ring", s.mem, unguarded)
		if err != nil {
			t.Fatal(err)
		}
		rep, out, err := repairBytes(t, data, ring)
		if err != nil {
			t.Fatal(err)
		}
		calls, _ := readRepaired(t, fmt.Sprint(kept), out)
		if rep.Lost != want || rep.Records() != 30-want || rep.Kept != int64(kept) || rep.Complete() != (want == 0) {
			t.Errorf("%d calls kept: %+v, ring %+v", kept, rep, rep.Ring)
		}
		for _, c := range calls {
			if c.seq != c.args.Keys[0].Rank || c.seq >= uint64(kept) && c.seq < 10 {
				t.Errorf("%d calls kept: call %d has number %d", kept, c.args.Keys[0].Rank, c.seq)
			}
		}
	}
}

func TestRecoverDamagedRing(t *testing.T) {
	s := newStepped(Options{RingBytes: 4096}, 0)
	for i := range 30 {
		s.call(OpFinishWrite, oneKey(i), false)
		s.drainOne()
		s.r.drain.in.release()
	}
	for i := range 10 {
		s.call(OpFinishWrite, oneKey(30+i), false)
	}
	word := func(off int, change func(uint64) uint64) func([]byte) []byte {
		return func(mem []byte) []byte {
			putRingWord(mem, off, change(ringWord(mem, off)))
			return mem
		}
	}
	to := func(v uint64) func(uint64) uint64 { return func(uint64) uint64 { return v } }
	for name, damage := range map[string]func([]byte) []byte{
		"empty":                      func(mem []byte) []byte { return nil },
		"cut in the header":          func(mem []byte) []byte { return mem[:ringHeaderBytes-1] },
		"cut in the data":            func(mem []byte) []byte { return mem[:ringHeaderBytes+100] },
		"cut in the definitions":     func(mem []byte) []byte { return mem[:len(mem)-8] },
		"magic":                      word(ringAtMagic, to(0)),
		"version":                    word(ringAtVersion, to(3|ringHeaderBytes<<32)),
		"size of the header":         word(ringAtVersion, to(2|8192<<32)),
		"size of the data":           word(ringAtDataBytes, to(1<<40)),
		"size no power of two":       word(ringAtDataBytes, to(4095)),
		"size of the definitions":    word(ringAtDefsBytes, to(1<<63)),
		"head before the note":       word(ringAtShard+128, func(v uint64) uint64 { return v + 4096 }),
		"head that is no multiple":   word(ringAtShard+128, func(v uint64) uint64 { return v - 1 }),
		"tail before the note":       word(ringAtShard, to(8)),
		"tail a lap ahead":           word(ringAtShard, func(v uint64) uint64 { return v + 8192 }),
		"neither note has its check": func(mem []byte) []byte { clear(mem[ringAtConsumed : ringAtConsumed+2*ringSlotBytes]); return mem },
	} {
		if _, err := newDeadRing("ring", damage(slices.Clone(s.mem)), unguarded); err == nil {
			t.Errorf("%s: no error", name)
		}
	}

	// A frame whose bytes make no sense is one call, counted.
	for name, damage := range map[string]func(frame []byte){
		"commit word": func(b []byte) { b[7] ^= 1 },
		"kind":        func(b []byte) { b[0] |= ringKindMask },
		"operation":   func(b []byte) { b[20] = 99 },
		"key count":   func(b []byte) { b[24] = 200 },
	} {
		mem := slices.Clone(s.mem)
		at := ringHeaderBytes + int((s.r.drain.in.shards[0].pos+3*88)&s.shards[0].mask)
		damage(mem[at : at+88])
		ring, err := newDeadRing("ring", mem, unguarded)
		if err != nil {
			t.Fatal(err)
		}
		rep, out, err := repairBytes(t, s.file.data, ring)
		if err != nil {
			t.Fatal(err)
		}
		calls, _ := readRepaired(t, name, out)
		if rep.Lost != 1 || rep.Ring.Unreadable != 1 || rep.Complete() || len(calls) != 39 || rep.Dropped != 0 {
			t.Errorf("%s: %d calls, %+v, ring %+v", name, len(calls), rep, rep.Ring)
		}
		for i, c := range calls {
			if want := i + i/33; c.seq != uint64(want) || c.args.Keys[0].Rank != uint64(want) {
				t.Errorf("%s: call %d has number %d", name, c.args.Keys[0].Rank, c.seq)
			}
		}
	}
}

// killedFile leaves a file and ring in dir as a killed recorder of this process
// would: its lock is gone, nothing was sealed.
func killedFile(t *testing.T, dir string, calls int) (path, ringPath string) {
	t.Helper()
	path, ringPath = filepath.Join(dir, "k.lct"), filepath.Join(dir, "ring")
	s := newStepped(Options{RingBytes: 4096}, 0)
	head := s.file.Head()
	h, _, err := parseHeader(head)
	if err != nil {
		t.Fatal(err)
	}
	h.RingPath = ringPath
	clear(head[fieldsOffset:])
	if err := putHeader(head, h, 4096); err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		s.call(OpFinishWrite, oneKey(i), false)
		if i < calls/2 {
			s.drainOne()
		}
	}
	for p, b := range map[string][]byte{path: s.file.data, ringPath: s.mem} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, ringPath
}

func TestRepairKilled(t *testing.T) {
	dir := t.TempDir()
	path, ringPath := killedFile(t, dir, 20)
	in, _ := os.ReadFile(path)
	inRing, _ := os.ReadFile(ringPath)
	var warnings []string
	s, err := SummarizeNative(path, func(m string) { warnings = append(warnings, m) })
	if err != nil || s.Records != 10 || len(warnings) != 1 ||
		!strings.Contains(warnings[0], "the ring "+ringPath+" still holds 10 records, which lmcache trace repair adds") {
		t.Errorf("summary %+v, %v, warnings %q", s, err, warnings)
	}
	out := filepath.Join(dir, "out.lct")
	var first []byte
	for i := range 2 {
		rep, err := RepairNative(path, out)
		if err != nil || rep.Kept != 10 || rep.Ring.Recovered != 10 || rep.Ring.Moved != 10 || !rep.Complete() || rep.Whole {
			t.Fatalf("%+v, %v", rep, err)
		}
		data, err := os.ReadFile(out)
		if err != nil || int64(len(data)) != rep.Bytes {
			t.Fatalf("%d bytes, %v; the repair says %d", len(data), err, rep.Bytes)
		}
		if i == 0 {
			first = data
		} else if !slices.Equal(first, data) {
			t.Error("a second repair gives another file")
		}
	}
	calls, _ := readRepaired(t, "killed", first)
	for i, c := range calls {
		if c.args.Keys[0].Rank != uint64(i) || c.seq != uint64(i) || c.wall < s.Header.WallStartNS {
			t.Errorf("call %d: %+v", i, c)
		}
	}
	for p, b := range map[string][]byte{path: in, ringPath: inRing} {
		if after, err := os.ReadFile(p); err != nil || !slices.Equal(after, b) {
			t.Errorf("%s was changed: %v", p, err)
		}
	}
	if rep, err := RepairNative(out, filepath.Join(dir, "again.lct")); err != nil || !rep.Whole || rep.Kept != 20 || rep.Ring != nil {
		t.Errorf("repair of a sound file: %+v, %v", rep, err)
	}

	// The ring of another recording, one that is no ring, and none.
	other := t.TempDir()
	_, otherRing := killedFile(t, other, 4)
	for _, c := range []struct {
		put  func() error
		want string
	}{
		{func() error { return os.Rename(otherRing, ringPath) }, "belongs to another recording, of "},
		{func() error { return os.WriteFile(ringPath, []byte("x"), 0o600) }, "no ring of a trace recorder"},
		{func() error { return os.Remove(ringPath) }, "is gone"},
	} {
		if err := c.put(); err != nil {
			t.Fatal(err)
		}
		rep, err := RepairNative(path, out)
		if err != nil || rep.Kept != 10 || rep.Complete() || rep.Ring == nil || !strings.Contains(rep.Ring.Err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", c.want, rep, err)
		}
	}
}

// TestRepairOfALiveRecording is refused: the recorder will seal it itself.
func TestRepairOfALiveRecording(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.lct")
	r, err := Create(path, Options{RingDir: dir, RingBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Call(OpFinishWrite, oneKey(1))
	if _, err := RepairNative(path, filepath.Join(dir, "b.lct")); !errors.Is(err, ErrRecording) {
		t.Errorf("repair: %v", err)
	}
	if _, err := RecoverRing(r.shared.Path()); !errors.Is(err, mmapio.ErrInUse) {
		t.Errorf("ring: %v", err)
	}
	// A copy of the file has no lock, its ring has.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(dir, "c.lct")
	if err := os.WriteFile(stray, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RepairNative(stray, filepath.Join(dir, "b.lct")); !errors.Is(err, ErrRecording) {
		t.Errorf("repair of a copy: %v", err)
	}
	if s, err := SummarizeNative(path, func(m string) { t.Errorf("warning: %s", m) }); err != nil || s.Sealed {
		t.Errorf("summary %+v, %v", s, err)
	}
}

// FuzzRecoverRing recovers damaged rings: header words and data are changed at
// places of the input's choice. Properties: no panic, an end, a sound file with
// the calls that the file had, and no more calls than fit the ring.
func FuzzRecoverRing(f *testing.F) {
	s := newStepped(Options{RingBytes: 4096}, 2)
	for i := range 40 {
		s.aim(i % 3)
		s.call(OpFinishWrite, oneKey(i), true)
		s.drainOne()
		if i%5 == 0 {
			s.drainOne()
			s.r.drain.in.release()
		}
	}
	s.hole(rand.New(rand.NewPCG(1, 1)))
	s.call(OpFinishWrite, oneKey(99), true)
	file := len(frames(s.file.data, kindCall))
	f.Add([]byte{})
	f.Add([]byte{0, 16, 128, 0, 1, 0, 0, 0, 0, 0})
	for _, off := range []int{ringAtDataBytes, ringAtShards, ringAtShard, ringAtShard + 128, ringAtConsumed, ringAtConsumed + 16, ringAtDefsTail, ringHeaderBytes + 8, ringHeaderBytes + 24, ringHeaderBytes + 2048} {
		f.Add(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, uint16(off)), 1<<33|8))
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		mem := slices.Clone(s.mem)
		for ; len(edits) >= 10; edits = edits[10:] {
			off := int(binary.LittleEndian.Uint16(edits)) % (len(mem) - 8) &^ 7
			putRingWord(mem, off, ringWord(mem, off)^binary.LittleEndian.Uint64(edits[2:]))
		}
		for at := range 2 { // let a changed note be valid
			at = ringAtConsumed + at*ringSlotBytes
			if len(edits) > 0 && edits[0]&1 != 0 {
				putRingWord(mem, at+16, slotCheck(ringWord(mem, at), ringWord(mem, at+8), []uint64{ringWord(mem, at+24), ringWord(mem, at+32), ringWord(mem, at+40)}))
			}
		}
		ring, err := newDeadRing("ring", mem, unguarded)
		if err != nil {
			return
		}
		rep, out, err := repairBytes(t, s.file.data, ring)
		if err != nil {
			t.Fatal(err)
		}
		calls, _ := readRepaired(t, "fuzz", out)
		if rep.Kept != int64(file) || len(calls) < file || rep.Records() != int64(len(calls)) {
			t.Errorf("%d calls, %d in the file: %+v", len(calls), file, rep)
		}
		if rep.Ring.Recovered > int64(ring.mostFrames()) {
			t.Errorf("%d calls recovered from a ring of %d bytes", rep.Ring.Recovered, ring.mostFrames()*ringFrameBytes)
		}
	})
}
