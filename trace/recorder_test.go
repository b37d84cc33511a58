package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// keptCall is a call as it arrived at the file.
type keptCall struct {
	op           Op
	seq          uint64
	mono, wallNS int64
	args         Args
}

// keptOutcome is an outcome as it arrived at the file.
type keptOutcome struct {
	op               Op
	seq              uint64
	mono, durationNS int64
	outcome          Outcome
}

// keeper stands in for the file: it keeps every call.
type keeper struct {
	mu           sync.Mutex
	calls        []keptCall
	drops        uint64
	outcomes     []keptOutcome
	lostOutcomes uint64
	flushes      int
	closed       int
	fail         func(call int) error // may be nil
	made         int
}

func (k *keeper) Call(op Op, seq uint64, monoNS, wallNS int64, a *Args) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	if k.fail != nil {
		if err := k.fail(k.made - 1); err != nil {
			return err
		}
	}
	k.calls = append(k.calls, keptCall{op, seq, monoNS, wallNS, plain(a)})
	return nil
}

func (k *keeper) Outcome(op Op, seq uint64, monoNS, wallNS, durationNS int64, o *Outcome) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		if err := k.fail(k.made); err != nil {
			return err
		}
	}
	kept := keptOutcome{op, seq, monoNS, durationNS, *o}
	for i := range kept.outcome.Bits {
		kept.outcome.Bits[i].Words = slices.Clone(o.Bits[i].Words)
	}
	k.outcomes = append(k.outcomes, kept)
	return nil
}

func (k *keeper) LostOutcomes(total uint64) { k.lostOutcomes = total }

func (k *keeper) Drops(total uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if total < k.drops {
		return fmt.Errorf("drops went from %d to %d", k.drops, total)
	}
	k.drops = total
	return nil
}

func (k *keeper) Flush()       { k.flushes++ }
func (k *keeper) Close() error { k.closed++; return nil }

// heapRecorder returns a recorder on the heap, where the race detector sees it.
// It records once start was called.
func heapRecorder(opt Options) (r *Recorder, start func(out FrameWriter)) {
	opt, err := opt.withDefaults()
	if err != nil {
		panic(err)
	}
	data, all := ringLayout(opt.RingBytes, 1<<20)
	r = newRecorder(make([]byte, all), data, processorShards, nil, opt)
	h := r.header(opt)
	return r, func(out FrameWriter) { r.begin(out, &h) }
}

func oneKey(i int) *Args {
	a := &Args{Keys: []kv.ObjectKey{{Rank: uint64(i), HashLen: 8}}}
	putRingWord(a.Keys[0].Hash[:], 0, uint64(i))
	return a
}

func TestRecorderWritesEveryCallInOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{RingBytes: 1 << 14, Overflow: OverflowBlock})
	out := &keeper{}
	start(out)
	g := newCallGen(1)
	var want []keptCall
	for i := range 3000 {
		op := Op(1 + i%(int(numOps)-1))
		a := g.call(op)
		r.Call(op, a)
		want = append(want, keptCall{op: op, seq: uint64(i), args: plain(a)})
		for j := range a.Keys { // the recorder has its own copy
			a.Keys[j] = kv.ObjectKey{}
		}
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(out.calls) != len(want) {
		t.Fatalf("%d calls in the file; want %d", len(out.calls), len(want))
	}
	var last int64
	for i, got := range out.calls {
		if got.mono < last {
			t.Fatalf("call %d: time went from %d to %d", i, last, got.mono)
		}
		last = got.mono
		got.mono, got.wallNS = 0, 0
		if !reflect.DeepEqual(got, want[i]) {
			t.Fatalf("call %d:\ngot  %+v\nwant %+v", i, got, want[i])
		}
	}
	if out.closed != 1 || out.drops != 0 || r.Stats() != (Stats{Recorded: 3000}) {
		t.Errorf("closed %d times, %d drops, stats %+v", out.closed, out.drops, r.Stats())
	}
	r.Call(OpFinishWrite, oneKey(1))
	if r.On() || r.Stats() != (Stats{Recorded: 3000}) {
		t.Errorf("after Close: on %t, stats %+v", r.On(), r.Stats())
	}
}

