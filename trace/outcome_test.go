package trace

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/raceflag"
)

func bitsOf(text string) Bits {
	b := Bits{Words: make([]uint64, (len(text)+63)/64), N: len(text)}
	for i, c := range text {
		if c == '1' {
			b.Words[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

// TestBits writes bitmaps, checks their size, and reads them back.
func TestBits(t *testing.T) {
	random := func(n int, density float64) string {
		rnd := rand.New(rand.NewPCG(uint64(n), 7))
		b := bytes.Repeat([]byte("0"), n)
		for i := range b {
			if rnd.Float64() < density {
				b[i] = '1'
			}
		}
		return string(b)
	}
	ones, zeros := func(n int) string { return string(bytes.Repeat([]byte("1"), n)) }, func(n int) string { return string(bytes.Repeat([]byte("0"), n)) }
	for _, c := range []struct {
		text string
		size int // at most
	}{
		{"1", 3}, {"0", 2}, {"01", 4}, {"10", 3}, {"10110", 3},
		{ones(64), 3}, {zeros(64), 2}, {ones(63) + "0", 3}, {zeros(63) + "1", 4}, {ones(65), 4}, {ones(1000), 5}, {zeros(1000), 3},
		{ones(300) + zeros(200), 5}, {zeros(300) + ones(200), 6}, {ones(100) + zeros(100) + ones(100) + zeros(100), 6},
		{random(7, .5), 3}, {random(1000, .5), 3 + 125}, {random(1000, .02), 3 + 125}, {random(1<<16, .0001), 2000},
	} {
		b := bitsOf(c.text)
		out := b.append(nil)
		if len(out) > c.size {
			t.Errorf("%.80s: %d bytes, at most %d", c.text, len(out), c.size)
		}
		var d outcomeDecoder
		d.words[0] = []uint64{^uint64(0), ^uint64(0)} // of one before
		cur := cursor{b: out}
		got, err := d.bitmap(&cur, 0)
		if err != nil || cur.end() != nil || got.String() != c.text {
			t.Errorf("%.80s: read as %.80s, %v, %v", c.text, got, err, cur.err)
		}
	}
}

// TestOutcomeSize holds DESIGN's goal: at most 48 bytes beside the bitmaps, far
// into a block, for calls of up to a second and thousands of keys.
func TestOutcomeSize(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 64<<20)
	for op := Op(1); op < numOps; op++ { // what they need is defined first
		if err := w.Outcome(op, 0, 0, 0, 0, &Outcome{}); err != nil {
			t.Fatal(err)
		}
	}
	for op := Op(1); op < numOps; op++ {
		for _, keys := range []int{1, 16, 256, 4096} {
			o := Outcome{Bits: [MaxOutcomeBits]Bits{bitsOf(string(bytes.Repeat([]byte("1"), keys)))}}
			for i := range op.Row().Counts {
				o.Counts[i] = uint32(keys)
			}
			before := f.Offset()
			if err := w.Outcome(op, 1<<20, 1<<40, 1<<60, 999_999_999, &o); err != nil {
				t.Fatal(err)
			}
			size := int(f.Offset() - before)
			if bitmap := len(o.Bits[0].append(nil)); size > 48+(bitmap+7)&^7 {
				t.Errorf("%v of %d keys: %d bytes, %d of them a bitmap", op, keys, size, bitmap)
			}
		}
	}
}

// TestRecorderOutcomes records from several goroutines into a ring that is too
// small: whatever is dropped, an outcome has the number of its call, and each
// recorded call has one unless it is counted as lost.
func TestRecorderOutcomes(t *testing.T) {
	defer goleak.VerifyNone(t)
	const producers, each = 4, 4000
	for _, overflow := range []Overflow{OverflowDrop, OverflowBlock} {
		r, start := heapRecorder(Options{RingBytes: 1 << 12, Overflow: overflow})
		out := &keeper{}
		start(out)
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(p), 3))
				type open struct {
					token CallToken
					id    int
				}
				var late []open // outcomes that come later, in any order
				for i := range each {
					id := p*each + i
					late = append(late, open{r.Call(OpFinishWrite, oneKey(id)), id})
					for len(late) > rnd.IntN(20) {
						j := rnd.IntN(len(late))
						o := Outcome{Counts: [MaxCounts]uint32{uint32(late[j].id)}, Failed: late[j].id%3 == 0, Bits: [MaxOutcomeBits]Bits{bitsOf("101"), bitsOf("01")}}
						r.Outcome(late[j].token, &o)
						late = slices.Delete(late, j, j+1)
					}
				}
				for _, l := range late {
					r.Outcome(l.token, &Outcome{Counts: [MaxCounts]uint32{uint32(l.id)}, Failed: l.id%3 == 0, Bits: [MaxOutcomeBits]Bits{bitsOf("101"), bitsOf("01")}})
				}
			})
		}
		wg.Wait()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		ids := map[uint64]int{}
		for _, c := range out.calls {
			ids[c.seq] = int(c.args.Keys[0].Rank)
		}
		seen := map[uint64]bool{}
		for _, o := range out.outcomes {
			id, ok := ids[o.seq]
			if !ok || seen[o.seq] || int(o.outcome.Counts[0]) != id || o.outcome.Failed != (id%3 == 0) || o.op != OpFinishWrite || o.durationNS < 0 {
				t.Fatalf("%v: outcome %+v of call %d (known %t, again %t)", overflow, o, id, ok, seen[o.seq])
			}
			if b := o.outcome.Bits; b[0].N != 3 || b[0].Words[0] != 5 || b[1].N != 2 || b[1].Words[0] != 2 {
				t.Fatalf("%v: bitmaps %+v", overflow, b)
			}
			seen[o.seq] = true
		}
		stats := r.Stats()
		if got := uint64(len(out.outcomes)) + stats.LostOutcomes; got != stats.Recorded || out.lostOutcomes != stats.LostOutcomes {
			t.Errorf("%v: %d outcomes and %d lost, the file was told %d; %d calls", overflow, len(out.outcomes), stats.LostOutcomes, out.lostOutcomes, stats.Recorded)
		}
		if lossy := stats.Dropped > 0 && stats.LostOutcomes > 0; lossy != (overflow == OverflowDrop) {
			t.Errorf("%v: %+v", overflow, stats)
		}
	}
}

