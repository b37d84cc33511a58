package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// worker is a client with one instance per rank; a chunk is 16 tokens.
type worker struct {
	*engine.Engine
	t     testing.TB
	model string
	world int
}

func newWorker(t testing.TB, e *engine.Engine, world int, instances ...int64) *worker {
	t.Helper()
	w := &worker{e, t, "m", world}
	for _, id := range instances {
		w.register(id)
	}
	return w
}

func (w *worker) register(id int64) wire.Pool {
	w.t.Helper()
	pool, err := w.Register(&wire.Context{Instance: id, Model: w.model, WorldSize: w.world, BlockSize: 16, Layers: 2, Hidden: 8, DType: "float16"})
	if err != nil {
		w.t.Fatal(err)
	}
	return pool
}

// key is the request of a worker for the first n chunks of a prompt.
func (w *worker) key(request string, prompt uint32, rank, n int) *wire.Key {
	tokens := make([]uint32, n*16)
	for i := range tokens {
		tokens[i] = prompt<<16 + uint32(i)
	}
	return &wire.Key{Model: w.model, WorldSize: w.world, Worker: rank, Tokens: tokens, End: len(tokens), RequestID: request, Readers: 1}
}

// store prepares and commits, and returns how many chunks were missing.
func (w *worker) store(k *wire.Key, id int64) int {
	w.t.Helper()
	p, err := w.PrepareStore(k, id)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(p.Slots) == 0 {
		return 0
	}
	if ok, err := w.CommitStore(k, id, nil); err != nil || !ok {
		w.t.Fatal(ok, err)
	}
	return len(p.Slots)
}

// lookup looks up and takes the answer.
func (w *worker) lookup(k *wire.Key) int {
	w.t.Helper()
	look := *k
	look.Worker = wire.AllWorkers
	if err := w.Lookup(&look); err != nil {
		w.t.Fatal(err)
	}
	hits, ok := w.PrefetchStatus(k.RequestID)
	if !ok {
		w.t.Fatal("lookup without L2 is not done at once")
	}
	return hits
}

// retrieve prepares and commits, and says whether the locks were there.
func (w *worker) retrieve(k *wire.Key, id int64) bool {
	w.t.Helper()
	slots, ok, err := w.PrepareRetrieve(k, id)
	if err != nil || ok && len(slots) != (k.End-k.Start)/16 {
		w.t.Fatal(slots, err)
	}
	if done, err := w.CommitRetrieve(k, id); !done || err != nil {
		w.t.Fatal(done, err)
	}
	return ok
}

func locks(m *sm.Manager) (n int) {
	for _, k := range m.Snapshot().Keys {
		n += k.ReadLocks
	}
	return n
}

func staged(m *sm.Manager) (n int) {
	for _, k := range m.Snapshot().Keys {
		if k.Staged {
			n++
		}
	}
	return n
}

func TestStoreAndRetrieve(t *testing.T) {
	e, m, _ := newEngine(t, clock.NewVirtual(0), 16, nil)
	w := newWorker(t, e, 2, 1, 2)
	for rank := range 2 {
		if n := w.store(w.key("a", 1, rank, 3), int64(1+rank)); n != 3 {
			t.Errorf("rank %d: %d chunks missing; want 3", rank, n)
		}
	}
	if n := w.store(w.key("a", 1, 0, 4), 1); n != 1 {
		t.Errorf("one more chunk: %d missing", n)
	}
	// A fourth chunk is on one rank only.
	if hits := w.lookup(w.key("b", 1, 0, 4)); hits != 3 {
		t.Errorf("%d hits; want 3", hits)
	}
	if hits, ok := e.PrefetchStatus("b"); hits != 0 || !ok {
		t.Errorf("asked twice: %d, %v", hits, ok)
	}
	if n := locks(m); n != 6 {
		t.Errorf("%d locks; want 3 chunks on 2 ranks", n)
	}
	for rank := range 2 {
		if !w.retrieve(w.key("b", 1, rank, 3), int64(1+rank)) {
			t.Errorf("rank %d: nothing to retrieve", rank)
		}
	}
	if w.retrieve(w.key("b", 1, 0, 3), 1) {
		t.Error("a retrieve more than there were readers")
	}
	if n := locks(m); n != 0 {
		t.Errorf("%d locks are left", n)
	}
	if err := e.EndSession("b"); err != nil {
		t.Error(err)
	}
	if r := e.Report(); r.Sessions != 1 || r.Jobs != 0 || len(r.Instances) != 2 {
		t.Errorf("report %+v", r)
	}
}

