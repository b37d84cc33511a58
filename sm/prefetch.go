package sm

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
)

// prefetchController serves prefetches that may need a store below. At most
// Config.PrefetchMaxInFlight are in lookup or load, the others wait in order.
//
// Source: reference storage-manager.md, section 14.3.
type prefetchController struct {
	m    *Manager
	task clock.Task

	mu    sync.Mutex
	queue []*prefetch // guarded by mu

	inFlight []*prefetch // owned by the step

	inLookup, inLoad atomic.Int64 // of inFlight, for those who watch; stored by the step
}

func (c *prefetchController) status() PrefetchStatus {
	c.mu.Lock()
	s := PrefetchStatus{MaxInFlight: max(1, c.m.cfg.PrefetchMaxInFlight), Queued: int64(len(c.queue))}
	c.mu.Unlock()
	s.InLookup, s.InLoad = c.inLookup.Load(), c.inLoad.Load()
	s.InFlight = s.InLookup + s.InLoad
	return s
}

// prefetch is one request on its way. It belongs to the thread that serves it.
type prefetch struct {
	m       *Manager
	id      int64
	grid    grid
	keys    []kv.ObjectKey // one a cell
	layouts []kv.Layout    // one a row
	readers int
	lock    kv.LockMode
	usesL1  bool           // the request allows what L1 is made of
	l2Tags  []kv.MemoryTag // of the stores that it allows; nil for all
	call    tracedCall     // of the submission

	session  string // external request id
	submitNS int64

	lockedNS []int64   // when the locks of inL1 were taken, by tier
	owner    []int8    // one a cell with several L1s: the tier that holds or will hold it; nil with one
	inL1     kv.Bitmap // resident and locked by this request at step 1
	served   kv.Bitmap // planned from L1: still locked
	loaded   kv.Bitmap // loaded and locked
	found    kv.Bitmap // in L1 or in a store

	stores  []*adapter // that the request asks; acquired until it is done
	lookups []lookup   // one a store
	source  []int16    // one a cell: the store to load from; -1 none
	loads   []load
	loading bool // past the lookup
}

type lookup struct {
	id   l2.TaskID
	bits kv.Bitmap
	done bool
}

type load struct {
	store int // in prefetch.stores
	id    l2.TaskID
	cells []int
	done  bool
}

// newPrefetch starts a request: every resident key gets the request's locks.
// It copies what it keeps of spec.
func (m *Manager) newPrefetch(id int64, spec *kv.PrefetchSpec) *prefetch {
	p := &prefetch{m: m, id: id, grid: newGrid(spec), readers: clampLocks(int(spec.Readers)), lock: spec.Lock,
		usesL1: allows(spec.L1Tags, l1Tag), l2Tags: slices.Clone(spec.L2Tags)}
	p.keys = make([]kv.ObjectKey, 0, p.grid.cells())
	for i := range spec.Groups {
		p.keys = append(p.keys, spec.Groups[i].Keys...)
		p.layouts = append(p.layouts, spec.Groups[i].Layout)
	}
	p.loaded = kv.NewBitmap(p.grid.cells())
	return p
}

func (p *prefetch) tag() l1.Tag { return l1.Tag(p.id + 1) }

// lockL1 is step 1.
func (p *prefetch) lockL1() {
	p.lockedNS = make([]int64, len(p.m.tiers))
	for t := range p.lockedNS {
		p.lockedNS[t] = p.m.clock.Now()
	}
	if p.usesL1 {
		p.inL1, p.owner = p.m.tiers.lockResident(p.keys, p.readers)
	} else { // what is loaded goes to L1 all the same, where there is not such an object already
		p.inL1 = kv.NewBitmap(len(p.keys))
		if len(p.m.tiers) > 1 {
			p.owner = make([]int8, len(p.keys))
		}
	}
	p.found = p.inL1
	for row := range p.grid.rows {
		p.m.tellChain(p.keys[row*p.grid.cols : (row+1)*p.grid.cols])
	}
}

