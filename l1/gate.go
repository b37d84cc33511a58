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
type gate struct {
	mu      sync.RWMutex
	waiting atomic.Int32
}

func (g *gate) lock() {
	if !g.mu.TryLock() {
		g.waiting.Add(1)
		g.mu.Lock()
		g.waiting.Add(-1)
	}
}

func (g *gate) unlock() { g.mu.Unlock() }

func (g *gate) rlock() {
	if !g.mu.TryRLock() {
		g.waiting.Add(1)
		g.mu.RLock()
		g.waiting.Add(-1)
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
