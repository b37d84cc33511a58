package l2

import (
	"errors"
	"runtime"
	"sync"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// ErrBusy is the error of a store task that came while MaxQueuedKeys waited.
var ErrBusy = errors.New("the store is too far behind")

// ErrClosed is the error of what a closed adapter is asked to store.
var ErrClosed = errors.New("the store is closed")

// MaxQueuedKeys bounds what waits for the workers of one kind of task: 80 bytes
// a key. What comes on top fails at once, so that a store that hangs costs
// misses and not memory.
const MaxQueuedKeys = 1 << 18

// Backend is what an adapter does itself; Tasks does the rest. The methods may
// wait, and are called from several goroutines at once, each with a part of one
// task.
type Backend interface {
	// StoreBatch writes objects that are not in the store yet, and returns how
	// many and how many bytes these were, also beside an error. One that fails
	// does not stop the others.
	StoreBatch(objects []Object) (keys int, bytes int64, err error)
	// LookupBatch sets found[i] and takes a lock where keys[i] is in the store.
	LookupBatch(keys []kv.ObjectKey, found []bool)
	// LoadBatch sets loaded[i] where objects[i] was read as a whole.
	LoadBatch(objects []Object, loaded []bool)
}

// Effort says how much Tasks does at once, of one kind of task.
type Effort struct {
	Workers int // goroutines; at least 1
	Batch   int // keys that one call of the Backend gets at most; at least 1
}

// Tasks gives a Backend the asynchronous half of Adapter: the methods that
// submit, query and pop. A task is cut into batches that the workers of its
// kind share; the tasks of one kind begin in the order of submission.
//
// On a virtual clock there are no workers: a task is done, whole and in order,
// by an event of the clock at the moment of its submission. So a replay on
// virtual time does real I/O that takes no time, and gives the same answers
// each time.
//
// The slices that a task is given must not change until it has completed.
type Tasks struct {
	env     Env
	backend Backend
	effort  [kinds]Effort
	virtual bool
	workers sync.WaitGroup

	mu      sync.Mutex
	work    [kinds]*sync.Cond // there is something in the queue, or closed
	queue   [kinds][]*task    // not all batches handed out; guarded by mu, as all below
	queued  [kinds]int        // keys in it
	lastID  TaskID
	stores  []StoreResult
	lookups map[TaskID]kv.Bitmap
	loads   map[TaskID]kv.Bitmap
	closed  bool
}

type kind int

const (
	storing kind = iota
	lookingUp
	loading
	kinds
)

// task is one submitted task. Its fields are guarded by Tasks.mu; keys and
// objects are immutable.
type task struct {
	id      TaskID
	kind    kind
	objects []Object       // of a store or load
	keys    []kv.ObjectKey // of a lookup
	next    int            // first key that no worker has taken
	left    int            // keys that are not done
	bits    kv.Bitmap
	result  StoreResult
}

func (t *task) size() int { return max(len(t.objects), len(t.keys)) }

// NewTasks starts the workers. The caller must Close it.
func NewTasks(env Env, backend Backend, store, lookup, load Effort) *Tasks {
	_, virtual := env.Clock.(*clock.Virtual)
	t := &Tasks{env: env, backend: backend, effort: [kinds]Effort{store, lookup, load}, virtual: virtual,
		lookups: map[TaskID]kv.Bitmap{}, loads: map[TaskID]kv.Bitmap{}}
	for k := range kinds {
		t.work[k] = sync.NewCond(&t.mu)
		for range t.effort[k].Workers {
			if !virtual {
				t.workers.Go(func() { t.serve(k) })
			}
		}
	}
	return t
}

// SubmitStore is that of Adapter.
func (t *Tasks) SubmitStore(objects []Object) TaskID {
	return t.submit(&task{kind: storing, objects: objects})
}

// SubmitLookup is that of Adapter.
func (t *Tasks) SubmitLookup(keys []kv.ObjectKey) TaskID {
	return t.submit(&task{kind: lookingUp, keys: keys, bits: kv.NewBitmap(len(keys))})
}

// SubmitLoad is that of Adapter.
func (t *Tasks) SubmitLoad(objects []Object) TaskID {
	return t.submit(&task{kind: loading, objects: objects, bits: kv.NewBitmap(len(objects))})
}

func (t *Tasks) submit(task *task) TaskID {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastID++
	task.id, task.left = t.lastID, task.size()
	task.result.ID = task.id
	k := task.kind
	switch {
	case t.closed:
		task.result.Err = ErrClosed
		t.deliver(task)
	case t.queued[k]+task.size() > MaxQueuedKeys && t.queued[k] > 0:
		task.result.Err = ErrBusy
		t.later(task)
	case task.size() == 0:
		t.later(task)
	default:
		t.queue[k] = append(t.queue[k], task)
		t.queued[k] += task.size()
		switch {
		case t.virtual:
			t.env.Clock.AfterFunc(0, func() { t.drain(k) })
		case task.size() <= t.effort[k].Batch:
			t.work[k].Signal()
		default:
			t.work[k].Broadcast()
		}
	}
	return task.id
}

// later completes a task without work. Not within the call that submits it: who
// submits may hold what Notify wants. The caller holds mu.
func (t *Tasks) later(task *task) {
	done := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.closed {
			t.deliver(task)
			t.env.Notify()
		}
	}
	if t.virtual {
		t.env.Clock.AfterFunc(0, done)
	} else {
		t.workers.Go(done)
	}
}