// TestOutcomeOfLostCall: a call that the file refuses takes its outcome along,
// which is then not lost on its own.
func TestOutcomeOfLostCall(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{RingBytes: 1 << 14, Overflow: OverflowBlock})
	out := &keeper{fail: func(call int) error {
		if call == 4 {
			return errors.New("refused")
		}
		return nil
	}}
	start(out)
	for i := range 10 {
		token := r.Call(OpFinishWrite, oneKey(i))
		if i%2 == 0 {
			r.Outcome(token, &Outcome{Counts: [MaxCounts]uint32{uint32(i)}})
		}
	}
	r.Close()
	var of []uint64
	for _, o := range out.outcomes {
		of = append(of, o.seq)
	}
	if want := []uint64{0, 2, 6, 8}; !slices.Equal(of, want) || r.Stats().LostOutcomes != 0 {
		t.Errorf("outcomes of %v, %+v; want %v", of, r.Stats(), want)
	}
}

// TestPendingCalls: the oldest calls without outcome are forgotten, and an
// outcome that comes then is known to be lost.
func TestPendingCalls(t *testing.T) {
	var p pendingCalls
	const n = 6 * maxPendingCalls
	for i := range uint64(n) {
		p.add(i*48, i)
		if i%2 == 1 {
			if seq, ok := p.take(i * 48); !ok || seq != i {
				t.Fatalf("call %d: got %d, %t", i, seq, ok)
			}
		}
	}
	if cap(p.list) > 3*maxPendingCalls || p.forgotten == 0 {
		t.Errorf("%d entries for at most %d, forgotten up to %d", cap(p.list), maxPendingCalls, p.forgotten)
	}
	for i := uint64(n - 2); ; i -= 2 {
		seq, ok := p.take(i * 48)
		if old := i*48 < p.forgotten; ok == old || ok && seq != i {
			t.Fatalf("call %d: got %d, %t, forgotten up to %d", i, seq, ok, p.forgotten)
		}
		if i == 0 {
			break
		}
	}
	if len(p.list) != 0 {
		t.Errorf("%d entries left", len(p.list))
	}
	if _, ok := p.take(0); ok {
		t.Error("a call has two outcomes")
	}
}

// TestNoOutcomes: without them a call costs no token, and the file has none.
func TestNoOutcomes(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{NoOutcomes: true})
	out := &keeper{}
	start(out)
	token := r.Call(OpFinishWrite, oneKey(1))
	r.Outcome(token, &Outcome{})
	r.Close()
	if token.WantsOutcome() || len(out.outcomes) != 0 || len(out.calls) != 1 {
		t.Errorf("%+v, %d outcomes of %d calls", token, len(out.outcomes), len(out.calls))
	}
	var off *Recorder
	off.Outcome(off.Call(OpFinishWrite, oneKey(1)), &Outcome{})
}

func TestOutcomeAllocatesNothing(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	r, _ := heapRecorder(Options{RingBytes: 1 << 24})
	r.on.Store(true)
	a := oneKey(1)
	if n := testing.AllocsPerRun(1000, func() {
		token := r.Call(OpFinishWrite, a)
		words := [2]uint64{5}
		r.Outcome(token, &Outcome{Counts: [MaxCounts]uint32{2, 1}, Bits: [MaxOutcomeBits]Bits{{Words: words[:1], N: 3}}})
	}); n != 0 {
		t.Errorf("%v allocations a call with its outcome", n)
	}
	if lost := r.ring.lostOutcomes.Load() + r.ring.dropped.Load(); lost > 0 {
		t.Errorf("%d lost: the ring is too small for the test", lost)
	}
}

