package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

const (
	maxBytesInFlight = 256 << 20       // of all objects that move at once, unless one alone is larger
	closeGrace       = 5 * time.Second // for what Close finds to be stored
)

// Store is the adapter. It is safe for concurrent use.
type Store struct {
	env    l2.Env
	conn   *conn
	ctx    context.Context // of stores and deletions; ends a while after Close began
	cancel context.CancelFunc
	reads  context.Context // of lookups and loads; ends when Close begins
	cease  context.CancelFunc
	wg     sync.WaitGroup // workers, events that give results, deletions

	mu       sync.Mutex // guards all below
	known    known
	lastID   l2.TaskID
	queues   [kinds][]*task // tasks of which no worker has taken the last item
	queued   [kinds]int     // items in them
	workers  int
	storing  int  // workers with an item of a store task
	wasStore bool // the last item taken was one
	moving   int  // bytes of the items being worked at
	running  map[*task]struct{}
	stores   []l2.StoreResult
	finished [kinds]map[l2.TaskID]kv.Bitmap // of lookups and loads
	closed   bool

	maxMoving int           // maxBytesInFlight; less in tests, as the next
	grace     time.Duration // closeGrace
}

type kind uint8

// Kinds of task, those that somebody waits for first.
const (
	lookingUp kind = iota
	loading
	storing
	kinds
)

// task is a submitted call. An item is one of its objects.
type task struct {
	id      l2.TaskID
	kind    kind
	objects []l2.Object
	items   []int    // that workers have to see to
	next    int      // first of items that no worker has taken
	left    int      // items that have not ended
	ends    []ending // of the items, by object
	bits    kv.Bitmap
	res     l2.StoreResult
	failed  int
	done    chan struct{} // closed when no items are left
	stop    func() bool   // of the event that gives the result
}

// ending is how an item ended. Workers end them in any order; what follows for
// the books is drawn when the task is done, object by object.
type ending struct {
	what outcome
	size int64 // of the object in the store
	err  error // why it failed, of a store
}

type outcome uint8

const (
	failed  outcome = iota // nothing is known
	absent                 // not in the store
	there                  // in the store; of a load: and read
	written                // in the store since now
	unfit                  // in the store, with a size that is of no use
)

// Kind is the registry's entry.
var Kind = l2.Kind{
	Check: func(config []byte) error { _, err := ParseConfig(config); return err },
	New:   New,
}

// New connects to the bucket. It fails when the store does not answer within
// some seconds, does not have the bucket or refuses the credentials.
func New(raw []byte, env l2.Env) (l2.Adapter, error) {
	cfg, err := ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	c, err := dial(cfg, env.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{env: env, conn: c, running: map[*task]struct{}{}, maxMoving: maxBytesInFlight, grace: closeGrace}
	s.finished[lookingUp], s.finished[loading] = map[l2.TaskID]kv.Bitmap{}, map[l2.TaskID]kv.Bitmap{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.reads, s.cease = context.WithCancel(s.ctx)
	if err := c.check(s.ctx); err != nil {
		s.cancel()
		c.close()
		return nil, err
	}
	if env.Found != nil {
		s.list()
	}
	return s, nil
}

// Name returns "s3".
func (s *Store) Name() string { return "s3" }

// SubmitStore writes the objects that are not in the bucket with their size.
func (s *Store) SubmitStore(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &task{kind: storing, objects: slices.Clone(objects)}
	for i := range t.objects {
		if o := s.known.find(&t.objects[i].Key); o == nil || o.size != int64(len(t.objects[i].Bytes)) {
			t.items = append(t.items, i)
		}
	}
	return s.start(t)
}

// PopStores returns the store tasks that completed since the last call.
func (s *Store) PopStores() []l2.StoreResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stores
	s.stores = nil
	return out
}

// SubmitLookup asks the bucket for the keys that this process does not know to
// be there. While the store does not answer, nothing is found.
func (s *Store) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &task{kind: lookingUp, objects: make([]l2.Object, len(keys)), bits: kv.NewBitmap(len(keys))}
	dead := s.conn.breaker.refuses(s.conn.clock.Now())
	for i, k := range keys {
		t.objects[i].Key = k
		if dead {
			continue
		}
		if o := s.known.find(&k); o == nil {
			t.items = append(t.items, i)
		} else if o.size > 0 {
			o.locks++
			t.bits.Set(i)
		}
	}
	return s.start(t)
}

// QueryLookup returns the result of a lookup once.
func (s *Store) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) { return s.take(lookingUp, id) }

// QueryLoad returns the result of a load once.
func (s *Store) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) { return s.take(loading, id) }

func (s *Store) take(k kind, id l2.TaskID) (kv.Bitmap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.finished[k][id]
	delete(s.finished[k], id)
	return b, ok
}

// Unlock takes back one lock of each key. Locks are this process's own.
func (s *Store) Unlock(keys []kv.ObjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range keys {
		s.known.unlock(&keys[i])
	}
}