// relock takes the request's locks anew if stores took so long that they may
// have lapsed. Keys that went meanwhile are hits no more, and locks that lapsed
// are not given back: those would be another request's by now.
func (p *prefetch) relock() {
	now := p.m.clock.Now()
	for t, tier := range p.m.tiers {
		if now-p.lockedNS[t] < tier.cfg.L1.ReadTTLSeconds*int64(time.Second) || p.inL1.Count() == 0 {
			continue
		}
		var held []int
		for c := range p.keys {
			if p.inL1.Test(c) {
				held = append(held, c)
			}
		}
		held = p.ofTier(t, held)
		locked := tier.l1.LockResident(p.at(held), p.readers)
		p.lockedNS[t], p.inL1 = now, p.inL1.Clone()
		for i, c := range held {
			if !locked.Test(i) {
				p.inL1.Clear(c)
			}
		}
		p.served = p.inL1
	}
}

// ofTier returns those of cells that tier t holds or will hold.
func (p *prefetch) ofTier(t int, cells []int) []int {
	if p.owner == nil {
		return cells
	}
	var out []int
	for _, c := range cells {
		if int(p.owner[c]) == t {
			out = append(out, c)
		}
	}
	return out
}

// unlock releases the request's locks of cells.
func (p *prefetch) unlock(cells []int) {
	for t, tier := range p.m.tiers {
		if of := p.ofTier(t, cells); len(of) > 0 {
			_, freed := tier.l1.Unlock(nil, p.at(of), p.readers)
			p.m.countFreed(freed)
		}
	}
}

// discard frees what was reserved for cells.
func (p *prefetch) discard(cells []int) {
	for t, tier := range p.m.tiers {
		if of := p.ofTier(t, cells); len(of) > 0 {
			tier.l1.Discard(p.at(of), p.tag())
		}
	}
}

// plan is steps 3 and 4: it decides which cells are served, from where, and
// releases what is locked and not needed.
func (p *prefetch) plan(found kv.Bitmap) {
	needed := p.grid.needed(found)
	p.served = kv.NewBitmap(p.grid.cells())
	var release []int
	for c := range p.keys {
		switch {
		case !p.inL1.Test(c):
		case needed.Test(c):
			p.served.Set(c)
		default:
			release = append(release, c)
		}
	}
	p.unlock(release)
	for c := range p.source {
		p.source[c] = -1
		if !needed.Test(c) || p.inL1.Test(c) {
			continue
		}
		for a := range p.lookups {
			if p.lookups[a].bits.Test(c) {
				p.source[c] = int16(a)
				if p.owner != nil {
					p.owner[c] = int8(p.stores[a].tier)
				}
				break
			}
		}
	}
	p.inL1 = p.served
}

// submitLookups is step 2: all keys, also those found in L1, in every store.
func (p *prefetch) submitLookups() {
	for _, a := range p.m.stores.list() {
		if allows(p.l2Tags, a.memory) && a.acquire() {
			p.stores = append(p.stores, a)
			p.lookups = append(p.lookups, lookup{id: a.SubmitLookup(p.keys)})
		}
	}
	if p.m.bus.Wants(event.L2LookupSubmitted) {
		e := p.event(event.L2LookupSubmitted)
		e.Keys, e.Adapters = p.keys, len(p.stores)
		p.m.bus.Publish(&e)
	}
	p.source = make([]int16, len(p.keys))
}

// reserve is steps 5 and 6: memory for what comes from below, row by row, in the
// L1 of the store that it comes from; a row is all or nothing in each. What was
// refused changes the plan.
func (p *prefetch) reserve() {
	isTemporary := p.m.cfg.PrefetchPolicy != PrefetchRetain && p.lock != kv.NoLock
	var reserved []int // cells
	all := kv.NewBitmap(len(p.keys))
	failed := false
	for row := range p.grid.rows {
		inRow := cells(p.source, row*p.grid.cols, (row+1)*p.grid.cols)
		for t, tier := range p.m.tiers {
			cells := p.ofTier(t, inRow)
			results, err := tier.l1.Reserve(nil, p.at(cells), p.layouts[row], kv.ModeNew, p.tag(), isTemporary)
			failed = failed || err != nil
			p.publishRefused(cells, results)
			for i, r := range results {
				if r.Code == l1.Success {
					all.Set(cells[i])
					reserved = append(reserved, cells[i])
				} else {
					failed = true
				}
			}
		}
	}
	if !failed {
		return
	}
	if p.grid.policy == kv.FetchFull { // a column is loaded if it was reserved in every row
		all = p.grid.completeColumns(all)
	}
	have := p.inL1.Clone()
	for _, c := range reserved {
		if all.Test(c) {
			have.Set(c)
		}
	}
	p.plan(have)
	var discard []int
	for _, c := range reserved {
		if p.source[c] < 0 {
			discard = append(discard, c)
		}
	}
	p.discard(discard)
}

