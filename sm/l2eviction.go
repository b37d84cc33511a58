package sm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// l2Eviction keeps one store below its watermark: once an interval, if the used
// share is at the watermark or above it, one pass of the policy. Under a policy
// that goes by salt it keeps every salt below the watermark of its quota, also
// in a store without a capacity; a salt without one goes as a whole. It knows the
// store's keys from what the adapter tells it; the adapter leaves those that a
// lookup has locked.
//
// Every store has a task of its own: one that takes its time to delete, or
// hangs, does not keep the others full.
//
// Source: reference storage-manager.md, sections 5.9 and 5.10.
type l2Eviction struct {
	m       *Manager
	adapter *adapter
	cfg     EvictionConfig
	task    clock.Task // nil with manual eviction, or without an eviction block
	due     int64      // owned by the step
	stopped atomic.Bool

	mu     sync.Mutex // guards all below; adapters take it under their own locks
	index  kv.Index
	policy evict.Policy // nil: nothing is evicted, and nothing is tracked
	held   kv.Slab[holding]
	salts  []int64 // bytes by kv.Salt
}

// holding is what the store has of a key; a key that is held has a reference.
type holding struct {
	size int64
	held bool
}

// init prepares for the eviction block of a's configuration.
func (e *l2Eviction) init(m *Manager, a *adapter) error {
	e.m, e.adapter = m, a
	if a.cfg.Eviction == nil || a.cfg.Eviction.Policy == "noop" {
		return nil
	}
	e.cfg = *a.cfg.Eviction
	var err error
	e.policy, err = evict.New(e.cfg.Policy, &e.index)
	return err
}

// listener returns what the adapter tells of its keys, nil if nobody needs it.
func (e *l2Eviction) listener() l2.Listener {
	switch {
	case e.m.bus != nil:
		return told{e}
	case e.policy != nil:
		return e
	}
	return nil
}

func (e *l2Eviction) start() {
	if e.policy == nil {
		return
	}
	if _, byQuota := e.policy.(evict.Partitioned); !byQuota && e.adapter.Usage().CapacityBytes <= 0 {
		e.m.log.Warn(fmt.Sprintf("L2 adapter %s: no capacity is configured, so eviction policy %s evicts nothing", e.adapter.Name(), e.cfg.Policy))
	}
	e.due = e.m.clock.Now() + int64(evictionInterval)
	e.task = e.m.clock.Go(e.due, e.step)
}

func (e *l2Eviction) stop() {
	e.stopped.Store(true)
	if e.task != nil {
		e.task.Stop()
	}
}

func (e *l2Eviction) step(now int64) (next int64) {
	if now >= e.due {
		e.cycle()
		e.due = e.m.clock.Now() + int64(evictionInterval)
	}
	return e.due
}

// l2DeleteBatch is how many keys one call of Delete gets: a store that deletes
// slowly is left at the next batch when the manager closes.
const l2DeleteBatch = 1024

// cycle runs one cycle and returns how many keys went.
func (e *l2Eviction) cycle() (gone int64) {
	if e.policy == nil {
		return 0
	}
	defer e.m.survive("L2 eviction from " + e.adapter.Name())
	victims := e.victims()
	if victims == nil {
		return 0
	}
	var bytes int64
	for len(victims) > 0 && !e.stopped.Load() {
		batch := victims[:min(len(victims), l2DeleteBatch)]
		victims = victims[len(batch):]
		sizes := e.sizes(batch)
		e.adapter.Delete(batch)
		for i, left := range e.sizes(batch) {
			if left < 0 && sizes[i] >= 0 {
				gone++
				bytes += sizes[i]
				sizes[i] = -2 // went
			}
		}
		e.m.publishOf(&event.Event{Type: event.L2KeysEvicted, Adapter: e.adapter.index, L2Name: e.adapter.cfg.Type}, batch, func(i int) bool { return sizes[i] == -2 })
	}
	e.m.count(func(s *Stats) {
		s.L2EvictionPasses++
		s.L2EvictedKeys += gone
		s.L2EvictedBytes += bytes
	})
	return gone
}

