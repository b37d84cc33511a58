package resp

import (
	"errors"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// A pipeline's bounds. A task is spread over the workers in parts of at least
// minBatchBytes, as long as none is larger than maxBatchBytes.
const (
	batchKeys     = 256
	maxQueuedKeys = 1 << 18 // of a kind of task; what comes on top fails at once
	minBatchBytes = 512 << 10
	maxBatchBytes = 4 << 20
)

var (
	errClosed = errors.New("the store is closed")
	errBusy   = errors.New("the store is too far behind")
)

type op int

const (
	lookingUp op = iota
	loading
	storing
	deleting // never queued
	kinds
)

func (k op) String() string { return [...]string{"look up", "load", "store", "delete"}[k] }

// task is a submitted task. Objects and keys are the caller's; what is below
// them is guarded by Store.mu.
type task struct {
	kind    op
	id      l2.TaskID
	objects []l2.Object    // of a load and a store
	keys    []kv.ObjectKey // of a lookup

	left   int       // batches that have not completed
	bits   kv.Bitmap // of a lookup and a load
	stored []bool    // of a store: is there now; each batch writes its part
	result l2.StoreResult
}

func (t *task) size() int { return max(len(t.objects), len(t.keys)) }

// batch is the part [from, to) of a task: one pipeline.
type batch struct {
	t        *task
	from, to int
}

// queue is first in, first out.
type queue struct {
	batches []batch
	head    int
	keys    int
}

func (q *queue) len() int { return len(q.batches) - q.head }

func (q *queue) push(b batch) {
	q.batches = append(q.batches, b)
	q.keys += b.to - b.from
}

func (q *queue) pop() batch {
	b := q.batches[q.head]
	q.batches[q.head] = batch{}
	q.keys -= b.to - b.from
	if q.head++; q.head == len(q.batches) {
		q.batches, q.head = q.batches[:0], 0
	} else if q.head >= 1024 && 2*q.head >= len(q.batches) { // a queue that never empties must not grow
		n := copy(q.batches, q.batches[q.head:])
		clear(q.batches[n:])
		q.batches, q.head = q.batches[:n], 0
	}
	return b
}

// cut splits a task into batches for a number of workers.
func (t *task) cut(workers int) []batch {
	var out []batch
	if t.kind == lookingUp {
		for from := 0; from < len(t.keys); from += batchKeys {
			out = append(out, batch{t, from, min(from+batchKeys, len(t.keys))})
		}
		return out
	}
	total := 0
	for i := range t.objects {
		total += len(t.objects[i].Bytes)
	}
	most := min(max(total/workers, minBatchBytes), maxBatchBytes)
	from, bytes := 0, 0
	for i := range t.objects {
		size := len(t.objects[i].Bytes)
		if i > from && (bytes+size > most || i-from == batchKeys) {
			out = append(out, batch{t, from, i})
			from, bytes = i, 0
		}
		bytes += size
	}
	if from < len(t.objects) {
		out = append(out, batch{t, from, len(t.objects)})
	}
	return out
}

// submit queues a task. It never waits.
//
// On a virtual clock there are no workers: an event of the clock does the task,
// so that real traffic takes no time there and comes in the order of submission.
func (s *Store) submit(t *task) l2.TaskID {
	batches := t.cut(s.opt.Workers)
	t.left = len(batches)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	t.id = s.lastID
	t.result.ID = t.id
	switch q := &s.queues[t.kind]; {
	case s.closed:
		t.result.Err = errClosed
		s.publish(t)
	case q.keys > 0 && q.keys+t.size() > maxQueuedKeys:
		t.result.Err = errBusy
		s.later(func() { s.settle(t) })
	case len(batches) == 0:
		s.later(func() { s.settle(t) })
	case s.virtual:
		s.later(func() {
			for _, b := range batches {
				s.settle(t, s.run(b))
			}
		})
	default:
		for _, b := range batches {
			q.push(b)
		}
		if len(batches) == 1 {
			s.wake.Signal()
		} else {
			s.wake.Broadcast()
		}
	}
	return t.id
}

// later runs f soon, outside the caller's locks, and not after Close.
func (s *Store) later(f func()) {
	if !s.virtual { // there the event may never come, and Close cannot overlap it
		s.running.Add(1)
	}
	s.env.Clock.AfterFunc(0, func() {
		if !s.virtual {
			defer s.running.Done()
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if !closed {
			f()
		}
	})
}

// settle adds outcomes of batches to a task, and completes it with the last.
func (s *Store) settle(t *task, outcomes ...func()) {
	s.mu.Lock()
	for _, add := range outcomes {
		add()
	}
	done := t.left == 0 || len(outcomes) == 0
	if done {
		s.publish(t)
	}
	s.mu.Unlock()
	if done {
		s.env.Notify()
	}
}

// publish makes a task's result available; the caller holds mu.
func (s *Store) publish(t *task) {
	switch t.kind {
	case storing:
		s.index.endStore(t.objects, t.stored)
		s.stores = append(s.stores, t.result)
	case loading:
		s.loads[t.id] = t.bits
	case lookingUp:
		s.lookups[t.id] = t.bits
	}
}

// next takes the next batch; the caller holds mu. Lookups go first, and one
// worker is left for them: an answer about keys must not wait for megabytes.
// Loads and stores take turns.
func (s *Store) next() (batch, bool) {
	if s.queues[lookingUp].len() > 0 {
		return s.queues[lookingUp].pop(), true
	}
	if s.moving >= max(1, s.opt.Workers-1) {
		return batch{}, false
	}
	s.turn = loading + storing - s.turn
	if s.queues[s.turn].len() == 0 {
		s.turn = loading + storing - s.turn
	}
	if s.queues[s.turn].len() == 0 {
		return batch{}, false
	}
	s.moving++
	return s.queues[s.turn].pop(), true
}

// work is a worker's life: it ends when the store is closed and nothing that
// it may take is queued.
func (s *Store) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		b, ok := s.next()
		switch {
		case ok:
			s.mu.Unlock()
			s.settle(b.t, s.run(b))
			s.mu.Lock()
			if b.t.kind != lookingUp {
				s.moving--
			}
		case s.closed:
			return
		default:
			s.wake.Wait()
		}
	}
}

// run sends a batch. What it returns adds the outcome to the task, under mu.
func (s *Store) run(b batch) func() {
	t := b.t
	set := func(bits []bool) func() {
		return func() {
			t.left--
			for i, ok := range bits {
				if ok {
					t.bits.Set(b.from + i)
				}
			}
		}
	}
	switch t.kind {
	case lookingUp:
		return set(s.lookup(t.keys[b.from:b.to]))
	case loading:
		return set(s.load(t.objects[b.from:b.to]))
	}
	keys, bytes, err := s.store(t.objects[b.from:b.to], t.stored[b.from:b.to])
	return func() {
		t.left--
		t.result.Keys += keys
		t.result.Bytes += bytes
		if t.result.Err == nil {
			t.result.Err = err
		}
	}
}
