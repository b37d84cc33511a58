package engine_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// listener writes down what it hears.
type listener []string

func (l *listener) Name() string { return "listener" }
func (l *listener) Events() event.Set {
	return event.SetOf(event.RequestStart, event.RequestEnd, event.LookupStart, event.LookupEnd)
}

func (l *listener) Handle(e *event.Event) error {
	text := fmt.Sprint(e.Type, " ", e.Session)
	if s := e.Served; s != nil {
		text += fmt.Sprintf(" %s/%s asked %d hit %d (%d+%d) %q", s.Model, s.Salt, s.RequestedTokens, s.HitTokens, s.L1HitTokens, s.L2HitTokens, s.EarlyExit)
	}
	if e.Type == event.LookupEnd {
		text += fmt.Sprintf(" %d chunks, %d+%d keys", e.Count, e.L1Hits, e.L2Hits)
	}
	*l = append(*l, text)
	return nil
}

// What a request is told to be, from its first message to its end: the spans and
// counters of a server are made of it.
func TestEvents(t *testing.T) {
	clk := clock.NewVirtual(0)
	bus := event.New(event.Options{Clock: clk, QueueSize: 100, Lossless: true})
	heard := &listener{}
	bus.Subscribe(heard)
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 1<<20, "LRU"
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory, Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	// The pool is nobody's memory: nothing is written through it here.
	e, err := engine.New(engine.Config{Storage: m, Clock: clk, ChunkSize: 4, Pool: wire.Pool{Name: "p", Size: cfg.L1.SizeBytes}, Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	key := func(id string) *wire.Key {
		return &wire.Key{Model: "m", Salt: "s", WorldSize: 2, Worker: wire.AllWorkers, Tokens: []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9}, End: 9, RequestID: id, Readers: 1}
	}
	lookup := func(k *wire.Key, want int) {
		t.Helper()
		if err := e.Lookup(k); err != nil {
			t.Fatal(err)
		}
		if hits, ok := e.PrefetchStatus(k.RequestID); !ok || hits != want {
			t.Errorf("%s: %d hits, %v; want %d", k.RequestID, hits, ok, want)
		}
	}
	lookup(key("unknown"), 0)
	for rank := range 2 {
		c := &wire.Context{Instance: int64(rank), Model: "m", WorldSize: 2, BlockSize: 4, Layers: 1, Hidden: 8, DType: "float16"}
		if _, err := e.Register(c); err != nil {
			t.Fatal(err)
		}
		k := key("store")
		k.Worker, k.End = rank, 4
		p, err := e.PrepareStore(k, c.Instance)
		if err != nil || len(p.Slots) != 1 {
			t.Fatalf("prepare: %v, %v", p, err)
		}
		if done, err := e.CommitStore(k, c.Instance, nil); err != nil || !done {
			t.Fatalf("commit: %v, %v", done, err)
		}
	}
	lookup(key("half"), 1)
	short := key("short")
	short.End = 3
	lookup(short, 0)
	for _, id := range []string{"half", "half", "never"} {
		if err := e.EndSession(id); err != nil {
			t.Fatal(err)
		}
	}
	e.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"mp.request.start unknown",
		`mp.lookup_prefetch.start unknown m/s asked 8 hit 0 (0+0) ""`,
		`mp.lookup_prefetch.end unknown m/s asked 8 hit 0 (0+0) "no_gpu_context" 0 chunks, 0+0 keys`,
		"mp.request.start store",
		"mp.request.start half",
		`mp.lookup_prefetch.start half m/s asked 8 hit 0 (0+0) ""`,
		`mp.lookup_prefetch.end half m/s asked 8 hit 4 (4+0) "" 1 chunks, 2+0 keys`,
		"mp.request.start short",
		`mp.lookup_prefetch.start short m/s asked 0 hit 0 (0+0) ""`,
		`mp.lookup_prefetch.end short m/s asked 0 hit 0 (0+0) "empty_chunk_hashes" 0 chunks, 0+0 keys`,
		"mp.request.end half",
	}
	if !slices.Equal(*heard, want) {
		t.Errorf("heard:\n%q\nwant:\n%q", *heard, want)
	}
}
