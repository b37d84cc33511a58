package sm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/sm"
)

var (
	simTime = flag.Duration("simtime", 2*time.Second, "how long TestSim runs new seeds; at least one")
	simSeed = flag.Uint64("simseed", 0, "run this seed of TestSim alone; 0 begins at 1, or with -simtime at a random one")
)

// simSetup is what a seed decides beside the schedule.
type simSetup struct {
	cfg     sm.Config
	stores  []simBehaviour
	strict  bool // locks do not lapse: every one must have been given back at the end
	several bool // L1s
	callers int
	steps   int // of each caller
}

// simKeys is how many conversations there are, and chunks in each.
const simConversations, simChunks = 6, 5

// simSalt is of every other conversation.
const simSalt = "tenant"

var simScope = func() kv.Scope {
	s, err := kv.InternScope("", simSalt)
	if err != nil {
		panic(err)
	}
	return s
}()

// simLayouts are those of the two object groups.
var simLayouts = [2]kv.Layout{simLayout(1000), simLayout(2600)}

func simLayout(bytes int64) kv.Layout {
	d, _ := kv.ParseDType("uint8")
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{bytes}}, DTypes: []kv.DType{d}})
	if err != nil {
		panic(err)
	}
	return l
}

func newSimSetup(rng *rand.Rand) simSetup {
	s := simSetup{cfg: sm.DefaultConfig(), strict: rng.IntN(2) == 0, callers: 1 + rng.IntN(4), steps: 150}
	// A key may be in several L1s. A finish or a release that means the one and
	// finds the other first trades them. Without lapses, and with one lock at a
	// time, callers cannot tell; but a release may take the lock of a store's task
	// in the one, and leave its own in the other to lapse.
	several := rng.IntN(4) == 0
	s.strict, s.several = s.strict || several, several
	c := &s.cfg
	c.StorePolicy, c.PrefetchPolicy = pickOne(rng, sm.StorePolicies), pickOne(rng, sm.PrefetchPolicies)
	c.PrefetchMaxInFlight = pickOne(rng, []int{1, 2, 8})
	c.L1.ReadTTLSeconds, c.L1.WriteTTLSeconds = 120, 60 // above the longest pause, far below a store that hangs
	if s.strict {
		c.L1.ReadTTLSeconds, c.L1.WriteTTLSeconds = 1e7, 1e7
	}
	tiers := []sm.L1Manager{{Tag: sm.DefaultTag}}
	if several {
		tiers = []sm.L1Manager{{Tag: "fast"}, {Tag: "slow"}}
	}
	for i := range tiers {
		t := &tiers[i]
		t.L1 = c.L1
		t.L1.SizeBytes, t.L1.AlignBytes = 512*int64(8+rng.IntN(150)), int64(64<<rng.IntN(4))
		t.Eviction = sm.EvictionConfig{Policy: pickOne(rng, sm.EvictionPolicies), Watermark: pickOne(rng, []float64{0, 0.4, 0.8}), Ratio: pickOne(rng, []float64{0.1, 0.3, 1})}
		if t.Eviction.Policy == sm.IsolatedLRU && len(c.Quotas) == 0 {
			c.Quotas = []sm.Quota{{Salt: "", LimitBytes: 10_000}, {Salt: simSalt, LimitBytes: 4_000}}[:1+rng.IntN(2)]
		}
	}
	if c.L1, c.Eviction = tiers[0].L1, tiers[0].Eviction; len(tiers) > 1 {
		c.L1Managers = tiers
	}
	for i := range rng.IntN(4) {
		text := fmt.Sprintf(`{"type": "mock", "n": %d`, i)
		if len(tiers) > 1 {
			text += fmt.Sprintf(`, "affinity_tag": %q`, pickOne(rng, tiers).Tag)
		}
		if rng.IntN(2) == 0 {
			text += fmt.Sprintf(`, "eviction": {"eviction_policy": %q, "trigger_watermark": 0.5, "eviction_ratio": 0.3}`, pickOne(rng, []string{"LRU", "ARC", "S3FIFO", "LeafLRU"}))
		}
		c.L2Adapters = append(c.L2Adapters, text+"}")
		s.stores = append(s.stores, simBehaviour{
			latency: pickOne(rng, []time.Duration{0, time.Millisecond, 2 * time.Second}), slow: pickOne(rng, []time.Duration{0, time.Minute, 20 * time.Minute}),
			failures: pickOne(rng, []float64{0, 0.1, 0.5}), objects: pickOne(rng, []int{5, 1000}),
		})
	}
	return s
}