// TestRecordOutcomesToFile records on a virtual clock and reads times, counts,
// bitmaps and totals back.
func TestRecordOutcomesToFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.lct")
	virtual := clock.NewVirtual(1_700_000_000_000_000_000)
	r, err := Create(path, Options{RingDir: t.TempDir(), Overflow: OverflowBlock, Clock: virtual})
	if err != nil {
		t.Fatal(err)
	}
	token := r.Call(OpSubmitPrefetchTask, newCallGen(1).call(OpSubmitPrefetchTask))
	r.Call(OpFinishWrite, oneKey(1))
	if err := virtual.SleepUntil(t.Context(), 2_500); err != nil {
		t.Fatal(err)
	}
	r.Outcome(token, &Outcome{Counts: [MaxCounts]uint32{1, 2, 3}, Bits: [MaxOutcomeBits]Bits{bitsOf("100000"), bitsOf("011000")}})
	r.Outcome(r.Call(OpReserveWrite, newCallGen(1).call(OpReserveWrite)), &Outcome{Failed: true})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := OpenNative(path, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var got []OutcomeRecord
	src.OnOutcome(func(o *OutcomeRecord) {
		if o.Seq == 0 && (o.Bits[0].String() != "100000" || o.Bits[1].String() != "011000") {
			t.Errorf("bitmaps %v", o.Bits)
		}
		o.Bits = nil
		kept := *o
		kept.Counts = slices.Clone(o.Counts)
		got = append(got, kept)
	})
	records := 0
	for src.Next() {
		records++
	}
	if records != 3 || len(got) != 2 {
		t.Fatalf("%d records, %d outcomes", records, len(got))
	}
	o := got[0]
	if o.Op != OpSubmitPrefetchTask || o.Seq != 0 || o.MonoNS != 2_500 || o.WallNS != 1_700_000_000_000_002_500 || o.DurationNS != 2_500 || o.Failed ||
		!slices.Equal(o.Counts, []int64{1, 2, 3}) || !slices.Equal(o.Names, OpSubmitPrefetchTask.Row().Counts) {
		t.Errorf("got %+v", o)
	}
	if o := got[1]; o.Op != OpReserveWrite || o.Seq != 2 || !o.Failed || o.DurationNS != 0 {
		t.Errorf("got %+v", o)
	}
	s, err := src.Summarize()
	if err != nil || s.Records != 3 || s.Outcomes != 2 || len(s.OutcomeTotals) != 2 || s.OutcomeTotals[0].Failed != 1 ||
		s.OutcomeTotals[1].DurationNS != 2_500 || s.OutcomeTotals[1].Counts[2] != (NamedCount{"missed_keys", 3}) {
		t.Errorf("summary %+v, %v", s, err)
	}
}

// FuzzOutcome: what is read from any bytes is written back as the same.
func FuzzOutcome(f *testing.F) {
	row := OpReserveWrite.Row()
	def := &opDefinition{op: OpReserveWrite, qualname: row.Qualname, counts: row.Counts}
	for _, text := range []string{"", "1", "0110", "11111111110000000000", "01010101010101010101010101"} {
		o := Outcome{Bits: [MaxOutcomeBits]Bits{bitsOf(text)}}
		for _, c := range text {
			o.Counts[0] += uint32(c - '0')
		}
		f.Add(o.append(nil, row, 12345))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var d, again outcomeDecoder
		if d.decode(&cursor{b: data}, def) != nil {
			return
		}
		o := Outcome{Failed: d.out.Failed}
		for i, n := range d.out.Counts {
			o.Counts[i] = uint32(n)
		}
		for i, b := range d.out.Bits {
			if i >= MaxOutcomeBits {
				return // of another build
			}
			o.Bits[i] = Bits{b.Words(), b.Len()}
		}
		if err := checkOutcome(row, &o); err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		out := o.append(nil, row, d.out.DurationNS)
		if err := again.decode(&cursor{b: out}, def); err != nil {
			t.Fatal(err)
		}
		if again.out.DurationNS != d.out.DurationNS || again.out.Failed != d.out.Failed || !slices.Equal(again.out.Counts, d.out.Counts) {
			t.Fatalf("got %+v; want %+v", again.out, d.out)
		}
		for i, b := range again.out.Bits {
			if b.String() != d.out.Bits[i].String() {
				t.Fatalf("bitmap %d: got %v; want %v", i, b, d.out.Bits[i])
			}
		}
	})
}
