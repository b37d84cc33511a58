package sm

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
// store's keys from the tasks' results, and from what the adapter finds at the
// start; where a result leaves a doubt it looks the keys up. The adapter leaves
// those that a lookup has locked.
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
	evicted evictedTotals

	mu     sync.Mutex // guards all below; no adapter is called under it
	index  kv.Index
	policy evict.Policy // nil: nothing is evicted, and nothing is tracked; set by init, its state is guarded
	held   kv.Slab[holding]
	salts  []int64 // bytes by kv.Salt
	doubts []doubt
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

// found returns what is told of the store's keys at the start, nil if nobody
// needs it.
func (e *l2Eviction) found() func(keys []kv.ObjectKey, sizes []int64) {
	if e.policy == nil {
		return nil
	}
	return func(keys []kv.ObjectKey, sizes []int64) {
		keys, sizes = slices.Clone(keys), slices.Clone(sizes)
		slices.Reverse(keys) // a policy takes the last of a list for the oldest
		slices.Reverse(sizes)
		e.stored(keys, sizes)
	}
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
	gone, bytes := e.settle()
	victims := e.victims()
	for rest := victims; len(rest) > 0 && !e.stopped.Load(); {
		batch := rest[:min(len(rest), l2DeleteBatch)]
		rest = rest[len(batch):]
		switch n := e.adapter.Delete(batch); {
		case n == len(batch):
			gone += int64(n)
			bytes += e.deleted(batch)
			e.tell(batch)
		case n == 0: // locked all of them, or the store is down: others come first next time
			e.accessed(batch)
		default:
			e.ask(batch, nil)
		}
	}
	e.evicted.add(gone, bytes)
	e.m.count(func(s *Stats) {
		if victims != nil {
			s.L2EvictionPasses++
		}
		s.L2EvictedKeys += gone
		s.L2EvictedBytes += bytes
	})
	return gone
}

// doubt is a lookup that tells which of some keys are in the store, after a task
// that did not say.
type doubt struct {
	id    l2.TaskID
	keys  []kv.ObjectKey
	sizes []int64 // what each takes if it is there; nil if they are known
}

// ask looks up keys of which the store may have some.
func (e *l2Eviction) ask(keys []kv.ObjectKey, sizes []int64) {
	d := doubt{e.adapter.SubmitLookup(keys), keys, sizes}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubts = append(e.doubts, d)
}

// settle takes the results of lookups that ask made, and returns what a cycle
// before had deleted.
func (e *l2Eviction) settle() (gone, bytes int64) {
	e.mu.Lock()
	doubts := e.doubts
	e.doubts = nil
	e.mu.Unlock()
	var open []doubt
	for _, d := range doubts {
		found, ok := e.adapter.QueryLookup(d.id)
		if !ok {
			open = append(open, d)
			continue
		}
		var there, notThere []kv.ObjectKey
		var sizes []int64
		for i, k := range d.keys {
			switch {
			case !found.Test(i):
				notThere = append(notThere, k)
			case d.sizes != nil:
				sizes = append(sizes, d.sizes[i])
				fallthrough
			default:
				there = append(there, k)
			}
		}
		e.adapter.Unlock(there)
		if d.sizes != nil {
			e.stored(there, sizes)
			continue
		}
		e.accessed(there)
		gone += int64(len(notThere))
		bytes += e.deleted(notThere)
		e.tell(notThere)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubts = append(open, e.doubts...)
	return gone, bytes
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

// storeDone takes the result of a store task. A store that failed, or wrote less
// than was new to it, may have left things out, or had them already.
func (e *l2Eviction) storeDone(keys []kv.ObjectKey, sizes []int64, res l2.StoreResult) {
	var newKeys []kv.ObjectKey
	var newSizes []int64
	e.mu.Lock()
	for i := range keys {
		if e.known(&keys[i]) == 0 {
			newKeys, newSizes = append(newKeys, keys[i]), append(newSizes, sizes[i])
		}
	}
	e.mu.Unlock()
	switch {
	case res.Err == nil && res.Keys >= len(newKeys):
		e.stored(keys, sizes)
	case len(newKeys) > 0:
		e.ask(newKeys, newSizes)
	}
}

// chained passes on which keys extend which, before the store has them.
func (e *l2Eviction) chained(keys []kv.ObjectKey) {
	p, ok := e.policy.(evict.Chainer)
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p.Chained(keys)
}

// loadDone takes the result of a load task: what was read is there, whoever put
// it there.
func (e *l2Eviction) loadDone(keys []kv.ObjectKey, sizes []int64, loaded kv.Bitmap) {
	var read, newKeys []kv.ObjectKey
	var newSizes []int64
	e.mu.Lock()
	for i := range keys {
		switch {
		case !loaded.Test(i):
		case e.known(&keys[i]) == 0:
			newKeys, newSizes = append(newKeys, keys[i]), append(newSizes, sizes[i])
		default:
			read = append(read, keys[i])
		}
	}
	e.mu.Unlock()
	e.accessed(read)
	e.stored(newKeys, newSizes)
}

// known returns the slot of a key that the store has, 0 of another. The caller
// holds mu.
func (e *l2Eviction) known(k *kv.ObjectKey) uint32 {
	if s := e.index.Find(k); s != 0 && e.held.At(s).held {
		return s
	}
	return 0
}

// stored makes the keys known, and the most recent.
func (e *l2Eviction) stored(keys []kv.ObjectKey, sizes []int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, len(keys))
	for i := range keys {
		s := e.known(&keys[i])
		if s == 0 {
			s = e.index.Acquire(&keys[i])
			*e.held.At(s) = holding{held: true}
		}
		h := e.held.At(s)
		e.account(&keys[i], sizes[i]-h.size)
		h.size = sizes[i]
		slots[i] = s
	}
	e.policy.Created(slots)
	if c, ok := e.policy.(evict.Chainer); ok {
		c.Chained(keys)
	}
}

// accessed makes the keys the most recent.
func (e *l2Eviction) accessed(keys []kv.ObjectKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, 0, len(keys))
	for i := range keys {
		if s := e.known(&keys[i]); s != 0 {
			slots = append(slots, s)
		}
	}
	e.policy.Touched(slots)
}

// deleted forgets the keys and returns the bytes that they took.
func (e *l2Eviction) deleted(keys []kv.ObjectKey) (bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slots := make([]uint32, 0, len(keys))
	for i := range keys {
		if s := e.known(&keys[i]); s != 0 {
			bytes += e.held.At(s).size
			e.account(&keys[i], -e.held.At(s).size)
			*e.held.At(s) = holding{}
			slots = append(slots, s)
		}
	}
	e.policy.Removed(slots)
	for _, s := range slots {
		e.index.Release(s)
	}
	return bytes
}

// tell publishes that eviction removed keys from the store.
func (e *l2Eviction) tell(keys []kv.ObjectKey) {
	e.m.publishL2(event.L2KeysDeleted, e.adapter, keys, nil)
	e.m.publishL2(event.L2KeysEvicted, e.adapter, keys, nil)
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