// deliver makes a result available. The caller holds mu.
func (t *Tasks) deliver(task *task) {
	switch task.kind {
	case storing:
		t.stores = append(t.stores, task.result)
	case lookingUp:
		t.lookups[task.id] = task.bits
	case loading:
		t.loads[task.id] = task.bits
	}
}

// serve is a worker.
func (t *Tasks) serve(k kind) {
	found := make([]bool, t.effort[k].Batch)
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for len(t.queue[k]) == 0 && !t.closed {
			t.work[k].Wait()
		}
		if t.closed {
			return
		}
		t.batch(k, found)
	}
}

// drain does the first task of the queue, on virtual time.
func (t *Tasks) drain(k kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	found := make([]bool, t.effort[k].Batch)
	for first := t.queue[k][0]; len(t.queue[k]) > 0 && t.queue[k][0] == first; {
		t.batch(k, found)
	}
}

// batch does the next batch of the queue. The caller holds mu, which is free
// while the backend works.
func (t *Tasks) batch(k kind, found []bool) {
	task := t.queue[k][0]
	from := task.next
	to := min(from+t.effort[k].Batch, task.size())
	task.next = to
	t.queued[k] -= to - from
	if to == task.size() {
		t.queue[k][0] = nil
		t.queue[k] = t.queue[k][1:]
	}
	t.mu.Unlock()
	var keys int
	var bytes int64
	var err error
	found = found[:to-from]
	clear(found)
	switch k {
	case storing:
		keys, bytes, err = t.backend.StoreBatch(task.objects[from:to])
	case lookingUp:
		t.backend.LookupBatch(task.keys[from:to], found)
	case loading:
		t.backend.LoadBatch(task.objects[from:to], found)
	}
	t.mu.Lock()
	for i, ok := range found {
		if ok && k != storing {
			task.bits.Set(from + i)
		}
	}
	task.result.Keys += keys
	task.result.Bytes += bytes
	if task.result.Err == nil {
		task.result.Err = err
	}
	if task.left -= to - from; task.left == 0 {
		t.deliver(task)
		t.env.Notify() // under mu, so that it does not come after Close
	}
}

// PopStores is that of Adapter.
func (t *Tasks) PopStores() []StoreResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.stores
	t.stores = nil
	return out
}

// QueryLookup is that of Adapter.
func (t *Tasks) QueryLookup(id TaskID) (kv.Bitmap, bool) { return t.take(t.lookups, id) }

// QueryLoad is that of Adapter.
func (t *Tasks) QueryLoad(id TaskID) (kv.Bitmap, bool) { return t.take(t.loads, id) }

func (t *Tasks) take(from map[TaskID]kv.Bitmap, id TaskID) (kv.Bitmap, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := from[id]
	delete(from, id)
	return b, ok
}

// Close drops what no worker has begun, waits for what they have, and ends
// them. It reports whether this was the first call.
func (t *Tasks) Close() bool {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	for k := range kinds {
		t.queue[k], t.queued[k] = nil, 0
		t.work[k].Broadcast()
	}
	t.mu.Unlock()
	t.workers.Wait()
	return first
}

// DefaultWorkers is how many goroutines a store uses whose configuration does
// not say: enough to keep a device busy, which is more than the processors.
func DefaultWorkers() int { return min(max(4, 2*runtime.GOMAXPROCS(0)), 16) }