// submitLoads is the start of step 7. It reports whether there is any load.
func (p *prefetch) submitLoads() bool {
	p.loading = true
	for a, adapter := range p.stores {
		var unlock []kv.ObjectKey
		var from []int
		for c := range p.keys {
			switch {
			case int(p.source[c]) == a:
				from = append(from, c)
			case p.lookups[a].bits.Test(c):
				unlock = append(unlock, p.keys[c])
			}
		}
		if len(unlock) > 0 {
			adapter.Unlock(unlock)
		}
		if len(from) == 0 {
			continue
		}
		keys := p.at(from)
		views := p.m.tiers[adapter.tier].l1.Reserved(nil, keys, p.tag())
		p.loads = append(p.loads, load{store: a, cells: from, id: adapter.SubmitLoad(objects(keys, views))})
	}
	for i := range p.loads {
		a := p.stores[p.loads[i].store]
		a.loads.Add(1)
		a.loadBytes.Add(p.bytes(p.loads[i].cells))
	}
	p.publishLoads()
	return len(p.loads) > 0
}

// at returns the keys of cells.
func (p *prefetch) at(cells []int) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, len(cells))
	for i, c := range cells {
		keys[i] = p.keys[c]
	}
	return keys
}

func cells(source []int16, from, to int) []int {
	var out []int
	for c := from; c < to; c++ {
		if source[c] >= 0 {
			out = append(out, c)
		}
	}
	return out
}

// finishLoad ends the loads of step 7, in cell order: what was read becomes
// resident with the request's locks, what was not is freed.
func (p *prefetch) finishLoad(read kv.Bitmap) {
	var loaded, failed []int
	for c := range p.keys {
		switch {
		case p.source[c] < 0:
		case read.Test(c):
			loaded = append(loaded, c)
		default:
			failed = append(failed, c)
		}
	}
	objects, bytes := int64(0), int64(0)
	for t, tier := range p.m.tiers {
		of := p.ofTier(t, loaded)
		codes, _, n := tier.l1.Finish(nil, nil, p.at(of), p.tag(), p.readers)
		bytes += n
		for i, c := range of {
			switch {
			case codes[i] == l1.Success:
				objects++
				p.loaded.Set(c)
			case p.loadedBefore(of[:i], c): // a key that the request names twice
				p.loaded.Set(c)
			}
		}
	}
	p.discard(failed)
	p.m.count(func(s *Stats) {
		s.L2LoadedKeys += objects
		s.L2LoadedBytes += bytes
	})
}

// loadedBefore reports whether the key of cell c was loaded for one of cells.
func (p *prefetch) loadedBefore(cells []int, c int) bool {
	for _, other := range cells {
		if p.keys[other] == p.keys[c] && p.loaded.Test(other) {
			return true
		}
	}
	return false
}

// finish is steps 8 and 9.
func (p *prefetch) finish() *PrefetchResult {
	p.relock()
	locked := p.served.Clone()
	for c := range p.keys {
		if p.loaded.Test(c) {
			locked.Set(c)
		}
	}
	hits := p.grid.hits(locked)
	var release, touched []int
	res := &PrefetchResult{Rows: make([]PrefetchRow, p.grid.rows)}
	for row := range res.Rows {
		r := &res.Rows[row]
		r.Hits, r.L1, r.L2 = p.grid.row(hits, row), kv.NewBitmap(p.grid.cols), kv.NewBitmap(p.grid.cols)
		if p.grid.policy == kv.FetchFull {
			r.Found = p.grid.row(p.found, row)
		}
		for col := range p.grid.cols {
			c := row*p.grid.cols + col
			switch {
			case !locked.Test(c):
				continue
			case !hits.Test(c) || p.lock == kv.NoLock:
				release = append(release, c)
			}
			if !hits.Test(c) {
				continue
			}
			touched = append(touched, c)
			if p.loaded.Test(c) {
				r.L2.Set(col)
				res.L2Hits++
			} else {
				r.L1.Set(col)
				res.L1Hits++
			}
		}
	}
	p.unlock(release)
	for t, tier := range p.m.tiers {
		tier.l1.Touch(p.at(p.ofTier(t, touched)))
	}
	p.m.countPrefetch(p, res)
	p.publishDone(res)
	if p.call.WantsOutcome() {
		p.traceResult(res)
	}
	return res
}