func TestNilRecorderRecordsNothing(t *testing.T) {
	var r *Recorder
	if r.On() {
		t.Error("a nil recorder is on")
	}
	r.Call(OpFinishWrite, oneKey(1))
	if err := r.Close(); err != nil || r.Stats() != (Stats{}) {
		t.Errorf("Close: %v, stats %+v", err, r.Stats())
	}
}

func TestRecorderIgnoresWhatIsNoOperation(t *testing.T) {
	r, start := heapRecorder(Options{})
	out := &keeper{}
	start(out)
	r.Call(OpUnknown, &Args{})
	r.Call(numOps, &Args{})
	r.Call(60000, &Args{})
	if err := r.Close(); err != nil || len(out.calls) != 0 || r.Stats() != (Stats{}) {
		t.Errorf("%d calls, %v, stats %+v", len(out.calls), err, r.Stats())
	}
}

func TestFullRingDropsAndProvesIt(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{RingBytes: 4096})
	r.on.Store(true) // recording, but nothing drains
	const before = 500
	for i := range before {
		r.Call(OpFinishWrite, oneKey(i))
	}
	fits := uint64(4096 / 88) // the frame of one key
	if got := r.ring.dropped.Load(); got != before-fits {
		t.Fatalf("%d of %d calls dropped; %d fit", got, before, fits)
	}
	out := &keeper{}
	start(out)
	const after = 10
	for i := range after {
		for r.ring.common().tail.Load()-r.ring.common().head.Load() > 2048 {
			runtime.Gosched()
		}
		r.Call(OpFinishWrite, oneKey(before+i))
	}
	r.Call(OpFinishWrite, &Args{Keys: make([]kv.ObjectKey, 1000)}) // never fits
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := r.Stats(), (Stats{Recorded: fits + after, Dropped: before - fits + 1}); got != want {
		t.Errorf("stats %+v; want %+v", got, want)
	}
	if out.drops != before-fits+1 {
		t.Errorf("the file says %d drops; want %d", out.drops, before-fits+1)
	}
	for _, c := range out.calls {
		if c.seq != c.args.Keys[0].Rank {
			t.Fatalf("call %d has sequence number %d", c.args.Keys[0].Rank, c.seq)
		}
	}
}

func TestBlockLosesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{RingBytes: 2048, Overflow: OverflowBlock})
	out := &keeper{}
	start(out)
	const producers, calls = 4, 2000
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			a := oneKey(0)
			for i := range calls {
				a.Keys[0].Group, a.Keys[0].Rank = uint32(p), uint64(i)
				r.Call(OpFinishWrite, a)
			}
		})
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var next [producers]uint64
	for i, c := range out.calls {
		k := c.args.Keys[0]
		if k.Rank != next[k.Group] || c.seq != uint64(i) {
			t.Fatalf("producer %d: call %d, sequence number %d came; want call %d, number %d", k.Group, k.Rank, c.seq, next[k.Group], i)
		}
		next[k.Group]++
	}
	if got, want := r.Stats(), (Stats{Recorded: producers * calls}); got != want {
		t.Errorf("stats %+v; want %+v", got, want)
	}
}