// SubmitLoad reads the objects that are there with exactly the wanted size. The
// room of one that fails may have been written to.
func (s *Store) SubmitLoad(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &task{kind: loading, objects: slices.Clone(objects), bits: kv.NewBitmap(len(objects))}
	for i := range t.objects {
		t.items = append(t.items, i)
	}
	return s.start(t)
}

// Delete removes keys that are not locked and returns how many were there. It
// waits for the store, thirty seconds a batch at most by default.
func (s *Store) Delete(keys []kv.ObjectKey) int {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0
	}
	s.wg.Add(1)
	defer s.wg.Done()
	byName := map[string]*kv.ObjectKey{}
	var names []string // known to be there
	ask := &task{kind: lookingUp, done: make(chan struct{})}
	for i := range keys {
		k, name := &keys[i], keys[i].String()
		if byName[name] != nil {
			continue
		}
		byName[name] = k
		switch o := s.known.find(k); {
		case o == nil:
			ask.items = append(ask.items, len(ask.objects))
			ask.objects = append(ask.objects, l2.Object{Key: *k})
		case o.locks == 0:
			o.deleting = true
			names = append(names, name)
		}
	}
	// The protocol does not say which of the deleted objects were there.
	s.enqueue(ask)
	s.mu.Unlock()
	<-ask.done
	s.mu.Lock()
	for i := range ask.objects {
		k := &ask.objects[i].Key
		if ask.ends[i].what != there {
			continue
		}
		if o := s.known.learn(k, ask.ends[i].size); o.locks == 0 && !o.deleting {
			o.deleting = true
			names = append(names, k.String())
		}
	}
	s.mu.Unlock()

	n := 0
	for batch := range slices.Chunk(names, deleteBatch) {
		left := map[string]bool{}
		for _, name := range batch {
			left[name] = true
		}
		_ = s.conn.remove(s.ctx, batch, func(name string) { // what is left is there still, which the result says
			delete(left, name)
			s.mu.Lock()
			if s.known.forget(byName[name]) {
				n++
			}
			s.mu.Unlock()
		})
		s.mu.Lock()
		for name := range left {
			s.known.keep(byName[name])
		}
		s.mu.Unlock()
	}
	return n
}

// Usage says how many bytes this process knows to be in the bucket. The
// capacity is the configured one: nothing refuses what exceeds it, as in
// LMCache; it is what an eviction looks at.
func (s *Store) Usage() l2.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l2.Usage{UsedBytes: s.known.bytes, CapacityBytes: s.conn.cfg.CapacityBytes}
}

// Close ends lookups and loads, waits some seconds for what is being stored, and
// ends that too.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for t := range s.running {
		if t.stop() {
			s.wg.Done()
		}
	}
	s.mu.Unlock()
	s.cease()
	grace, stop := context.WithTimeout(context.Background(), s.grace)
	cut := context.AfterFunc(grace, s.cancel)
	s.wg.Wait()
	cut()
	stop()
	s.cancel()
	s.conn.close()
	return nil
}

// start queues a task and arranges that its result is given from an event of
// the clock: on virtual time nothing else may notify, and the event waits for
// the work. The caller holds mu.
func (s *Store) start(t *task) l2.TaskID {
	s.lastID++
	t.id, t.done = s.lastID, make(chan struct{})
	if s.closed {
		return t.id
	}
	s.enqueue(t)
	s.running[t] = struct{}{}
	s.wg.Add(1)
	t.stop = s.env.Clock.AfterFunc(0, func() {
		defer s.wg.Done()
		<-t.done
		s.mu.Lock()
		delete(s.running, t)
		closed := s.closed
		s.settle(t)
		s.mu.Unlock()
		if !closed { // Close waits for this call
			s.env.Notify()
		}
	})
	return t.id
}

// enqueue gives a task's items to workers. What is too far behind fails. The
// caller holds mu.
func (s *Store) enqueue(t *task) {
	t.ends = make([]ending, len(t.objects))
	t.left = len(t.items)
	if s.queued[t.kind] > 0 && s.queued[t.kind]+t.left > l2.MaxQueuedKeys {
		for _, i := range t.items {
			t.ends[i].err = l2.ErrBusy
		}
		t.left = 0
	}
	if t.left == 0 {
		close(t.done)
		return
	}
	s.queues[t.kind] = append(s.queues[t.kind], t)
	s.queued[t.kind] += t.left
	s.hire()
}