func TestFreeLookupLocks(t *testing.T) {
	e, m, _ := newEngine(t, clock.NewVirtual(0), 16, nil)
	w := newWorker(t, e, 1, 1)
	w.store(w.key("a", 1, 0, 4), 1)
	k := w.key("b", 1, 0, 6)
	if err := e.FreeLookupLocks(k); err != nil || locks(m) != 0 {
		t.Error("before a lookup:", err, locks(m))
	}
	look := *k
	look.Worker, look.Readers = wire.AllWorkers, 2
	if err := e.Lookup(&look); err != nil {
		t.Fatal(err)
	}
	// Nobody has asked for the answer yet; the range goes beyond what was found.
	free := look
	free.Start = 32
	if err := e.FreeLookupLocks(&free); err != nil || locks(m) != 4 {
		t.Error(err, locks(m))
	}
	if hits, ok := e.PrefetchStatus("b"); hits != 4 || !ok {
		t.Errorf("%d hits, %v; want 4", hits, ok)
	}
	if err := e.FreeLookupLocks(&free); err != nil || locks(m) != 4 {
		t.Error("a second time:", err, locks(m))
	}
	free.Start = 0
	if err := e.FreeLookupLocks(&free); err != nil || locks(m) != 0 {
		t.Error(err, locks(m))
	}
	free.End--
	if err := e.FreeLookupLocks(&free); !errors.Is(err, engine.ErrRange) {
		t.Error(err)
	}
}

// TestLeftovers ends clients between prepare and commit.
func TestLeftovers(t *testing.T) {
	clk := clock.NewVirtual(0)
	e, m, _ := newEngine(t, clk, 16, nil)
	half := func(id int64, prompt uint32) *worker {
		w := newWorker(t, e, 1, id)
		w.store(w.key("a", prompt, 0, 2), id)
		if hits := w.lookup(w.key("b", prompt, 0, 2)); hits != 2 {
			t.Fatal(hits)
		}
		if _, ok, err := e.PrepareRetrieve(w.key("b", prompt, 0, 2), id); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if p, err := e.PrepareStore(w.key("b", prompt, 0, 5), id); err != nil || len(p.Slots) != 3 || !slices.Equal(p.Chunks, []int{2, 3, 4}) {
			t.Fatal(p, err)
		}
		return w
	}
	clean := func(when string) {
		t.Helper()
		if locks(m) != 0 || staged(m) != 0 {
			t.Errorf("%s: %d locks and %d reservations are left", when, locks(m), staged(m))
		}
	}

	w := half(1, 1)
	if r := e.Report().Instances[0]; r.Stores != 1 || r.Reads != 1 {
		t.Errorf("%+v", r)
	}
	if err := e.Unregister(1); err != nil {
		t.Fatal(err)
	}
	clean("unregistered")
	if _, err := e.CommitStore(w.key("b", 1, 0, 5), 1, nil); !errors.Is(err, engine.ErrUnregistered) {
		t.Error(err)
	}
	if err := e.Unregister(1); err != nil {
		t.Error("a second time:", err)
	}

	half(2, 2)
	e.Ping(2, true)
	clk.SleepUntil(t.Context(), clk.Now()+int64(100*time.Second))
	if len(e.Report().Instances) != 1 {
		t.Error("reaped too early")
	}
	clk.SleepUntil(t.Context(), clk.Now()+int64(60*time.Second))
	if len(e.Report().Instances) != 0 {
		t.Error("not reaped")
	}
	clean("reaped")

	// One that has never pinged has an hour.
	newWorker(t, e, 1, 3)
	clk.SleepUntil(t.Context(), clk.Now()+int64(3500*time.Second))
	if len(e.Report().Instances) != 1 {
		t.Error("reaped before its first ping")
	}
	clk.SleepUntil(t.Context(), clk.Now()+int64(200*time.Second))
	if len(e.Report().Instances) != 0 {
		t.Error("never reaped")
	}
	if hits := newWorker(t, e, 1).lookup(w.key("c", 1, 0, 2)); hits != 0 {
		t.Errorf("%d hits in a model that nobody serves", hits)
	}
}