// lives sets how long the locks of every tier hold, in seconds.
func (s *simSetup) lives(read, write int64) {
	s.cfg.L1.ReadTTLSeconds, s.cfg.L1.WriteTTLSeconds = read, write
	for i := range s.cfg.L1Managers {
		l := &s.cfg.L1Managers[i].L1
		l.ReadTTLSeconds, l.WriteTTLSeconds = read, write
	}
}

func pickOne[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

// simWorld is one manager, its stores and its callers.
type simWorld struct {
	setup   simSetup
	clk     clock.Clock
	m       *sm.Manager
	stores  []*simStore
	callers []*simCaller

	mu     sync.Mutex // guards broken
	broken []string   // what stores and callers found
}

func (w *simWorld) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) < 5 {
		w.broken = append(w.broken, fmt.Sprintf(format, args...))
	}
}

func newSimWorld(setup simSetup, seed uint64, clk clock.Clock) (*simWorld, error) {
	w := &simWorld{setup: setup, clk: clk}
	kind := l2.Kind{Check: func([]byte) error { return nil }, New: func(_ []byte, env l2.Env) (l2.Adapter, error) {
		n := len(w.stores)
		w.stores = append(w.stores, newSimStore(fmt.Sprintf("sim%d", n), setup.stores[n%len(setup.stores)], seed+uint64(n), env, w.complain))
		return w.stores[n], nil
	}}
	var err error
	w.m, err = sm.New(setup.cfg, sm.Options{Clock: clk, Memory: sm.RealMemory, Adapters: l2.Registry{"mock": kind}, Log: slog.New(w)})
	if err != nil {
		return nil, err
	}
	for i := range setup.callers {
		w.callers = append(w.callers, &simCaller{w: w, m: w.m, rng: rand.New(rand.NewPCG(seed, 100+uint64(i)))})
	}
	return w, nil
}

// Enabled, Handle, WithAttrs and WithGroup make the world the log of its manager:
// it has nothing to say of an error, a panic that it survived above all.
func (w *simWorld) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (w *simWorld) Handle(_ context.Context, r slog.Record) error {
	w.complain("the log has: %s", r.Message)
	return nil
}

func (w *simWorld) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *simWorld) WithGroup(string) slog.Handler      { return w }

// simCaller is a client that keeps to the rules: it finishes only reservations
// that are live, reads only what it has locked, and releases no more than that.
// It knows what it holds, and what therefore must be true of the manager.
type simCaller struct {
	w   *simWorld
	m   *sm.Manager
	rng *rand.Rand

	reserved []simReservation
	asked    []simRequest
	held     []simHold
}

type simReservation struct {
	keys  []kv.ObjectKey
	until int64
}

type simRequest struct {
	spec   *kv.PrefetchSpec
	handle sm.PrefetchHandle
	eager  bool // its result is taken as soon as it is there, when all of its locks must be live
}

// simHold is read locks of a completed prefetch. They are live until at least
// until: TTL after the submission, and they were taken then or later.
type simHold struct {
	keys  []kv.ObjectKey
	locks int // of each key
	until int64
}

// act does one thing.
func (c *simCaller) act() {
	c.lapse()
	c.query(false)
	switch n := c.rng.IntN(100); {
	case n < 28:
		c.reserve()
	case n < 50:
		c.finish()
	case n < 72:
		c.submit()
	case n < 82:
		c.read()
	case n < 96:
		c.release()
	case n < 98:
		c.m.EvictOnce()
	case n < 99:
		c.m.Clear(false)
	default:
		c.m.Stats()
	}
}

// done gives back what the caller holds; what it has asked for stays asked.
func (c *simCaller) done() {
	c.lapse()
	c.query(false)
	for len(c.reserved) > 0 {
		c.finish()
	}
	for len(c.held) > 0 {
		c.release()
	}
}

// prefix returns the first chunks of a conversation in one object group.
func (c *simCaller) prefix(conversation, chunks, group int) []kv.ObjectKey {
	out := make([]kv.ObjectKey, chunks)
	for i := range out {
		out[i] = kv.ObjectKey{HashLen: 4, Group: uint32(group)}
		out[i].Hash[0], out[i].Hash[1] = byte(conversation), byte(i)
		if conversation%2 == 1 {
			out[i].Scope = simScope
		}
	}
	return out
}

