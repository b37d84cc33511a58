package sm

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
)

// storeController copies what was written to the stores below. FinishWrite
// queues keys; a step takes all of them, pins them against eviction and
// submits one task a store and (model, rank).
//
// Source: reference storage-manager.md, sections 6 and 14.5.
type storeController struct {
	m    *Manager // immutable, as the next two
	tier *tier    // copies what is written there to its stores
	task clock.Task

	mu       sync.Mutex
	pending  []kv.ObjectKey // guarded by mu, as the next
	stepping bool           // what was pending is being submitted

	inFlight map[storeID]*storeTask // owned by the step, as all below
	views    []l1.Object
}

type storeID struct {
	adapter *adapter
	id      l2.TaskID
}

type storeTask struct {
	held  []int       // indices in group.keys; each key is pinned until the task is done
	pins  []l1.Object // of held
	group *storeGroup

	pinnedNS int64 // when held was pinned
	bytes    int64
	sizes    []int64 // of held, if somebody wants to hear of them
}

// storeGroup is what one step submitted of one model and rank to all stores.
type storeGroup struct {
	keys    []kv.ObjectKey
	running int       // tasks that have not completed
	stored  kv.Bitmap // of keys: in at least one store
}

// keys returns the keys of the task.
func (t *storeTask) keys() []kv.ObjectKey {
	keys := make([]kv.ObjectKey, len(t.held))
	for i, k := range t.held {
		keys[i] = t.group.keys[k]
	}
	return keys
}

func (c *storeController) start() {
	c.inFlight = map[storeID]*storeTask{}
	c.task = c.m.clock.Go(clock.Never, c.step)
}

// queue takes over keys that became resident. It never waits.
func (c *storeController) queue(keys []kv.ObjectKey) {
	if len(keys) == 0 || c.tier.stores.Load() == 0 {
		return
	}
	c.mu.Lock()
	c.pending = append(c.pending, keys...)
	c.mu.Unlock()
	c.task.Wake()
}

func (c *storeController) step(int64) (next int64) {
	c.mu.Lock()
	keys := c.pending
	c.pending, c.stepping = nil, true
	c.mu.Unlock()
	for _, group := range groupByRank(keys) {
		c.submit(group)
	}
	c.mu.Lock()
	c.stepping = false
	c.mu.Unlock()
	for _, a := range c.m.stores.of(c.tier) {
		for _, res := range a.PopStores() {
			id := storeID{a, res.ID}
			if t := c.inFlight[id]; t != nil {
				delete(c.inFlight, id)
				a.stores.Add(-1)
				c.complete(a, t, res)
				a.release()
			}
		}
	}
	return clock.Never
}

// queued reports whether keys wait to be submitted.
func (c *storeController) queued() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending) > 0 || c.stepping
}

// pendingKeys is how many keys wait to be submitted.
func (c *storeController) pendingKeys() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.pending))
}

// groupByRank splits keys by model and rank, in order of first appearance.
// Salts do not split: upstream's batches are per model and rank.
func groupByRank(keys []kv.ObjectKey) [][]kv.ObjectKey {
	type group struct {
		model string
		rank  uint64
	}
	var out [][]kv.ObjectKey
	index := map[group]int{}
	for _, k := range keys {
		g := group{k.Scope.Model(), k.Rank}
		i, ok := index[g]
		if !ok {
			i = len(out)
			index[g] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], k)
	}
	return out
}