// TestLapsedReservation commits what another has reserved meanwhile.
func TestLapsedReservation(t *testing.T) {
	clk := clock.NewVirtual(0)
	e, m, _ := newEngine(t, clk, 16, nil)
	w := newWorker(t, e, 1, 1, 2)
	k := w.key("a", 1, 0, 2)
	if _, err := e.PrepareStore(k, 1); err != nil {
		t.Fatal(err)
	}
	clk.SleepUntil(t.Context(), int64(601*time.Second))
	if p, err := e.PrepareStore(k, 2); err != nil || len(p.Slots) != 2 {
		t.Fatal(p, err)
	}
	if ok, err := e.CommitStore(k, 1, nil); ok || err != nil {
		t.Error("late commit:", ok, err)
	}
	if hits := w.lookup(w.key("b", 1, 0, 2)); hits != 0 {
		t.Errorf("%d chunks are visible that nobody has committed", hits)
	}
	if err := e.Unregister(1); err != nil || staged(m) != 2 {
		t.Error("the other's reservation is gone:", err, staged(m))
	}
	if ok, err := e.CommitStore(k, 2, nil); !ok || err != nil {
		t.Error(ok, err)
	}
}

// TestDataInMessages is a client that could not open the pool.
func TestDataInMessages(t *testing.T) {
	e, m, _ := newEngine(t, clock.NewVirtual(0), 16, nil)
	w := newWorker(t, e, 1, 1)
	k := w.key("a", 1, 0, 2)
	if _, err := e.PrepareStore(k, 1); err != nil {
		t.Fatal(err)
	}
	if ok, err := e.CommitStore(k, 1, []byte("\x80\x04.")); ok || err != nil {
		t.Error(ok, err)
	}
	if staged(m) != 0 || w.lookup(w.key("b", 1, 0, 2)) != 0 {
		t.Error("it stored something")
	}
}