func (c *simCaller) reserve() {
	group := c.rng.IntN(2)
	keys := c.prefix(c.rng.IntN(simConversations), 1+c.rng.IntN(simChunks), group)
	mode := kv.ModeNew
	if c.rng.IntN(5) == 0 {
		mode = pickOne(c.rng, []kv.WriteMode{kv.ModeUpdate, kv.ModeAll})
	}
	until := c.w.clk.Now() + c.w.setup.cfg.L1.WriteTTLSeconds*int64(time.Second)
	res, err := c.m.ReserveWrite(keys, simLayouts[group], mode)
	if err != nil || len(res) != len(keys) {
		c.w.complain("reserve of %d keys gives %d results, %v", len(keys), len(res), err)
		return
	}
	var mine []kv.ObjectKey
	for i, r := range res {
		switch {
		case r.Code == l1.Success && int64(len(r.Object.Bytes)) != simLayouts[group].Bytes():
			c.w.complain("key %v is given %d bytes; want %d", keys[i], len(r.Object.Bytes), simLayouts[group].Bytes())
		case r.Code == l1.Success:
			paint(r.Object.Bytes, keys[i])
			mine = append(mine, keys[i])
		}
	}
	if len(mine) > 0 {
		c.reserved = append(c.reserved, simReservation{mine, until})
	}
}

// takeOut removes a random element.
func takeOut[T any](rng *rand.Rand, list *[]T) (x T, ok bool) {
	if len(*list) == 0 {
		return x, false
	}
	i := rng.IntN(len(*list))
	x = (*list)[i]
	*list = slices.Delete(*list, i, i+1)
	return x, true
}

func (c *simCaller) finish() {
	r, ok := takeOut(c.rng, &c.reserved)
	if !ok || c.rng.IntN(20) == 0 && !c.w.setup.strict { // else it is abandoned
		return
	}
	for i, code := range c.m.FinishWrite(r.keys) {
		if code != l1.Success {
			c.w.complain("finish of key %v, whose reservation is live: %v", r.keys[i], code)
		}
	}
}

func (c *simCaller) submit() {
	s := &kv.PrefetchSpec{Readers: int32(1 + c.rng.IntN(3))}
	if c.w.setup.several {
		s.Readers = 1
	}
	conversation, chunks := c.rng.IntN(simConversations), 1+c.rng.IntN(simChunks)
	first := c.rng.IntN(2)
	for g := first; g < 2; g++ {
		window := int32(kv.FullAttention)
		if c.rng.IntN(4) == 0 {
			window = int32(1 + c.rng.IntN(3))
		}
		s.Groups = append(s.Groups, kv.KeyGroup{Keys: c.prefix(conversation, chunks, g), Layout: simLayouts[g], Window: window})
	}
	if c.rng.IntN(3) == 0 {
		s.Policy = kv.FetchFull
	}
	if c.rng.IntN(6) == 0 {
		s.Lock = kv.NoLock
	}
	h, err := c.m.SubmitPrefetchTask(s, "", c.rng.IntN(5) == 0)
	if err != nil {
		c.w.complain("submit: %v", err)
		return
	}
	c.asked = append(c.asked, simRequest{s, h, c.rng.IntN(2) == 0})
}

// query takes the results that are there; eagerly, those that came just now.
func (c *simCaller) query(eagerly bool) {
	c.asked = slices.DeleteFunc(c.asked, func(r simRequest) bool {
		if eagerly && !r.eager {
			return false
		}
		res, ok := c.m.QueryPrefetchStatus(r.handle)
		if !ok {
			return false
		}
		if _, again := c.m.QueryPrefetchStatus(r.handle); again {
			c.w.complain("request %d has two results", r.handle.ID)
		}
		var hits []kv.ObjectKey
		for i, row := range res.Rows {
			for col, k := range r.spec.Groups[i].Keys {
				if row.Hits.Test(col) {
					hits = append(hits, k)
				}
				if row.L1.Test(col) && row.L2.Test(col) || row.Hits.Test(col) != (row.L1.Test(col) || row.L2.Test(col)) {
					c.w.complain("request %d, row %d, column %d: hit %v, from L1 %v, from L2 %v", r.handle.ID, i, col, row.Hits.Test(col), row.L1.Test(col), row.L2.Test(col))
				}
			}
		}
		if len(hits) != res.L1Hits+res.L2Hits {
			c.w.complain("request %d has %d hits, %d and %d by tier", r.handle.ID, len(hits), res.L1Hits, res.L2Hits)
		}
		if len(hits) > 0 && r.spec.Lock != kv.NoLock {
			until := r.handle.SubmitNS + c.w.setup.cfg.L1.ReadTTLSeconds*int64(time.Second)
			now := c.w.clk.Now()
			if eagerly {
				until = max(until, now+1)
			}
			if until > now {
				c.held = append(c.held, simHold{hits, int(r.spec.Readers), until})
			}
		}
		return true
	})
}

