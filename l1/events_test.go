package l1_test

import (
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

// counting is a subscriber that counts keys and bytes by type.
type counting struct {
	keys  map[event.Type]int
	bytes map[event.Type]int64
}

func (c *counting) Name() string      { return "counting" }
func (c *counting) Events() event.Set { return ^event.Set(0) }
func (c *counting) Handle(e *event.Event) error {
	c.keys[e.Type] += len(e.Keys)
	for _, n := range e.Sizes {
		c.bytes[e.Type] += n
	}
	return nil
}

// TestPublishingAllocatesNothing: what a call allocates is the same with a bus and
// without, once the lists of events have grown.
func TestPublishingAllocatesNothing(t *testing.T) {
	list := make([]kv.ObjectKey, 16)
	copy(list, keys(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
	c := &counting{map[event.Type]int{}, map[event.Type]int64{}}
	cycle := func(bus *event.Bus) float64 {
		m, err := l1.New(l1.Options{SizeBytes: 64 * objectBytes, AlignBytes: 4096, WriteTTL: time.Minute, ReadTTL: time.Minute,
			Policy: "LRU", Memory: new(l1.Scratch), Clock: clock.NewVirtual(0), Bus: bus})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		layout := newTier(t, 1).layout
		results, codes := make([]l1.WriteResult, 0, 16), make([]l1.Code, 0, 16)
		once := func() {
			results, err = m.Reserve(results[:0], list, layout, kv.ModeNew, l1.Writer, false)
			if err != nil {
				t.Fatal(err)
			}
			codes, _, _ = m.Finish(codes[:0], nil, list, l1.Writer, 0)
			m.LockResident(list, 1)
			codes, _ = m.Unlock(codes[:0], list, 1)
			m.Touch(list)
			codes, _ = m.Delete(codes[:0], list, false)
			bus.Flush()
		}
		for range 200 {
			once()
		}
		return testing.AllocsPerRun(200, once)
	}
	bus := event.New(event.Options{Clock: clock.NewVirtual(0), QueueSize: 64, Lossless: true})
	defer bus.Close()
	bus.Subscribe(c)
	without, with := cycle(nil), cycle(bus)
	if with > without+1 && !raceflag.Enabled { // a pool may lose a list to the collector
		t.Errorf("%v allocations with a bus, %v without", with, without)
	}
	for _, e := range []event.Type{event.L1WriteReserved, event.L1WriteFinished, event.L1ReadReserved, event.L1ReadFinished, event.L1KeysEvicted, event.L1KeysAccessed} {
		if n := c.keys[e]; n != 401*16 {
			t.Errorf("%v told of %d keys, want %d", e, n, 401*16)
		}
	}
	for _, e := range []event.Type{event.L1WriteFinished, event.L1KeysEvicted} {
		if n := c.bytes[e]; n != 401*16*objectBytes {
			t.Errorf("%v told of %d bytes, want %d", e, n, 401*16*objectBytes)
		}
	}
}
