package sm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/trace"
)

// Memory says what backs the objects of L1.
type Memory uint8

const (
	RealMemory    Memory = iota // true memory of the whole size
	ScratchMemory               // every object's bytes are a view of one small pool; placement and sizes stay real
)

// Options are what a Manager needs beside its configuration.
type Options struct {
	Clock    clock.Clock     // required
	Tracer   *trace.Recorder // records the public calls; nil records nothing
	Memory   Memory
	Pool     *l1.Pool     // backs the L1, of which there must be one, instead of Memory; the Manager closes it, unless New fails
	Adapters l2.Registry  // the kinds of L2 adapter that Config.L2Adapters may name
	Bus      *event.Bus   // hears what happens; nil for nobody
	Log      *slog.Logger // discarded if nil

	// ManualEviction leaves the eviction cycle to calls of EvictOnce, instead
	// of one a second.
	ManualEviction bool
}

// Manager is a storage manager. It is safe for concurrent use.
//
// On a virtual clock everything that it does in the background runs on the
// goroutine that advances the clock, in a fixed order.
//
// Source: reference storage-manager.md, sections 2 and 14.
type Manager struct {
	// Immutable after New; each has its own lock.
	cfg      Config
	clock    clock.Clock
	tracer   tracer
	bus      *event.Bus
	log      *slog.Logger
	quotas   evict.Quotas
	tiers    tiers
	stores   stores
	prefetch prefetchController
	readTTL  int64 // ns; the longest of the tiers

	mu      sync.Mutex // guards all below; nothing else is called under it
	nextID  int64
	pending map[int64]chan struct{} // submitted, without a result yet; nil, or closed with the result
	results map[int64]*PrefetchResult
	aging   []agingResult // of results, oldest first
	stats   Stats
	closed  bool
}

// agingResult says until when a result is kept for a caller who may never ask:
// as long as its locks can be live.
type agingResult struct{ id, until int64 }

// maxResults is how many results are kept for callers who have not asked yet.
// LMCache keeps all of them for ever.
const maxResults = 1 << 18

// New builds a storage manager and starts its controllers. The caller must
// Close it.
func New(cfg Config, opt Options) (*Manager, error) {
	m := &Manager{cfg: cfg, clock: opt.Clock, bus: opt.Bus, log: opt.Log,
		pending: map[int64]chan struct{}{}, results: map[int64]*PrefetchResult{}}
	m.tracer.recorder.Store(opt.Tracer)
	if err := cfg.Validate(opt.Adapters); err != nil {
		return nil, err
	}
	adapters, err := cfg.Adapters(opt.Adapters)
	if err != nil {
		return nil, err
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := m.setQuotas(cfg.Quotas); err != nil {
		return nil, err
	}
	m.prefetch.m = m
	m.prefetch.start()
	for _, c := range cfg.Tiers() {
		t, err := m.newTier(c, opt)
		if err != nil {
			return nil, errors.Join(c.about(err), m.Close())
		}
		t.store.start()
		m.tiers = append(m.tiers, t)
		m.readTTL = max(m.readTTL, c.L1.ReadTTLSeconds*int64(time.Second))
	}
	m.stores.opt = opt
	for i, c := range adapters {
		if _, err := m.addStore(c, false); err != nil {
			return nil, errors.Join(&AdapterError{N: i + 1, Type: c.Type, Err: err}, m.Close())
		}
	}
	if !opt.ManualEviction {
		for _, t := range m.tiers {
			t.eviction.start()
		}
		for _, a := range m.stores.list() {
			a.eviction.start()
		}
	}
	return m, nil
}

// Close stops the controllers, then the adapters, then releases L1. What tasks
// of adapters read or write stays in place until these have ended. It may be
// called twice.
func (m *Manager) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.prefetch.task.Stop()
	for _, t := range m.tiers {
		t.store.task.Stop()
		t.eviction.stop()
	}
	var errs []error
	for _, a := range m.stores.close() {
		errs = append(errs, a.stop())
	}
	m.prefetch.abandon()
	for _, t := range m.tiers {
		t.store.abandon()
		errs = append(errs, t.l1.Close())
	}
	return errors.Join(errs...)
}