func TestWrongKeys(t *testing.T) {
	e, _, _ := newEngine(t, clock.NewVirtual(0), 16, nil)
	w := newWorker(t, e, 1, 1)
	for name, c := range map[string]struct {
		change func(k *wire.Key)
		want   error
	}{
		"world size 0":   {func(k *wire.Key) { k.WorldSize = 0 }, engine.ErrKey},
		"world size 256": {func(k *wire.Key) { k.WorldSize = 256 }, engine.ErrKey},
		"worker 1 of 1":  {func(k *wire.Key) { k.Worker = 1 }, engine.ErrKey},
		"no worker":      {func(k *wire.Key) { k.Worker = wire.AllWorkers }, engine.ErrKey},
		"unaligned":      {func(k *wire.Key) { k.Start = 1 }, engine.ErrRange},
		"negative":       {func(k *wire.Key) { k.Start = -16 }, engine.ErrRange},
		"backwards":      {func(k *wire.Key) { k.Start, k.End = 32, 16 }, engine.ErrRange},
		"too long":       {func(k *wire.Key) { k.End += 16 }, engine.ErrRange},
		"huge":           {func(k *wire.Key) { k.End = 1 << 62 }, engine.ErrRange},
	} {
		t.Run(name, func(t *testing.T) {
			k := w.key("a", 1, 0, 2)
			c.change(k)
			if _, err := e.PrepareStore(k, 1); !errors.Is(err, c.want) {
				t.Errorf("prepare_store: %v; want %v", err, c.want)
			}
			if _, _, err := e.PrepareRetrieve(k, 1); !errors.Is(err, c.want) {
				t.Errorf("prepare_retrieve: %v; want %v", err, c.want)
			}
		})
	}
	if _, err := e.PrepareStore(w.key("a", 1, 0, 2), 9); !errors.Is(err, engine.ErrUnregistered) {
		t.Error(err)
	}
	for _, c := range []wire.Context{{DType: "bfloat17"}, {DType: "float16"}, {DType: "float16", Layers: 1, Hidden: -1, WorldSize: 1}} {
		c.Instance, c.Model = 5, "m"
		if _, err := e.Register(&c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// TestSessionsAreBounded leaves requests without an end.
func TestSessionsAreBounded(t *testing.T) {
	clk := clock.NewVirtual(0)
	e, _, _ := newEngine(t, clk, 16, nil)
	w := newWorker(t, e, 1, 1)
	for i := range 100 {
		w.store(w.key(fmt.Sprint("r", i), 7, 0, 1), 1)
	}
	if n := e.Report().Sessions; n != 100 {
		t.Errorf("%d sessions; want 100", n)
	}
	e.EndSession("r3")
	clk.SleepUntil(t.Context(), int64(700*time.Second))
	if n := e.Report().Sessions; n != 0 {
		t.Errorf("%d sessions after their time", n)
	}
}

func TestPrefetchByTokens(t *testing.T) {
	e, m, _ := newEngine(t, clock.NewVirtual(0), 16, nil)
	k := newWorker(t, e, 1).key("a", 1, 0, 3)
	if _, _, err := e.Prefetch("m", 1, "", k.Tokens); !errors.Is(err, engine.ErrNoLayout) {
		t.Error(err)
	}
	w := newWorker(t, e, 1, 1)
	w.store(w.key("a", 1, 0, 2), 1)
	if id, n, err := e.Prefetch("m", 1, "", k.Tokens[:15]); id != "" || n != 0 || err != nil {
		t.Error("less than a chunk:", id, n, err)
	}
	id, n, err := e.Prefetch("m", 1, "", k.Tokens)
	if len(id) != 32 || n != 3 || err != nil {
		t.Fatal(id, n, err)
	}
	if found, total, done, known := e.PrefetchResult(id); found != 2 || total != 3 || !done || !known {
		t.Error(found, total, done, known)
	}
	if _, _, _, known := e.PrefetchResult(id); known {
		t.Error("answered twice")
	}
	if locks(m) != 0 {
		t.Error("it holds locks")
	}
}

// TestOperationCounts records what LMCache's benchmark does with an empty server,
// and counts the calls: reference server-protocol.md, section 9.3.
func TestOperationCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.lct")
	recorder, err := trace.Create(path, trace.Options{Level: trace.LevelStorage})
	if err != nil {
		t.Fatal(err)
	}
	e, _, _ := newEngine(t, clock.Real{}, 16, recorder)
	w := newWorker(t, e, 1, 1)
	const n = 3
	for i := range uint32(n) {
		for _, pass := range []string{"cold", "warm"} {
			k := w.key(fmt.Sprint(i, pass), i, 0, 2)
			hits := w.lookup(k)
			if hits > 0 {
				w.retrieve(k, 1)
			}
			if hits < 2 {
				w.store(k, 1)
			}
			e.EndSession(k.RequestID)
		}
	}
	if err := recorder.Close(); err != nil {
		t.Fatal(err)
	}
	sum, err := trace.SummarizeNative(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, op := range sum.Ops {
		name := op.Qualname[strings.Index(op.Qualname, "StorageManager.")+len("StorageManager."):]
		got[name] = op.Count
	}
	want := map[string]int64{
		"submit_prefetch_task": 2 * n, "reserve_write": n, "finish_write": n,
		"read_prefetched_results.__enter__": n, "read_prefetched_results.__exit__": n, "finish_read_prefetched": n,
		"touch_l1_keys": 2 * n, // which LMCache does not record
	}
	if !maps.Equal(got, want) {
		t.Errorf("recorded %v; want %v", got, want)
	}
}

// TestConcurrentClients has many clients do everything at once, over few prompts.
func TestConcurrentClients(t *testing.T) {
	e, m, _ := newEngine(t, clock.Real{}, 16, nil)
	var all sync.WaitGroup
	for c := range 16 {
		all.Go(func() {
			id := int64(c % 12) // some share an instance
			w := newWorker(t, e, 1, id)
			for i := range 60 {
				k := w.key(fmt.Sprint(c, "-", i), uint32(i%7), 0, 1+(c+i)%5)
				look := *k
				look.Worker = wire.AllWorkers
				if err := e.Lookup(&look); err != nil {
					t.Error(err)
				}
				hits, _ := e.WaitPrefetchStatus(t.Context(), k.RequestID, time.Second)
				get := *k
				get.End = hits * 16
				if i%3 == 0 {
					_ = e.FreeLookupLocks(&get)
				} else if hits > 0 {
					_, ok, err := e.PrepareRetrieve(&get, id)
					if err == nil && !ok {
						t.Errorf("client %d: what was locked cannot be read", c)
					}
					_, _ = e.CommitRetrieve(&get, id)
				}
				if _, err := e.PrepareStore(k, id); err == nil {
					_, _ = e.CommitStore(k, id, nil)
				}
				_ = e.EndSession(k.RequestID)
				e.Report()
			}
		})
	}
	all.Wait()
	for id := range int64(12) {
		e.Unregister(id)
	}
	if locks(m) != 0 || staged(m) != 0 {
		t.Errorf("%d locks and %d reservations are left", locks(m), staged(m))
	}
}
