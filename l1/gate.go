package l1

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// gate is the lock of a tier. Held shared, it lets several callers look up keys
// and lock or unlock objects in place; held alone, one caller changes what is
// there. It also counts who waits, so that work in many small holds can let
// others go first: sync's locks favour the goroutine that runs, which takes them
// again before one that waits has woken up, for up to a millisecond.
//
// Holds are of microseconds, and to put a goroutine to sleep and wake it takes as
// long; so one that waits first tries for the length of a few holds.
type gate struct {
	mu      sync.RWMutex
	waiting atomic.Int32
}

// tries is how often a waiting goroutine looks before it sleeps, and pause how
// many loads it makes in between: some 10 µs in all.
const (
	tries = 300
	pause = 32
)

func (g *gate) lock() {
	if g.mu.TryLock() {
		return
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	for range g.attempts() {
		if g.pause(); g.mu.TryLock() {
			return
		}
	}
	g.mu.Lock()
}

func (g *gate) unlock() { g.mu.Unlock() }

func (g *gate) rlock() {
	if g.mu.TryRLock() {
		return
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	for range g.attempts() {
		if g.pause(); g.mu.TryRLock() {
			return
		}
	}
	g.mu.RLock()
}

// attempts returns tries, or 0 where nobody else can run meanwhile.
func (g *gate) attempts() int {
	if runtime.GOMAXPROCS(0) == 1 {
		return 0
	}
	return tries
}

// pause keeps away from the lock's cache line for some 30 ns, which whoever holds
// it needs to give it back.
func (g *gate) pause() {
	for range pause {
		g.waiting.Load()
	}
}

func (g *gate) runlock() { g.mu.RUnlock() }

// maxYields bounds yield where callers never stop coming: the work must get on
// too, they may be waiting for what it frees.
const maxYields = 1000

// yield returns when nobody waits for the gate any more. The caller must not
// hold it. Where nobody waits it is one atomic load.
func (g *gate) yield() {
	for i := 0; i < maxYields && g.waiting.Load() > 0; i++ {
		runtime.Gosched()
	}
}

// stripes are locks for the read locks of objects while the gate is held shared:
// one for many slots, each on a cache line of its own.
type stripes [64]struct {
	sync.Mutex
	_ [56]byte
}

func (s *stripes) of(slot uint32) *sync.Mutex { return &s[slot%uint32(len(s))].Mutex }