// lapse forgets what may not be live any more.
func (c *simCaller) lapse() {
	now := c.w.clk.Now()
	c.reserved = slices.DeleteFunc(c.reserved, func(r simReservation) bool { return r.until <= now })
	c.held = slices.DeleteFunc(c.held, func(h simHold) bool { return h.until <= now })
}

func (c *simCaller) read() {
	if len(c.held) == 0 {
		return
	}
	i := c.rng.IntN(len(c.held))
	h := &c.held[i]
	r := c.m.ReadPrefetched(h.keys)
	for j, code := range r.Codes() {
		if code != l1.Success {
			c.w.complain("read of key %v, which is locked: %v", h.keys[j], code)
		}
	}
	for j, o := range r.Objects() {
		if wrong := describe(o.Bytes, h.keys[j]); wrong != "" {
			c.w.complain("key %v: %s", h.keys[j], wrong)
		}
	}
	if c.rng.IntN(4) > 0 {
		r.Exit(nil)
		return
	}
	r.Exit(fmt.Errorf("a reader that fails"))
	if h.locks--; h.locks == 0 {
		c.held = slices.Delete(c.held, i, i+1)
	}
}

func (c *simCaller) release() {
	h, ok := takeOut(c.rng, &c.held)
	if !ok {
		return
	}
	n := h.locks
	if n > 1 && c.rng.IntN(2) == 0 {
		n = 1
		c.held = append(c.held, simHold{h.keys, h.locks - 1, h.until})
	}
	for i, code := range c.m.FinishReadPrefetched(h.keys, n) {
		if code != l1.Success {
			c.w.complain("release of key %v, which is locked: %v", h.keys[i], code)
		}
	}
}

// check compares the manager with what the callers know. It may run only when
// none of them does.
func (w *simWorld) check() error {
	for _, c := range w.callers {
		c.query(true)
	}
	if len(w.broken) > 0 {
		return fmt.Errorf("%s", w.broken[0])
	}
	if err := w.m.Check(); err != nil {
		return err
	}
	now, snap := w.clk.Now(), w.m.Snapshot()
	have := make(map[kv.ObjectKey]l1.KeyState, len(snap.Keys))
	var resident, staged int64
	for _, k := range snap.Keys {
		all := have[k.Key] // in any tier
		all.Staged, all.Resident, all.ReadLocks = all.Staged || k.Staged, all.Resident || k.Resident, all.ReadLocks+k.ReadLocks
		have[k.Key] = all
		if k.Resident {
			resident++
		}
		if k.Staged {
			staged++
		}
	}
	locks := map[kv.ObjectKey]int{}
	for _, c := range w.callers {
		for _, h := range c.held {
			for _, k := range h.keys {
				if h.until > now {
					locks[k] += h.locks
				}
			}
		}
		for _, r := range c.reserved {
			for _, k := range r.keys {
				if r.until > now && !have[k].Staged {
					return fmt.Errorf("key %v is reserved until %v and has no reservation", k, time.Duration(r.until))
				}
			}
		}
	}
	for k, n := range locks {
		if have[k].ReadLocks < n {
			return fmt.Errorf("callers hold %d locks of key %v; it has %+v", n, k, have[k])
		}
	}
	tracked := map[kv.ObjectKey]bool{}
	for _, k := range snap.Order {
		if tracked[k] && len(w.setup.cfg.L1Managers) == 0 {
			return fmt.Errorf("the policy has key %v twice", k)
		}
		tracked[k] = true
		if _, ok := have[k]; !ok {
			return fmt.Errorf("the policy has key %v, which has no object", k)
		}
	}
	if !slices.ContainsFunc(w.setup.cfg.Tiers(), func(t sm.L1Manager) bool { return t.Eviction.Policy == "noop" }) {
		for k, s := range have {
			if s.Resident && !tracked[k] {
				return fmt.Errorf("the policy does not know the resident key %v", k)
			}
		}
	}
	pending := 0
	for _, c := range w.callers {
		pending += len(c.asked)
	}
	s := w.m.Stats()
	if s.Resident != resident || s.Staged < staged || s.UsedBytes > s.CapacityBytes || s.PendingPrefetches > int64(pending) {
		return fmt.Errorf("counts are %+v; the tier has %d resident and %d staged keys, callers wait for %d results", s, resident, staged, pending)
	}
	return nil
}

