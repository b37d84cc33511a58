package sm

import (
	"log/slog"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
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
	Clock  clock.Clock     // the machine's if nil
	Tracer *trace.Recorder // records the public calls; nil records nothing
	Memory Memory
	Log    *slog.Logger // discarded if nil

	// ManualEviction leaves the eviction cycle to calls of EvictOnce, instead
	// of one a second.
	ManualEviction bool
}

// Manager is a storage manager. It is safe for concurrent use.
type Manager struct{}

// New builds a storage manager. The caller must Close it.
func New(cfg Config, opt Options) (*Manager, error) { panic("skeleton") }

// ReserveWrite reserves memory for the keys that may be written, and returns an
// outcome for every key, in order. It never waits and never evicts. An error
// means that the call itself was wrong (a layout of no bytes, an unknown mode)
// and reserved nothing.
func (m *Manager) ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error) {
	panic("skeleton")
}

// FinishWrite makes reserved objects readable and queues them for the stores
// below. It returns an outcome for every key, in order.
func (m *Manager) FinishWrite(keys []kv.ObjectKey) []l1.Code { panic("skeleton") }

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

// SubmitPrefetchTask starts to make a grid of keys readable. An error means
// that the spec is not valid.
func (m *Manager) SubmitPrefetchTask(spec *kv.PrefetchSpec, externalRequestID string, skipL2 bool) (PrefetchHandle, error) {
	panic("skeleton")
}

// QueryPrefetchStatus returns the result of a prefetch once; ok is false while
// it runs, and after the result was taken.
func (m *Manager) QueryPrefetchStatus(h PrefetchHandle) (res *PrefetchResult, ok bool) {
	panic("skeleton")
}

// ReadPrefetched enters a read of prefetched objects. It takes no locks: it
// needs those of a completed prefetch. The caller must call Exit.
func (m *Manager) ReadPrefetched(keys []kv.ObjectKey) *PrefetchedRead { panic("skeleton") }

// PrefetchedRead is an entered read.
type PrefetchedRead struct{}

// Codes returns the outcome for every key, in order: Success, KeyNotExist or
// KeyNotReadable.
func (r *PrefetchedRead) Codes() []l1.Code { panic("skeleton") }

// Objects returns the objects in key order, nil if any key was not readable.
func (r *PrefetchedRead) Objects() []l1.Object { panic("skeleton") }

// Exit leaves the read; bodyErr is what went wrong meanwhile, nil if nothing.
// After a clean read it releases nothing: FinishReadPrefetched does. After a
// refused read, or with an error, it releases one lock of every good key.
func (r *PrefetchedRead) Exit(bodyErr error) { panic("skeleton") }

// FinishReadPrefetched releases readLocks locks of every key (clamped to
// 1..128), and returns an outcome for every key, in order.
func (m *Manager) FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code {
	panic("skeleton")
}

// EvictOnce runs one eviction cycle and returns the keys that it removed.
func (m *Manager) EvictOnce() []kv.ObjectKey { panic("skeleton") }

// Clear drops the objects of L1 that no live lock holds, or with force all.
// Stores below are not touched.
func (m *Manager) Clear(force bool) { panic("skeleton") }

// Close stops the controllers, then the adapters, then releases L1. It may be
// called twice.
func (m *Manager) Close() error { panic("skeleton") }

// Stats are counts since New, and the present state.
type Stats struct {
	UsedBytes, CapacityBytes int64 // of L1; staged objects count
	Resident, Staged         int64 // objects

	RequestedKeys, L1HitKeys, L2HitKeys    int64 // of completed prefetches
	L1HitBytes, L2HitBytes, RequestedBytes int64
	ReservedKeys, RefusedKeys, OOMKeys     int64 // of reservations
	ReservedBytes, OOMBytes                int64
	WrittenKeys, WrittenBytes              int64
	EvictionPasses                         int64 // cycles that found L1 above the watermark
	EvictedKeys, EvictedBytes              int64
	L2StoredKeys, L2StoredBytes            int64
	L2LoadedKeys, L2LoadedBytes            int64
	TemporaryFreedKeys                     int64
	PendingPrefetches                      int64 // submitted, without a result yet
}

// Stats returns a consistent snapshot.
func (m *Manager) Stats() Stats { panic("skeleton") }