// victims returns the keys that a cycle should delete, nil if the store is below
// its watermark.
func (e *l2Eviction) victims() []kv.ObjectKey {
	if p, ok := e.policy.(evict.Partitioned); ok {
		return e.victimsByQuota(p)
	}
	u := e.adapter.Usage()
	if u.CapacityBytes <= 0 {
		return nil
	}
	used := float64(u.UsedBytes) / float64(u.CapacityBytes)
	if used < e.cfg.Watermark {
		return nil
	}
	if e.m.log.Enabled(context.Background(), slog.LevelInfo) {
		e.m.log.Info(fmt.Sprintf("L2 adapter %s usage %.2f above watermark %.2f; triggering eviction.", e.adapter.Name(), used, e.cfg.Watermark))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keysOf(e.policy.Victims(nil, evict.Target(e.policy.Len(), e.cfg.Ratio), anySlot))
}

// victimsByQuota is victims for a policy that goes by salt.
func (e *l2Eviction) victimsByQuota(p evict.Partitioned) []kv.ObjectKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	var usage []evict.SaltUsage
	for salt, bytes := range e.salts {
		if bytes > 0 {
			usage = append(usage, evict.SaltUsage{Salt: kv.Salt(salt), Bytes: bytes})
		}
	}
	var slots []uint32
	for _, d := range e.m.quotas.DueBelow(usage, e.cfg.Watermark, e.cfg.Ratio) {
		slots = p.VictimsOf(slots, evict.Target(p.LenOf(d.Salts), d.Ratio), d.Salts, anySlot)
	}
	return e.keysOf(slots)
}

func anySlot(uint32) bool { return true }

// keysOf returns the keys of slots, nil if there are none.
func (e *l2Eviction) keysOf(slots []uint32) []kv.ObjectKey {
	if len(slots) == 0 {
		return nil
	}
	keys := make([]kv.ObjectKey, len(slots))
	for i, s := range slots {
		keys[i] = e.index.Key(s)
	}
	return keys
}

// sizes returns what the store holds of each key in bytes, -1 of one that it
// has not.
func (e *l2Eviction) sizes(keys []kv.ObjectKey) []int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	sizes := make([]int64, len(keys))
	for i := range keys {
		sizes[i] = -1
		if s := e.index.Find(&keys[i]); s != 0 && e.held.At(s).held {
			sizes[i] = e.held.At(s).size
		}
	}
	return sizes
}

// Stored makes the keys known, and the most recent.
func (e *l2Eviction) Stored(keys []kv.ObjectKey, sizes []int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, len(keys))
	for i := range keys {
		s := e.index.Acquire(&keys[i])
		h := e.held.At(s)
		if h.held {
			e.index.Release(s) // its reference is there already
		}
		e.account(&keys[i], sizes[i]-h.size)
		*h = holding{sizes[i], true}
		slots[i] = s
	}
	e.policy.Created(slots)
}

// Accessed makes the keys the most recent.
func (e *l2Eviction) Accessed(keys []kv.ObjectKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, 0, len(keys))
	for i := range keys {
		if s := e.index.Find(&keys[i]); s != 0 && e.held.At(s).held {
			slots = append(slots, s)
		}
	}
	e.policy.Touched(slots)
}

// Deleted forgets the keys.
func (e *l2Eviction) Deleted(keys []kv.ObjectKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, 0, len(keys))
	for i := range keys {
		if s := e.index.Find(&keys[i]); s != 0 && e.held.At(s).held {
			e.account(&keys[i], -e.held.At(s).size)
			*e.held.At(s) = holding{}
			slots = append(slots, s)
		}
	}
	e.policy.Removed(slots)
	for _, s := range slots {
		e.index.Release(s)
	}
}

// account adds to the bytes of a key's salt.
func (e *l2Eviction) account(k *kv.ObjectKey, bytes int64) {
	salt := int(k.Scope.SaltID())
	if salt >= len(e.salts) {
		e.salts = append(e.salts, make([]int64, salt+1-len(e.salts))...)
	}
	e.salts[salt] += bytes
}

// bytesBySalt adds the bytes that the store holds of every salt to sum.
func (e *l2Eviction) bytesBySalt(sum map[string]int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for salt, n := range e.salts {
		if n > 0 {
			sum[kv.Salt(salt).String()] += n
		}
	}
}