func (c *storeController) submit(keys []kv.ObjectKey) {
	g := &storeGroup{keys: keys, stored: kv.NewBitmap(len(keys))}
	for _, a := range c.m.stores.of(c.tier) {
		if !a.acquire() {
			continue
		}
		t := &storeTask{group: g, pinnedNS: c.m.clock.Now()}
		var locked kv.Bitmap
		c.views, locked = c.tier.l1.Pin(c.views[:0], keys)
		for k := range keys {
			if locked.Test(k) { // else it was evicted before its turn
				t.held = append(t.held, k)
			}
		}
		c.m.publishOf(&event.Event{Type: event.L1ReadFailed, During: "l2_store", Reason: "not_found"}, keys, func(k int) bool { return !locked.Test(k) })
		if len(t.held) == 0 {
			a.release()
			continue
		}
		held := t.keys()
		t.pins = slices.Clone(c.views)
		g.running++
		for _, v := range c.views {
			t.bytes += int64(len(v.Bytes))
		}
		if c.m.bus.Wants(event.L2KeysStored) {
			for _, v := range c.views {
				t.sizes = append(t.sizes, int64(len(v.Bytes)))
			}
		}
		a.stores.Add(1)
		id := a.SubmitStore(objects(held, c.views))
		c.inFlight[storeID{a, id}] = t
		c.publishStore(event.Event{Type: event.L2StoreSubmitted, Bytes: t.bytes}, a, t, uint64(id))
	}
}

func objects(keys []kv.ObjectKey, views []l1.Object) []l2.Object {
	out := make([]l2.Object, len(keys))
	for i := range keys {
		out[i] = l2.Object{Key: keys[i], Bytes: views[i].Bytes}
	}
	return out
}

// unpin ends a task's hold of its keys. A temporary object may go with it.
func (c *storeController) unpin(t *storeTask) {
	c.m.countFreed(c.tier.l1.Unpin(t.keys(), t.pins, t.pinnedNS))
}

func (c *storeController) complete(a *adapter, t *storeTask, res l2.StoreResult) {
	g := t.group
	c.unpin(t)
	e := event.Event{Type: event.L2StoreCompleted, Count: len(t.held), Bytes: res.Bytes}
	if res.Err != nil {
		e.Count, e.Lost = 0, len(t.held)
	}
	if res.Err == nil && c.m.bus.Wants(event.L2KeysStored) {
		c.m.publishL2(event.L2KeysStored, a, t.keys(), t.sizes)
	}
	c.publishStore(e, a, t, uint64(res.ID))
	if res.Err != nil {
		if !errors.Is(res.Err, l2.ErrReported) {
			a.failures.warn(c.m, a.Name(), len(t.held), res.Err)
		}
	} else {
		for _, k := range t.held {
			g.stored.Set(k)
		}
		c.m.count(func(s *Stats) {
			s.L2StoredKeys += int64(res.Keys)
			s.L2StoredBytes += res.Bytes
		})
	}
	// skip_l1 deletes when the last store is done: before, the others' read
	// locks would refuse it, and the object would stay if the last one failed.
	if g.running--; g.running == 0 && c.m.cfg.StorePolicy == StoreSkipL1 {
		var stored []kv.ObjectKey
		for k := range g.keys {
			if g.stored.Test(k) {
				stored = append(stored, g.keys[k])
			}
		}
		c.tier.l1.Delete(nil, stored, false)
	}
}

// failureLog keeps a store that fails task after task, or cannot keep up, from
// flooding the log. Only the store controller's step uses it.
type failureLog struct {
	until       int64 // no line before
	tasks, keys int   // without a line
}

// failureInterval is the time between two lines.
const failureInterval = 10 * time.Second

func (l *failureLog) warn(m *Manager, name string, keys int, err error) {
	now := m.clock.Now()
	if now < l.until {
		l.tasks++
		l.keys += keys
		return
	}
	attrs := []any{"adapter", name, "keys", keys, "error", err}
	if l.tasks > 0 {
		attrs = append(attrs, "tasks_before", l.tasks, "keys_before", l.keys)
	}
	m.log.Warn("L2 store task failed", attrs...)
	*l = failureLog{until: now + int64(failureInterval)}
}

// abandon releases what tasks have pinned whose result was not taken. The steps
// and the adapters have ended: nothing reads that memory any more.
func (c *storeController) abandon() {
	for id, t := range c.inFlight {
		c.m.log.Warn(fmt.Sprintf("Cleaning up in-flight store task %d (adapter %d, %d keys).", id.id, id.adapter.id, len(t.held)))
		delete(c.inFlight, id)
		id.adapter.stores.Add(-1)
		c.unpin(t)
	}
}