// settled reports whether no request and no store has work left.
func (w *simWorld) settled() bool {
	for _, c := range w.callers {
		if len(c.asked)+len(c.held)+len(c.reserved) > 0 {
			return false
		}
	}
	for _, s := range w.stores {
		if !s.idle() {
			return false
		}
	}
	return true
}

// runSim runs one seed and returns the simulated time and the number of events.
func runSim(seed uint64) (simulated time.Duration, events int, err error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	clk := clock.NewVirtual(0)
	setup := newSimSetup(rng)
	w, err := newSimWorld(setup, seed, clk)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if closeErr := w.m.Close(); err == nil {
			err = closeErr
		}
	}()
	fail := func(doing string, err error) error {
		return fmt.Errorf("%s, event %d, at %v: %w\nsetup: %+v", doing, events, time.Duration(clk.Now()), err, setup)
	}
	working := len(w.callers)
	for _, c := range w.callers {
		left := setup.steps
		var next func()
		next = func() {
			c.act()
			if left--; left > 0 {
				clk.AfterFunc(simPause(c.rng), next)
				return
			}
			working--
			var leave func()
			leave = func() { // a result that nobody takes goes after a while
				c.done()
				if working > 0 {
					clk.AfterFunc(10*time.Second, leave)
				}
			}
			leave()
		}
		clk.AfterFunc(simPause(c.rng), next)
	}
	for ; working > 0; events++ {
		if !clk.Next() {
			return 0, events, fail("running", fmt.Errorf("no event is left"))
		}
		if err := w.check(); err != nil {
			return 0, events, fail("running", err)
		}
	}
	if rng.IntN(4) == 0 { // closed in the middle of everything: the deferred Close
		return time.Duration(clk.Now()), events, nil
	}
	busy := clk.Now() // what was woken at this time has yet to run
	for end := busy + int64(100*time.Hour); !w.settled() || clk.Now() == busy; events++ {
		if !w.settled() {
			busy = clk.Now()
		}
		if !clk.Next() || clk.Now() > end {
			waiting := 0
			for _, c := range w.callers {
				waiting += len(c.asked)
			}
			return 0, events, fail("settling", fmt.Errorf("%d requests have no result", waiting))
		}
		for _, c := range w.callers {
			c.done()
		}
		if err := w.check(); err != nil {
			return 0, events, fail("settling", err)
		}
	}
	if !setup.strict { // what was left to lapse
		for end := clk.Now() + max(setup.cfg.L1.ReadTTLSeconds, setup.cfg.L1.WriteTTLSeconds)*int64(time.Second); clk.Now() < end && clk.Next(); events++ {
		}
	}
	for _, k := range w.m.Snapshot().Keys {
		if (k.ReadLocked || (k.Staged || k.Temporary) && setup.strict) && !setup.several {
			return 0, events, fail("settled", fmt.Errorf("nobody holds anything, but there is %+v", k))
		}
	}
	for _, s := range w.stores {
		if n := s.leftLocks(); n != 0 {
			return 0, events, fail("settled", fmt.Errorf("store %s has %d locks that nobody gives back", s.name, n))
		}
	}
	w.m.Clear(setup.several)
	if s := w.m.Stats(); s.UsedBytes != 0 || s.PendingPrefetches != 0 {
		return 0, events, fail("cleared", fmt.Errorf("there is %+v", s))
	}
	if err := w.check(); err != nil {
		return 0, events, fail("cleared", err)
	}
	return time.Duration(clk.Now()), events, nil
}