// TestCloseWhileCallsAreMade closes under load: what the recorder took is in the
// file, whole, and nothing else is counted.
func TestCloseWhileCallsAreMade(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, overflow := range []Overflow{OverflowDrop, OverflowBlock} {
		r, start := heapRecorder(Options{RingBytes: 4096, Overflow: overflow})
		out := &keeper{}
		start(out)
		var wg sync.WaitGroup
		for p := range 3 {
			wg.Go(func() {
				g := newCallGen(uint64(p))
				a := g.call(OpReserveWrite)
				for r.On() {
					r.Call(OpReserveWrite, a)
				}
				r.Call(OpReserveWrite, a)
			})
		}
		for r.Stats().Recorded < 100 {
			runtime.Gosched()
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if got := r.Stats().Recorded; got != uint64(len(out.calls)) {
			t.Errorf("%v: %d recorded, %d in the file", overflow, got, len(out.calls))
		}
		if overflow == OverflowBlock && r.Stats().Dropped != 0 {
			t.Errorf("%d dropped", r.Stats().Dropped)
		}
	}
}

func TestVirtualClockGivesBothTimes(t *testing.T) {
	v := clock.NewVirtual(1_776_470_400_250_000_000)
	if err := v.SleepUntil(t.Context(), 5_000); err != nil {
		t.Fatal(err)
	}
	r, start := heapRecorder(Options{Clock: v})
	out := &keeper{}
	start(out)
	for _, at := range []int64{5_000, 6_000, int64(24 * time.Hour)} {
		if err := v.SleepUntil(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		r.Call(OpFinishWrite, oneKey(1))
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 1_000, int64(24*time.Hour) - 5_000} {
		if c := out.calls[i]; c.mono != want || c.wallNS != 1_776_470_400_250_000_000+5_000+want {
			t.Errorf("call %d at %d, Unix %d", i, c.mono, c.wallNS)
		}
	}
}

func TestMachineClockTimes(t *testing.T) {
	before := time.Now()
	r, start := heapRecorder(Options{})
	out := &keeper{}
	start(out)
	r.Call(OpFinishWrite, oneKey(1))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	c := out.calls[0]
	if c.mono < 0 || c.mono > int64(after.Sub(before)) {
		t.Errorf("monotonic time %d; the test took %d", c.mono, after.Sub(before))
	}
	if c.wallNS < before.UnixNano() || c.wallNS > after.UnixNano() {
		t.Errorf("Unix time %d is not within the test", c.wallNS)
	}
}

// logLines keeps what is logged, a line each: level and message.
func logLines() (*slog.Logger, func() []string) {
	var b bytes.Buffer
	var mu sync.Mutex
	h := slog.NewTextHandler(lockedWriter{&mu, &b}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return a
		}
		return slog.Attr{}
	}})
	return slog.New(h), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Split(strings.TrimSpace(b.String()), "\n")
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func TestWriteFailure(t *testing.T) {
	defer goleak.VerifyNone(t)
	full := &mmapio.SpaceError{Path: "out.lct", Err: fs.ErrInvalid}
	other := errors.New("call too large")
	for _, c := range []struct {
		name     string
		fail     func(call int) error
		recorded uint64
		err      error
	}{
		{"disk full ends writing", func(i int) error {
			if i == 3 {
				return fmt.Errorf("append: %w", full)
			}
			return nil
		}, 3, full},
		{"other errors cost one call", func(i int) error {
			if i == 3 || i == 5 {
				return other
			}
			return nil
		}, 98, other},
	} {
		t.Run(c.name, func(t *testing.T) {
			log, lines := logLines()
			r, start := heapRecorder(Options{RingBytes: 1 << 14, Overflow: OverflowBlock, Log: log})
			out := &keeper{fail: c.fail}
			start(out)
			for i := range 100 {
				r.Call(OpFinishWrite, oneKey(i))
			}
			if err := r.Close(); !errors.Is(err, c.err) {
				t.Errorf("Close: %v; want %v", err, c.err)
			}
			if got, want := r.Stats(), (Stats{Recorded: c.recorded, Dropped: 100 - c.recorded}); got != want {
				t.Errorf("stats %+v; want %+v", got, want)
			}
			if out.drops != 100-c.recorded || out.closed != 1 {
				t.Errorf("the file says %d drops, closed %d times", out.drops, out.closed)
			}
			want := []string{
				`level=WARN msg="trace recorder: write failed; dropping record"`,
				fmt.Sprintf(`level=WARN msg="trace recorder closed; %d record(s) dropped"`, 100-c.recorded),
			}
			if got := lines(); !reflect.DeepEqual(got, want) {
				t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, kept := range out.calls {
				if kept.seq != kept.args.Keys[0].Rank {
					t.Errorf("call %d has sequence number %d", kept.args.Keys[0].Rank, kept.seq)
				}
			}
		})
	}
}

func TestOverwrittenRingEndsRecording(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{RingBytes: 1 << 12})
	mmapio.Uint64(r.ring.common().data, 0).Store(12345)
	out := &keeper{}
	start(out)
	<-r.drain.done
	r.Call(OpFinishWrite, oneKey(1)) // must not hang or panic
	if err := r.Close(); err == nil || out.closed != 1 {
		t.Errorf("Close: %v, file closed %d times", err, out.closed)
	}
}

