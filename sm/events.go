package sm

import (
	"sync"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

// What a tier does is published by package l1; here is what the manager and its
// controllers add, with no lock held.
//
// Source: reference observability.md, sections 2.2 to 2.7.

// keyList is a pair of lists that an event is put together in.
type keyList struct{ good, bad []kv.ObjectKey }

var keyLists = sync.Pool{New: func() any { return new(keyList) }}

// publishSplit publishes e with the keys that succeeded and those that did not.
func (m *Manager) publishSplit(e *event.Event, keys []kv.ObjectKey, good func(i int) bool) {
	l := keyLists.Get().(*keyList)
	l.good, l.bad = l.good[:0], l.bad[:0]
	for i := range keys {
		if good(i) {
			l.good = append(l.good, keys[i])
		} else {
			l.bad = append(l.bad, keys[i])
		}
	}
	e.Keys, e.Failed = l.good, l.bad
	m.bus.Publish(e)
	keyLists.Put(l)
}

// publishOf publishes e with those of keys for which is reports true, if there
// are any.
func (m *Manager) publishOf(e *event.Event, keys []kv.ObjectKey, is func(i int) bool) {
	if !m.bus.Wants(e.Type) {
		return
	}
	l := keyLists.Get().(*keyList)
	l.good = l.good[:0]
	for i := range keys {
		if is(i) {
			l.good = append(l.good, keys[i])
		}
	}
	if e.Keys = l.good; len(e.Keys) > 0 {
		m.bus.Publish(e)
	}
	keyLists.Put(l)
}

func (m *Manager) publishReserved(keys []kv.ObjectKey, results []l1.WriteResult) {
	if m.bus.Wants(event.SMWriteReserved) {
		m.publishSplit(&event.Event{Type: event.SMWriteReserved}, keys, func(i int) bool { return results[i].Code == l1.Success })
	}
	m.publishOf(&event.Event{Type: event.L1AllocationFailed, During: "l1_store"}, keys, func(i int) bool { return results[i].Code == l1.OutOfMemory })
}

func (m *Manager) publishCodes(t event.Type, keys []kv.ObjectKey, codes []l1.Code) {
	if m.bus.Wants(t) {
		m.publishSplit(&event.Event{Type: t}, keys, func(i int) bool { return codes[i] == l1.Success })
	}
}

// publishUnreadable tells of a read that was refused.
func (m *Manager) publishUnreadable(keys []kv.ObjectKey, codes []l1.Code) {
	m.publishOf(&event.Event{Type: event.L1ReadFailed, During: "l1_retrieve", Reason: "not_found"}, keys, func(i int) bool { return codes[i] == l1.KeyNotExist })
	m.publishOf(&event.Event{Type: event.L1ReadFailed, During: "l1_retrieve", Reason: "write_locked"}, keys, func(i int) bool { return codes[i] == l1.KeyNotReadable })
}

// event returns an event about the request.
func (p *prefetch) event(t event.Type) event.Event {
	return event.Event{Type: t, RequestID: p.id, Session: p.session}
}

// publishRefused tells what reservations for loads were refused.
func (p *prefetch) publishRefused(cells []int, results []l1.WriteResult) {
	if !p.m.bus.Wants(event.L2PrefetchFailed) {
		return
	}
	keys := p.at(cells)
	for code, reason := range map[l1.Code]string{l1.OutOfMemory: "l1_oom", l1.KeyNotWritable: "l1_contended"} {
		e := p.event(event.L2PrefetchFailed)
		e.Reason = reason
		p.m.publishOf(&e, keys, func(i int) bool { return results[i].Code == code })
	}
}

// publishLoads tells of the loads that were submitted.
func (p *prefetch) publishLoads() {
	if len(p.loads) == 0 {
		return
	}
	var all []kv.ObjectKey
	for i := range p.loads {
		l := &p.loads[i]
		if p.m.bus.Wants(event.L2LoadTaskSubmitted) {
			e := p.event(event.L2LoadTaskSubmitted)
			e.Adapter, e.L2Name, e.TaskID, e.Count = p.stores[l.store].id, p.stores[l.store].Name(), uint64(l.id), len(l.cells)
			e.Bytes = p.bytes(l.cells)
			p.m.bus.Publish(&e)
		}
		if p.m.bus.Wants(event.L2LoadSubmitted) {
			all = append(all, p.at(l.cells)...)
		}
	}
	if p.m.bus.Wants(event.L2LoadSubmitted) {
		e := p.event(event.L2LoadSubmitted)
		e.Keys, e.Adapters = all, len(p.loads)
		p.m.bus.Publish(&e)
	}
}

// publishLoaded tells, adapter by adapter, of loads whose objects are in L1.
func (p *prefetch) publishLoaded() {
	for i := range p.loads {
		l := &p.loads[i]
		e := p.event(event.L2LoadTaskCompleted)
		e.Adapter, e.L2Name, e.TaskID = p.stores[l.store].id, p.stores[l.store].Name(), uint64(l.id)
		p.m.bus.Publish(&e)
		if p.m.bus.Wants(event.L2LoadCompleted) || p.m.bus.Wants(event.L2PrefetchFailed) {
			keys := p.at(l.cells)
			e.Type = event.L2LoadCompleted
			p.m.publishSplit(&e, keys, func(i int) bool { return p.loaded.Test(l.cells[i]) })
			failed := p.event(event.L2PrefetchFailed)
			failed.Reason = "not_found"
			p.m.publishOf(&failed, keys, func(i int) bool { return !p.loaded.Test(l.cells[i]) })
		}
	}
}

// publishDone tells what a request found.
func (p *prefetch) publishDone(res *PrefetchResult) {
	if !p.m.bus.Wants(event.SMPrefetchCompleted) {
		return
	}
	e := p.event(event.SMPrefetchCompleted)
	e.Count, e.L1Hits, e.L2Hits, e.Duration = len(p.keys), res.L1Hits, res.L2Hits, p.m.clock.Now()-p.submitNS
	p.m.bus.Publish(&e)
}

// bytes returns the logical size of cells.
func (p *prefetch) bytes(cells []int) (n int64) {
	for _, c := range cells {
		n += p.layouts[c/p.grid.cols].Bytes()
	}
	return n
}

// publishStore tells of a store task; e has what its type needs beside.
func (c *storeController) publishStore(e event.Event, a *adapter, t *storeTask, id uint64) {
	if !c.m.bus.Wants(e.Type) {
		return
	}
	e.Adapter, e.L2Name, e.TaskID, e.L1Tag = a.id, a.Name(), id, c.tier.cfg.Tag
	if e.Lost == 0 {
		e.Keys = t.keys()
	}
	c.m.bus.Publish(&e)
}

// publishTick tells of a cycle of L1's eviction.
func (c *evictionController) publishTick(used, watermark float64, triggered bool) {
	c.m.bus.Publish(&event.Event{Type: event.L1EvictionLoopTick, L1Tag: c.tier.cfg.Tag, Usage: used, Watermark: watermark, Triggered: triggered})
}

// publishL2 tells what happened to keys of a store. sizes may be nil.
func (m *Manager) publishL2(t event.Type, a *adapter, keys []kv.ObjectKey, sizes []int64) {
	if len(keys) > 0 && m.bus.Wants(t) {
		m.bus.Publish(&event.Event{Type: t, Adapter: a.id, L2Name: a.cfg.Type, Keys: keys, Sizes: sizes})
	}
}

// TierUsage says how full one L1 is, and what its eviction has removed.
type TierUsage struct {
	Tag string
	l1.Usage
	Policy                    string
	EvictedKeys, EvictedBytes int64 // by the policy; bytes as placed, padding included
}

// L1Usage returns how full every L1 is, in the order in which writes try them.
func (m *Manager) L1Usage() []TierUsage {
	list := make([]TierUsage, len(m.tiers))
	for i, t := range m.tiers {
		gone := &t.eviction.evicted
		list[i] = TierUsage{t.cfg.Tag, t.l1.Usage(), t.cfg.Eviction.Policy, gone.keys.Load(), gone.bytes.Load()}
	}
	return list
}

// AdapterUsage says what one store holds, and what is on its way.
type AdapterUsage struct {
	L2Usage
	L1Tag                    string // of the L1 that it serves
	Stores, Loads, LoadBytes int64
	Policy                   string // of its eviction; empty if it has none

	EvictedKeys, EvictedBytes int64 // by that
}

// AdapterUsage returns the state of every store, in cascade order.
func (m *Manager) AdapterUsage() []AdapterUsage {
	var list []AdapterUsage
	for _, a := range m.stores.list() {
		list = append(list, AdapterUsage{a.usage(), m.tiers[a.tier].cfg.Tag, a.stores.Load(), a.loads.Load(), a.loadBytes.Load(),
			a.eviction.cfg.Policy, a.eviction.evicted.keys.Load(), a.eviction.evicted.bytes.Load()})
	}
	return list
}

// Storing reports whether something that was written is still on its way to a
// store.
func (m *Manager) Storing() bool {
	for _, t := range m.tiers {
		if t.store.queued() {
			return true
		}
	}
	for _, a := range m.stores.list() {
		if a.stores.Load() > 0 {
			return true
		}
	}
	return false
}