func (c *prefetchController) start() { c.task = c.m.clock.Go(clock.Never, c.step) }

func (c *prefetchController) submit(p *prefetch) {
	c.mu.Lock()
	c.queue = append(c.queue, p)
	c.mu.Unlock()
	c.task.Wake()
}

// step starts waiting requests while there is room, and moves those in flight
// as far as their tasks' results allow.
func (c *prefetchController) step(int64) (next int64) {
	for again := true; again; {
		again = false
		kept := c.inFlight[:0]
		for _, p := range c.inFlight {
			if c.advance(p) {
				c.m.deliver(p.id, p.finish())
				p.leave()
				again = true // its place is free
			} else {
				kept = append(kept, p)
			}
		}
		clear(c.inFlight[len(kept):])
		c.inFlight = kept
		for len(c.inFlight) < max(1, c.m.cfg.PrefetchMaxInFlight) {
			p := c.take()
			if p == nil {
				break
			}
			p.lockL1()
			p.submitLookups()
			c.inFlight = append(c.inFlight, p)
			again = true
		}
	}
	loads := int64(0)
	for _, p := range c.inFlight {
		if p.loading {
			loads++
		}
	}
	c.inLoad.Store(loads)
	c.inLookup.Store(int64(len(c.inFlight)) - loads)
	return clock.Never
}

func (c *prefetchController) take() *prefetch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil
	}
	p := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return p
}

// advance takes what has completed and reports whether the request is done.
func (c *prefetchController) advance(p *prefetch) bool {
	if !p.loading {
		for a := range p.lookups {
			if l := &p.lookups[a]; !l.done {
				l.bits, l.done = p.stores[a].QueryLookup(l.id)
				if !l.done {
					return false
				}
			}
		}
		p.relock()
		p.found = p.inL1.Clone()
		for a := range p.lookups {
			for cell := range p.keys {
				if p.lookups[a].bits.Test(cell) {
					p.found.Set(cell)
				}
			}
		}
		p.plan(p.found)
		p.reserve()
		if !p.submitLoads() {
			return true
		}
	}
	return p.takeLoads()
}

// takeLoads collects the loads; when the last is in it ends step 7.
func (p *prefetch) takeLoads() bool {
	for i := range p.loads {
		l := &p.loads[i]
		if l.done {
			continue
		}
		adapter := p.stores[l.store]
		bits, ok := adapter.QueryLoad(l.id)
		if !ok {
			return false
		}
		l.done = true
		adapter.loads.Add(-1)
		adapter.loadBytes.Add(-p.bytes(l.cells))
		adapter.Unlock(p.at(l.cells))
		var read []int
		for j, c := range l.cells {
			if bits.Test(j) {
				p.loaded.Set(c)
				read = append(read, c)
			}
		}
		if p.m.bus.Wants(event.L2KeysAccessed) {
			p.m.publishL2(event.L2KeysAccessed, adapter, p.at(read), nil)
		}
	}
	read := p.loaded
	p.loaded = kv.NewBitmap(len(p.keys))
	p.finishLoad(read)
	p.publishLoaded()
	return true
}

// leave lets go of the stores.
func (p *prefetch) leave() {
	for _, a := range p.stores {
		a.release()
	}
}

// abandon lets go of the stores of requests that are not done: these get no
// result, and their locks lapse with L1, which is closed next. The steps and the
// adapters have ended.
func (c *prefetchController) abandon() {
	for _, p := range c.inFlight {
		p.leave()
	}
	c.inFlight = nil
}