// TestCreate records to a file by the mapped ring, from several goroutines.
func TestCreate(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir, ringDir := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "t.lct")
	log, lines := logLines()
	r, err := Create(path, Options{RingDir: ringDir, RingBytes: 1 << 16, Overflow: OverflowBlock, Log: log,
		ConfigJSON: strings.Repeat(" ", 200_000) + "{}", Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if rings, _ := filepath.Glob(filepath.Join(ringDir, "*")); len(rings) != 1 {
		t.Errorf("ring files %v; want one", rings)
	} else if b, err := os.ReadFile(rings[0]); err != nil || string(b[:8]) != ringMagic ||
		!bytes.Contains(b[:ringHeaderBytes], []byte(path)) || ringWord(b, ringAtPID) != uint64(os.Getpid()) {
		t.Errorf("the ring's header does not say what it is: %v", err)
	}
	if _, err := Create(path, Options{RingDir: ringDir}); !errors.Is(err, mmapio.ErrInUse) {
		t.Errorf("second recorder on one path: %v; want ErrInUse", err)
	}
	const producers, calls = 3, 5000
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			g := newCallGen(uint64(p))
			for i := range calls {
				op := Op(1 + i%(int(numOps)-1))
				r.Call(op, g.call(op))
			}
		})
	}
	wg.Wait()
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r.Call(OpFinishWrite, oneKey(1))
	if got, want := r.Stats(), (Stats{Recorded: producers * calls}); got != want {
		t.Errorf("stats %+v; want %+v", got, want)
	}
	if rings, _ := filepath.Glob(filepath.Join(ringDir, "*")); len(rings) != 0 {
		t.Errorf("after Close the ring is still there: %v", rings)
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(b, []byte("LMCTRACE")) || len(b) < 200_000+producers*calls*8 || len(b)%8 != 0 {
		t.Errorf("file of %d bytes, %v", len(b), err)
	}
	want := []string{
		fmt.Sprintf(`level=INFO msg="trace recorder writing to %s (level=storage)"`, path),
		fmt.Sprintf(`level=INFO msg="trace recorder closed cleanly: %s"`, path),
	}
	if got := lines(); !reflect.DeepEqual(got, want) {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRingIsUnmappedWithItsRecorder closes recorders while calls are made, and
// lets the garbage collector unmap what is behind them.
func TestRingIsUnmappedWithItsRecorder(t *testing.T) {
	for range 5 {
		r, err := Create(filepath.Join(t.TempDir(), "t.lct"), Options{RingBytes: 1 << 14})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for p := range 2 {
			wg.Go(func() {
				g := newCallGen(uint64(p))
				for range 2000 {
					r.Call(OpReserveWrite, g.call(OpReserveWrite)) // after Close too
				}
			})
		}
		for r.Stats().Recorded == 0 {
			runtime.Gosched()
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		runtime.GC()
	}
}

func TestParseOverflow(t *testing.T) {
	for _, o := range []Overflow{OverflowDrop, OverflowBlock} {
		if got, err := ParseOverflow(o.String()); got != o || err != nil {
			t.Errorf("%v: got %v, %v", o, got, err)
		}
	}
	if _, err := ParseOverflow("wait"); err == nil {
		t.Error("wait was accepted")
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		path string
		opt  Options
		want string
	}{
		"missing folder":   {filepath.Join(dir, "no", "t.lct"), Options{RingDir: dir}, "no such file"},
		"missing ring dir": {filepath.Join(dir, "t.lct"), Options{RingDir: filepath.Join(dir, "no")}, "create the ring"},
		"level":            {filepath.Join(dir, "t.lct"), Options{Level: "l9"}, "unsupported trace level 'l9'; only 'storage' is supported"},
		"overflow":         {filepath.Join(dir, "t.lct"), Options{Overflow: 9}, "overflow"},
		"ring too large":   {filepath.Join(dir, "t.lct"), Options{RingBytes: 1 << 31}, "at most"},
	} {
		_, err := Create(c.path, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %q", name, err, c.want)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%s: left %v behind", name, left)
		}
	}
}

func TestDefaultPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "missing"))
	t.Setenv("TEMP", dir)
	got := DefaultPath(1_776_470_400_250_000_000)
	want := "^" + regexp.QuoteMeta(filepath.Join(dir, fmt.Sprintf("lmcache-trace-%d-20260418-000000.lct", os.Getpid()))) + "$"
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("got %s; want %s", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left %v behind", left)
	}
}