// ReserveWrite reserves memory for the keys that may be written, and returns an
// outcome for every key, in order. It never waits and never evicts. An error
// means that the call itself was wrong (a layout of no bytes, an unknown mode)
// and reserved nothing.
func (m *Manager) ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error) {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpReserveWrite, &trace.Args{Keys: keys, Layout: layout, Mode: mode})
	}
	m.tellChain(keys)
	results, err := m.tiers.reserve(keys, layout, mode)
	if err != nil {
		m.tracer.Outcome(call, &trace.Outcome{Failed: true})
		return nil, fmt.Errorf("reserve write of %d keys: %w", len(keys), err)
	}
	var n [l1.OutOfMemory + 1]int64
	for i := range results {
		n[results[i].Code]++
	}
	if call.WantsOutcome() {
		m.traceReservation(call, results)
	}
	m.publishReserved(keys, results)
	bytes := layout.Bytes()
	m.count(func(s *Stats) {
		s.ReservedKeys += n[l1.Success]
		s.ReservedBytes += n[l1.Success] * bytes
		s.RefusedKeys += n[l1.KeyNotWritable]
		s.OOMKeys += n[l1.OutOfMemory]
		s.OOMBytes += n[l1.OutOfMemory] * bytes
	})
	return results, nil
}

// tellChain tells every tier and store whose policy wants to know it that the
// keys stand in one call, each extending the one before it.
func (m *Manager) tellChain(keys []kv.ObjectKey) {
	for _, t := range m.tiers {
		t.l1.Chained(keys)
	}
	for _, a := range m.stores.list() {
		a.eviction.chained(keys)
	}
}

// FinishWrite makes reserved objects readable and queues them for the stores
// below. It returns an outcome for every key, in order: Success, KeyNotExist
// where nothing was reserved, KeyInWrongState where the reservation has expired.
func (m *Manager) FinishWrite(keys []kv.ObjectKey) []l1.Code {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpFinishWrite, &trace.Args{Keys: keys})
	}
	codes, bytes := m.tiers.finish(keys)
	written := int64(0)
	for _, c := range codes {
		if c == l1.Success {
			written++
		}
	}
	if call.WantsOutcome() {
		m.traceCodes(call, codes, 0)
	}
	m.publishCodes(event.SMWriteFinished, keys, codes)
	m.count(func(s *Stats) {
		s.WrittenKeys += written
		s.WrittenBytes += bytes
	})
	return codes
}

// PrefetchHandle names a submitted prefetch.
type PrefetchHandle struct {
	ID                int64 // from 0, in order of submission
	ExternalRequestID string
	SubmitNS          int64 // on the manager's clock
}

// PrefetchResult is what a prefetch found.
type PrefetchResult struct {
	Rows   []PrefetchRow // one a key group
	L1Hits int           // keys over all rows
	L2Hits int
}

// PrefetchRow holds one bit a chunk of a key group.
type PrefetchRow struct {
	Hits  kv.Bitmap // usable now
	L1    kv.Bitmap // hits that were in L1
	L2    kv.Bitmap // hits that this request loaded; disjoint from L1
	Found kv.Bitmap // policy full only: was in L1 or in a store, loaded or not
}

// SubmitPrefetchTask starts to make a grid of keys readable. Without stores
// below, or with skipL2, the result is there when it returns. It keeps no
// reference into spec. An error means that the spec is not valid.
func (m *Manager) SubmitPrefetchTask(spec *kv.PrefetchSpec, externalRequestID string, skipL2 bool) (PrefetchHandle, error) {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpSubmitPrefetchTask, &trace.Args{Spec: spec, Text: externalRequestID, Flag: skipL2})
	}
	if err := spec.Validate(); err != nil {
		m.tracer.Outcome(call, &trace.Outcome{Failed: true})
		return PrefetchHandle{}, fmt.Errorf("submit prefetch: %w", err)
	}
	h := PrefetchHandle{ExternalRequestID: externalRequestID, SubmitNS: m.clock.Now()}
	m.mu.Lock()
	h.ID = m.nextID
	m.nextID++
	m.pending[h.ID] = nil
	m.mu.Unlock()
	p := m.newPrefetch(h.ID, spec)
	p.call, p.session, p.submitNS = call, externalRequestID, h.SubmitNS
	if skipL2 || !m.hasStoreFor(spec.L2Tags) {
		p.lockL1()
		p.plan(p.inL1)
		p.found = p.grid.needed(p.found) // so says LMCache of a request that asks no store
		m.deliver(p.id, p.finish())
	} else {
		m.prefetch.submit(p)
	}
	return h, nil
}

