package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/wire"
)

// instance is a registered worker.
type instance struct {
	context wire.Context
	layout  kv.Layout
	desc    kv.LayoutDesc
	dtype   string // without the prefix

	seen   int64 // its last sign of life
	pinged bool

	stores map[transfer]preparedStore
	reads  map[transfer]*preparedRead
}

// preparedStore is what was reserved for a store.
type preparedStore struct {
	keys  []kv.ObjectKey
	since int64
}

// preparedRead is a retrieve that was prepared, perhaps several times.
type preparedRead struct {
	keys  []kv.ObjectKey
	times int
}

// sharedLayout is what lookups of a deployment go by.
type sharedLayout struct {
	layout kv.Layout
	users  int // registrations
}

// layout returns what objects of a deployment look like.
func (e *Engine) layout(model string, world int) (l kv.Layout, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.layouts[deployment{model, world}]
	if s == nil {
		return 0, false
	}
	return s.layout, true
}

// describe returns the layout of a chunk's object.
func (e *Engine) describe(c *wire.Context) (kv.LayoutDesc, error) {
	dtype, ok := kv.ParseDType(c.DType)
	if !ok {
		return kv.LayoutDesc{}, fmt.Errorf("dtype_str %q: no such type", c.DType)
	}
	slots := c.PhysicalSlots
	if slots == 0 {
		slots = e.c.ChunkSize
	}
	shape := []int64{int64(c.Layers), int64(slots), int64(c.Hidden)}
	if !c.MLA {
		shape = append([]int64{2}, shape...)
	}
	return kv.LayoutDesc{Shapes: [][]int64{shape}, DTypes: []kv.DType{dtype}}, nil
}

// Register makes an instance known and returns the pool that it finds objects
// in. Registering again is a sign of life and nothing else, whatever it says.
func (e *Engine) Register(c *wire.Context) (wire.Pool, error) {
	if c.WorldSize < 1 || c.WorldSize > maxWorld {
		return wire.Pool{}, fmt.Errorf("%w: world_size %d", ErrKey, c.WorldSize)
	}
	desc, err := e.describe(c)
	if err != nil {
		return wire.Pool{}, err
	}
	layout, err := kv.InternLayout(desc)
	if err != nil {
		return wire.Pool{}, err
	}
	if layout.Bytes() == 0 {
		return wire.Pool{}, fmt.Errorf("a chunk of %v has no bytes", desc)
	}
	now := e.clock.Now()
	e.mu.Lock()
	in, again := e.instances[c.Instance]
	if again {
		in.seen = now
	} else {
		in = &instance{context: *c, layout: layout, desc: desc, dtype: strings.TrimPrefix(desc.DTypes[0].String(), "torch."), seen: now,
			stores: map[transfer]preparedStore{}, reads: map[transfer]*preparedRead{}}
		e.instances[c.Instance] = in
	}
	d := deployment{in.context.Model, in.context.WorldSize}
	shared := e.layouts[d]
	if shared == nil {
		shared = &sharedLayout{layout: layout}
		e.layouts[d] = shared
	}
	if !again {
		shared.users++
	}
	differs := shared.layout != layout
	e.mu.Unlock()
	if differs {
		e.log.Warn(fmt.Sprintf("instance %d registers %v for model %s, world size %d; lookups go on with %v", c.Instance, desc, d.model, d.world, shared.layout.Desc()))
	}
	if !again {
		e.log.Info(fmt.Sprintf("instance %d registered: model %s, world size %d, %v", c.Instance, d.model, d.world, desc))
	}
	return e.c.Pool, nil
}

// Unregister forgets an instance. What it has prepared and not committed is
// taken back: reservations go as if they had not been made, since nobody knows
// what was written; LMCache finishes them. Locks of reads are released.
func (e *Engine) Unregister(id int64) error {
	if e.remove(id) {
		e.log.Info(fmt.Sprintf("instance %d unregistered", id))
	}
	return nil
}

func (e *Engine) remove(id int64) bool {
	e.mu.Lock()
	in := e.instances[id]
	if in == nil {
		e.mu.Unlock()
		return false
	}
	delete(e.instances, id)
	d := deployment{in.context.Model, in.context.WorldSize}
	if shared := e.layouts[d]; shared != nil {
		if shared.users--; shared.users == 0 {
			delete(e.layouts, d)
		}
	}
	e.mu.Unlock() // what in holds is this goroutine's from here on: nobody finds it any more
	now := e.clock.Now()
	for _, s := range in.stores {
		if !e.lapsed(s, now) {
			e.storage.AbandonWrite(s.keys)
		}
	}
	for _, r := range in.reads {
		for range r.times {
			e.storage.FinishReadPrefetched(r.keys, 1)
		}
	}
	if n := len(in.stores) + len(in.reads); n > 0 {
		e.log.Warn(fmt.Sprintf("instance %d left %d stores and %d retrieves half done; they are taken back", id, len(in.stores), len(in.reads)))
	}
	return true
}

// Ping says that an instance lives. A scheduler has no instance: known is false.
func (e *Engine) Ping(id int64, known bool) {
	if !known {
		return
	}
	now := e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if in := e.instances[id]; in != nil {
		in.seen, in.pinged = now, true
	}
}

// with calls f for an instance, which has given a sign of life, under the lock.
func (e *Engine) with(id int64, f func(in *instance)) error {
	now := e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.instances[id]
	if in == nil {
		return fmt.Errorf("%w: %d", ErrUnregistered, id)
	}
	in.seen = now
	f(in)
	return nil
}

// scanEvery returns how often the reaper looks, in ns.
func (e *Engine) scanEvery() int64 {
	every := 60 * time.Second
	if e.c.ReapAfter > 0 {
		every = min(every, e.c.ReapAfter/4)
	}
	return int64(max(every, time.Millisecond))
}

// reap forgets instances and requests of which nobody has heard for too long.
func (e *Engine) reap(now int64) (next int64) {
	e.mu.Lock()
	e.sessions.expire(now)
	e.warmings.expire(now)
	var dead []int64
	if e.c.ReapAfter > 0 {
		for id, in := range e.instances {
			limit := e.c.ReapAfter
			if !in.pinged {
				limit = max(e.c.Grace, limit)
			}
			if now-in.seen > int64(limit) {
				dead = append(dead, id)
			}
		}
	}
	e.mu.Unlock()
	slices.Sort(dead)
	for _, id := range dead {
		if e.remove(id) {
			e.log.Warn(fmt.Sprintf("instance %d has been silent for too long; its registration is gone", id))
		}
	}
	return now + e.scanEvery()
}

// Report says how the engine is.
func (e *Engine) Report() Report {
	now := e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	r := Report{ChunkSize: e.c.ChunkSize, Algorithm: e.c.Algorithm, Sessions: e.sessions.len(), Jobs: e.warmings.len(), ReapAfter: max(e.c.ReapAfter, 0), Grace: e.c.Grace}
	for _, s := range e.sessions.entries {
		if s.value.waits() {
			r.Jobs++
		}
	}
	for _, in := range e.instances {
		r.Instances = append(r.Instances, InstanceReport{in.context, in.pinged, time.Duration(now - in.seen), len(in.stores), len(in.reads)})
	}
	slices.SortFunc(r.Instances, func(a, b InstanceReport) int {
		switch {
		case a.Context.Instance < b.Context.Instance:
			return -1
		case a.Context.Instance > b.Context.Instance:
			return 1
		}
		return 0
	})
	return r
}
