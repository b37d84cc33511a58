package l2

import (
	"errors"
	"log/slog"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// TaskID identifies a submitted task. An adapter never gives one twice.
type TaskID uint64

// Object is one object's bytes in L1. They stay the caller's, and valid until
// the task that they were given to has completed.
type Object struct {
	Key   kv.ObjectKey
	Bytes []byte
}

// StoreResult is the outcome of a store task as a whole.
type StoreResult struct {
	ID    TaskID
	Err   error // nil: every object is in the store, newly or already
	Keys  int   // objects newly written
	Bytes int64 // bytes newly written
}

// Usage says how full a store is.
type Usage struct {
	UsedBytes     int64
	CapacityBytes int64 // 0: unknown or unlimited
}

// Adapter is a store of objects below L1. Submit calls return at once; when a
// task completes, the adapter calls Env.Notify, and the result is taken with
// the matching Pop or Query. Every method may be called from several goroutines
// at once. A result is given once.
//
// Source: reference storage-manager.md, section 8.1.
type Adapter interface {
	// Name labels the adapter in logs and metrics.
	Name() string
	// SubmitStore writes objects that are not in the store yet.
	SubmitStore(objects []Object) TaskID
	// PopStores returns the store tasks that completed since the last call.
	PopStores() []StoreResult
	// SubmitLookup asks which keys are in the store, and locks each that is
	// against the store's own eviction.
	SubmitLookup(keys []kv.ObjectKey) TaskID
	// QueryLookup returns the bits of a completed lookup, in key order; ok is
	// false while it runs and after it was taken.
	QueryLookup(TaskID) (found kv.Bitmap, ok bool)
	// Unlock takes back one lock of each key.
	Unlock(keys []kv.ObjectKey)
	// SubmitLoad reads objects into the given bytes.
	SubmitLoad(objects []Object) TaskID
	// QueryLoad returns which objects were read; a failure is a clear bit.
	QueryLoad(TaskID) (loaded kv.Bitmap, ok bool)
	// Delete removes keys that no lookup has locked and returns how many were
	// there. It may wait for
	// the store.
	Delete(keys []kv.ObjectKey) int
	Usage() Usage
	// Close waits for running tasks and releases what the adapter holds.
	// Afterwards no bytes of a task are touched and Notify is not called;
	// further calls do nothing. It may be called twice.
	Close() error
}

// Env is what an adapter gets from the storage manager.
type Env struct {
	Clock clock.Clock
	// Notify says that a task has completed. It never blocks. On a
	// *clock.Virtual it may be called only from within an event of that clock.
	Notify func()
	// Found is told what a store has at the start, oldest first, within the
	// call of New; sizes are what it takes of Usage.UsedBytes. It is nil if
	// nobody needs to know: without an eviction policy over the store.
	Found func(keys []kv.ObjectKey, sizes []int64)
	// NoPayload says that the bytes of objects mean nothing (a replay on
	// scratch memory, where the bytes of different objects overlap): an
	// adapter that keeps objects in memory keeps their sizes only, and a load
	// leaves the bytes of objects alone.
	NoPayload bool
	// Log is for what no result says, such as that the store is down;
	// discarded if nil. An outage is a line at its start and one at its end.
	Log *slog.Logger
}

// ErrReported is wrapped by the error of a store task that needs no line in the
// log: the adapter has written one for all tasks of an outage.
var ErrReported = errors.New("reported by the adapter")