// deliver makes a result available, and forgets those that nobody asked for
// while their locks were live.
func (m *Manager) deliver(id int64, res *PrefetchResult) {
	now := m.clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if done := m.pending[id]; done != nil {
		close(done)
	}
	delete(m.pending, id)
	m.results[id] = res
	m.aging = append(m.aging, agingResult{id, now + m.readTTL})
	for len(m.aging) > 0 && (m.results[m.aging[0].id] == nil || m.aging[0].until <= now || len(m.results) > maxResults) {
		if m.aging[0].id == id {
			break // a result is never dropped at once, whatever the TTL
		}
		delete(m.results, m.aging[0].id)
		m.aging = m.aging[1:]
	}
}

// QueryPrefetchStatus returns the result of a prefetch once; ok is false while
// it runs, after the result was taken, and when its locks have lapsed.
func (m *Manager) QueryPrefetchStatus(h PrefetchHandle) (res *PrefetchResult, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	res, ok = m.results[h.ID]
	delete(m.results, h.ID)
	return res, ok
}

// WaitPrefetchStatus returns the result of a prefetch as QueryPrefetchStatus
// does, when the prefetch has ended. ok is false for a result that was taken
// already or that no prefetch of this manager gives, and when ctx ends before.
func (m *Manager) WaitPrefetchStatus(ctx context.Context, h PrefetchHandle) (res *PrefetchResult, ok bool) {
	m.mu.Lock()
	done, runs := m.pending[h.ID]
	if runs && done == nil {
		done = make(chan struct{})
		m.pending[h.ID] = done
	}
	m.mu.Unlock()
	if runs && m.clock.Wait(ctx, done) != nil {
		return nil, false
	}
	return m.QueryPrefetchStatus(h)
}

// ReadPrefetched enters a read of prefetched objects. It takes no locks: it
// needs those of a completed prefetch. The caller must call Exit.
func (m *Manager) ReadPrefetched(keys []kv.ObjectKey) *PrefetchedRead {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpReadPrefetchedEnter, &trace.Args{Keys: keys})
	}
	r := &PrefetchedRead{m: m, keys: slices.Clone(keys)} // callers decode the next call into the same slice
	r.codes, r.objects = m.tiers.read(keys)
	if len(r.objects) < len(keys) {
		r.refused = true
		for i, c := range r.codes {
			if c != l1.Success {
				m.log.Error(fmt.Sprintf("Failed to read prefetched object %v from L1 storage: %s", keys[i], reasons[c]))
			}
		}
	}
	if call.WantsOutcome() {
		m.traceCodes(call, r.codes, 0)
	}
	if r.refused {
		m.publishUnreadable(keys, r.codes)
	}
	return r
}

var reasons = map[l1.Code]string{
	l1.KeyNotExist:    "The specified key does not exist.",
	l1.KeyNotReadable: "The specified key is not readable.",
}

// PrefetchedRead is an entered read. It belongs to one goroutine.
type PrefetchedRead struct {
	m       *Manager
	keys    []kv.ObjectKey
	codes   []l1.Code
	objects []l1.Object
	refused bool
	exited  bool
}

// Codes returns the outcome for every key, in order: Success, KeyNotExist or
// KeyNotReadable.
func (r *PrefetchedRead) Codes() []l1.Code { return r.codes }

// Objects returns the objects in key order, nil if any key was not readable.
func (r *PrefetchedRead) Objects() []l1.Object {
	if r.refused {
		return nil
	}
	return r.objects
}

// Exit leaves the read; bodyErr is what went wrong meanwhile, nil if nothing.
// After a clean read it releases nothing: FinishReadPrefetched does. After a
// refused read, or with an error, it releases one lock of every good key. It may
// be called twice.
func (r *PrefetchedRead) Exit(bodyErr error) {
	if r.exited {
		return
	}
	r.exited = true
	var released, freed int
	if r.refused || bodyErr != nil {
		seen := make(map[kv.ObjectKey]struct{}, len(r.keys)) // a key read twice has one lock to give back
		var good []kv.ObjectKey
		for i, c := range r.codes {
			if _, dup := seen[r.keys[i]]; c == l1.Success && !dup {
				seen[r.keys[i]] = struct{}{}
				good = append(good, r.keys[i])
			}
		}
		codes, n := r.m.unlock(good, 1)
		released, freed = countSuccess(codes), n
		r.m.publishCodes(event.SMReadPrefetchedFinished, good, codes)
	}
	if r.m.tracer.On() {
		call := r.m.tracer.Call(trace.OpReadPrefetchedExit, &trace.Args{Keys: r.keys})
		r.m.tracer.Outcome(call, &trace.Outcome{Counts: [trace.MaxCounts]uint32{uint32(released), uint32(freed)}})
	}
}