// simPause is the time from one act of a caller to its next: most come close
// together, some after the stores are done, few after eviction cycles.
func simPause(rng *rand.Rand) time.Duration {
	return time.Duration(rng.Int64N(int64(pickOne(rng, []time.Duration{1, time.Microsecond, time.Millisecond,
		50 * time.Millisecond, time.Second, 10 * time.Second, 100 * time.Second}))))
}

// TestSim drives a whole manager on virtual time with random callers, stores,
// failures and set-ups, and checks after every event that callers have what they
// were given, that the tier's accounting is right, and at the end that nothing
// was lost. A seed decides everything: make sim SEED=n runs a seed again.
func TestSim(t *testing.T) {
	seed, seeds := max(*simSeed, 1), 0
	random := false
	flag.Visit(func(f *flag.Flag) { random = random || f.Name == "simtime" })
	if random && *simSeed == 0 {
		seed = rand.Uint64() >> 1
	}
	var simulated time.Duration
	events := 0
	for start := time.Now(); seeds == 0 || *simSeed == 0 && time.Since(start) < *simTime; seed, seeds = seed+1, seeds+1 {
		d, n, err := simSafely(seed)
		if simulated, events = simulated+d, events+n; err != nil {
			t.Fatalf("seed %d: %v\nrun it again with: make sim SEED=%d", seed, err, seed)
		}
	}
	t.Logf("%d seeds, %d events, %v of simulated time", seeds, events, simulated.Round(time.Second))
}

// TestSimOnThreads lets the same callers loose on goroutines and the machine's
// clock, for the race detector above all. Each caller checks what it gets; the
// whole is checked when they have left.
func TestSimOnThreads(t *testing.T) {
	defer goleak.VerifyNone(t)
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		setup := newSimSetup(rng)
		for setup.several { // there a release can take the lock that another's reader relies on: keys name no tier
			setup = newSimSetup(rng)
		}
		setup.strict, setup.callers, setup.steps = true, 4, 400
		setup.lives(600, 600)
		for i := range setup.stores {
			setup.stores[i].latency, setup.stores[i].slow = min(setup.stores[i].latency, 50*time.Microsecond), 2*time.Millisecond
		}
		w, err := newSimWorld(setup, seed, clock.Real{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, c := range w.callers {
			wg.Go(func() {
				for range setup.steps {
					c.act()
				}
				for start := time.Now(); len(c.asked)+len(c.held)+len(c.reserved) > 0; runtime.Gosched() {
					if c.done(); time.Since(start) > 20*time.Second {
						w.complain("no result of %d requests, the first is %d", len(c.asked), c.asked[0].handle.ID)
						return
					}
				}
			})
		}
		wg.Wait()
		start := time.Now()
		for idle := 0; idle < 100 && time.Since(start) < 20*time.Second; runtime.Gosched() { // stores still run, and what their ends wake
			if idle++; !w.settled() || locked(w.m) {
				idle = 0
			}
		}
		err = w.check()
		for _, k := range w.m.Snapshot().Keys {
			if k.Temporary || k.ReadLocked || k.Staged {
				err = fmt.Errorf("nobody holds anything, but there is %+v", k)
			}
		}
		w.m.Clear(false)
		if s := w.m.Stats(); err == nil && s.UsedBytes+s.PendingPrefetches != 0 {
			err = fmt.Errorf("after a clear there is %+v", s)
		}
		for _, s := range w.stores {
			if n := s.leftLocks(); err == nil && n != 0 {
				err = fmt.Errorf("store %s has %d locks that nobody gives back", s.name, n)
			}
		}
		if err := errors.Join(err, w.m.Close()); err != nil {
			t.Fatalf("seed %d: %v\nsetup: %+v", seed, err, setup)
		}
	}
}

// simSafely is runSim with a panic turned into an error that still names the
// seed.
func simSafely(seed uint64) (d time.Duration, n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return runSim(seed)
}

// TestSimRepeats: the same seed does the same.
func TestSimRepeats(t *testing.T) {
	for seed := range uint64(5) {
		d, n, err := simSafely(1000 + seed)
		again, m, errAgain := simSafely(1000 + seed)
		if d != again || n != m || (err == nil) != (errAgain == nil) {
			t.Errorf("seed %d: %v in %d events, then %v in %d", 1000+seed, d, n, again, m)
		}
	}
}