// settle enters what a task found into the books and makes its result
// available. The caller holds mu.
func (s *Store) settle(t *task) {
	// What was written comes first: of a key that stands in the task twice the
	// other place may have found it there. Nothing is counted twice: another task
	// may have been first, too.
	for _, i := range t.items {
		k, end := &t.objects[i].Key, &t.ends[i]
		if o := s.known.find(k); end.what == written && (o == nil || o.size != end.size) {
			t.res.Keys++
			t.res.Bytes += end.size
			s.known.learn(k, end.size)
		}
	}
	for _, i := range t.items {
		k, end := &t.objects[i].Key, &t.ends[i]
		switch end.what {
		case failed:
			t.failed++
			if t.res.Err == nil {
				t.res.Err = end.err
			}
		case absent:
			s.known.miss(k)
		case unfit:
			s.known.learn(k, end.size)
		case there, written:
			o := s.known.learn(k, end.size)
			if t.kind == lookingUp {
				o.locks++
			}
			t.bits.Set(i)
		}
	}
	if t.kind != storing {
		s.finished[t.kind][t.id] = t.bits
		return
	}
	t.res.ID = t.id
	if t.failed > 0 {
		t.res.Err = fmt.Errorf("%d of %d objects are not stored: %w", t.failed, len(t.objects), t.res.Err)
	}
	s.stores = append(s.stores, t.res)
}

// hire starts workers while there are items for them. The caller holds mu.
func (s *Store) hire() {
	for s.workers < s.conn.cfg.Threads {
		t, i := s.pick()
		if t == nil {
			return
		}
		s.workers++
		s.wg.Add(1)
		go s.work(t, i)
	}
}

// work sees to items until there are none.
func (s *Store) work(t *task, i int) {
	defer s.wg.Done()
	for t != nil {
		s.do(t, i)
		s.mu.Lock()
		s.moving -= len(t.objects[i].Bytes)
		if t.kind == storing {
			s.storing--
		}
		if t.left--; t.left == 0 {
			close(t.done)
		}
		if t, i = s.pick(); t == nil {
			s.workers--
		} else {
			s.hire() // what ended may have made room for more than one
		}
		s.mu.Unlock()
	}
}

// pick takes the next item, nil if there is none or no room for it. Those of
// lookups and loads come first, because a request waits for them; but one store
// is always going on, and stores never take the last quarter of the workers.
// The caller holds mu.
func (s *Store) pick() (*task, int) {
	mayStore := len(s.queues[storing]) > 0 && s.storing < max(1, s.conn.cfg.Threads*3/4)
	order := []kind{lookingUp, loading, storing}
	if mayStore && s.storing == 0 && !s.wasStore {
		order = []kind{storing, lookingUp, loading}
	}
	for _, k := range order {
		if len(s.queues[k]) == 0 || k == storing && !mayStore {
			continue
		}
		t := s.queues[k][0]
		i := t.items[t.next]
		size := len(t.objects[i].Bytes)
		if s.moving > 0 && s.moving+size > s.maxMoving {
			continue
		}
		if t.next++; t.next == len(t.items) {
			s.queues[k][0] = nil
			s.queues[k] = s.queues[k][1:]
		}
		s.moving += size
		s.queued[k]--
		if s.wasStore = k == storing; s.wasStore {
			s.storing++
		}
		return t, i
	}
	return nil, 0
}

// do sees to one item.
func (s *Store) do(t *task, i int) {
	o := &t.objects[i]
	switch end := &t.ends[i]; t.kind {
	case lookingUp:
		*end = s.lookUp(o.Key.String())
	case loading:
		*end = s.load(o)
	case storing:
		if *end = s.store(o); end.err != nil {
			end.err = fmt.Errorf("%s: %w", o.Key, end.err)
		}
	}
}

func (s *Store) lookUp(name string) ending {
	size, err := s.conn.head(s.reads, name)
	switch {
	case errors.Is(err, errAbsent):
		return ending{what: absent}
	case err == nil && size > 0:
		return ending{what: there, size: size}
	}
	return ending{}
}

func (s *Store) load(o *l2.Object) ending {
	name := o.Key.String()
	err := s.conn.get(s.reads, name, s.payload(o))
	if errors.Is(err, errChecksum) {
		// It would be found and be useless for ever. If it stays, so be it.
		_ = s.conn.remove(s.reads, []string{name}, func(string) { err = errAbsent })
	}
	var size *sizeError
	switch {
	case err == nil:
		return ending{what: there, size: int64(len(o.Bytes))}
	case errors.Is(err, errAbsent):
		return ending{what: absent} // somebody deleted it, or the store lost it
	case errors.As(err, &size) && size.have > 0:
		return ending{what: unfit, size: size.have}
	}
	return ending{}
}

// store writes an object unless the bucket has it with this size. One of another
// size is of no use to anybody, and is written over.
func (s *Store) store(o *l2.Object) ending {
	name, size := o.Key.String(), int64(len(o.Bytes))
	s.mu.Lock()
	missing := s.known.missing(&o.Key)
	s.mu.Unlock()
	if !missing {
		have, err := s.conn.head(s.ctx, name)
		switch {
		case err == nil && have == size:
			return ending{what: there, size: size}
		case err != nil && !errors.Is(err, errAbsent) && !forbidden(err):
			return ending{err: err}
		}
	}
	if err := s.conn.put(s.ctx, name, s.payload(o)); err != nil {
		return ending{err: err}
	}
	return ending{what: written, size: size}
}

func (s *Store) payload(o *l2.Object) payload {
	if s.env.NoPayload {
		return payload{size: len(o.Bytes)}
	}
	return payload{len(o.Bytes), o.Bytes}
}