// FinishReadPrefetched releases readLocks locks of every key (clamped to
// 1..128), and returns an outcome for every key, in order: Success, KeyNotExist,
// or KeyInWrongState without a live lock.
func (m *Manager) FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpFinishReadPrefetched, &trace.Args{Keys: keys, Count: int64(readLocks)})
	}
	codes, freed := m.unlock(keys, clampLocks(readLocks))
	if call.WantsOutcome() {
		m.traceCodes(call, codes, freed)
	}
	m.publishCodes(event.SMReadPrefetchedFinished, keys, codes)
	return codes
}

func clampLocks(n int) int { return min(max(n, 1), l1.MaxReadLocks) }

// unlock releases n locks of every key. freed is how many objects went with
// their last lock.
func (m *Manager) unlock(keys []kv.ObjectKey, n int) (codes []l1.Code, freed int) {
	if len(keys) == 0 {
		return nil, 0
	}
	codes, freed = m.tiers.unlock(keys, n)
	m.countFreed(freed)
	return codes, freed
}

// countFreed counts objects that went with their last read lock.
func (m *Manager) countFreed(n int) {
	if n > 0 {
		m.count(func(s *Stats) { s.TemporaryFreedKeys += int64(n) })
	}
}

// EvictOnce runs one eviction cycle of every L1 and returns the keys that it
// removed, in the policy's order; nil if L1 is below the watermark.
func (m *Manager) EvictOnce() (gone []kv.ObjectKey) {
	for _, t := range m.tiers {
		gone = append(gone, t.eviction.cycle()...)
	}
	return gone
}

// EvictL2Once runs one eviction cycle of every store that has an eviction
// block, and returns how many keys went.
func (m *Manager) EvictL2Once() (gone int64) {
	for _, a := range m.stores.list() {
		gone += a.eviction.cycle()
	}
	return gone
}

// Quotas returns the budgets of salts, which may be changed at any time; the next
// cycle of eviction heeds them.
func (m *Manager) Quotas() *evict.Quotas { return &m.quotas }

// Clear drops the objects of L1 that no live lock holds, or with force all.
// Stores below are not touched.
func (m *Manager) Clear(force bool) {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpClear, &trace.Args{Flag: force})
	}
	if force {
		m.log.Warn("Clearing L1 by force: locked objects go too")
	}
	cleared := 0
	for _, t := range m.tiers {
		cleared += t.l1.Clear(force)
	}
	m.tracer.Outcome(call, &trace.Outcome{Counts: [trace.MaxCounts]uint32{uint32(cleared)}})
}

// DeleteL1 drops the objects of keys from L1, with force also those that
// somebody has locked. skipped counts the locked ones that stay; a key that is
// not there counts as neither. Stores below keep what they have.
func (m *Manager) DeleteL1(keys []kv.ObjectKey, force bool) (deleted, skipped int) {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpDelete, &trace.Args{Keys: keys, Flag: force})
	}
	codes := m.tiers.delete(keys, force)
	for _, c := range codes {
		switch c {
		case l1.Success:
			deleted++
		case l1.KeyIsLocked:
			skipped++
		}
	}
	if call.WantsOutcome() {
		m.traceCodes(call, codes, 0)
	}
	return deleted, skipped
}

// Touch tells the eviction of L1 that the keys are in use. Keys that are not
// there are ignored.
func (m *Manager) Touch(keys []kv.ObjectKey) {
	var call tracedCall
	if m.tracer.On() {
		call = m.tracer.Call(trace.OpTouch, &trace.Args{Keys: keys})
	}
	touched := 0
	for _, t := range m.tiers {
		touched += t.l1.Touch(keys)
	}
	m.tracer.Outcome(call, &trace.Outcome{Counts: [trace.MaxCounts]uint32{uint32(touched)}})
}

// Check reports whether the accounting of L1 is consistent.
func (m *Manager) Check() error { return m.tiers.check() }

var _ io.Closer = (*Manager)(nil)
