package clock

import (
	"container/heap"
	"context"
	"sync/atomic"
	"time"
)

// Virtual is simulated time. It advances only in SleepUntil, Wait, Next and Settle,
// and runs what is due on the calling goroutine: by time, then in the order of
// scheduling. It belongs to one goroutine; others may ask for the time only.
type Virtual struct {
	now     atomic.Int64 // stored by the owner
	wall    int64        // Unix time at now = 0
	seq     uint64
	queue   eventQueue
	running bool // inside an event: a nested advance would run events out of order
}

// NewVirtual returns a clock at monotonic time 0 that shows the Unix time
// wall (ns).
func NewVirtual(wall int64) *Virtual { return &Virtual{wall: wall} }

// Now returns the simulated monotonic time.
func (v *Virtual) Now() int64 { return v.now.Load() }

// Wall returns the simulated Unix time.
func (v *Virtual) Wall() int64 { return v.wall + v.Now() }

// SleepUntil advances to t and runs what is due up to and including t. When ctx
// ends on the way, time stays where it ended. It panics within an event, where
// time stands still: what waits there would run later events before earlier ones.
func (v *Virtual) SleepUntil(ctx context.Context, t int64) error {
	v.mustBeOutside()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(v.queue) == 0 || v.queue[0].at > t {
			v.now.Store(max(v.Now(), t))
			return nil
		}
		v.next()
	}
}

// Settle runs everything that is due at the present time.
func (v *Virtual) Settle() { _ = v.SleepUntil(context.Background(), v.Now()) }

// Wait runs what is due, advancing as far as it must, until done is closed.
func (v *Virtual) Wait(ctx context.Context, done <-chan struct{}) error {
	v.mustBeOutside()
	for len(v.queue) > 0 {
		select {
		case <-done:
			return nil
		default:
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		v.next()
	}
	return await(ctx, done)
}

// Next runs the next event, advancing to its time, and reports whether there
// was one.
func (v *Virtual) Next() bool {
	v.mustBeOutside()
	if len(v.queue) == 0 {
		return false
	}
	v.next()
	return true
}

func (v *Virtual) mustBeOutside() {
	if v.running {
		panic("clock: virtual time advanced from within an event")
	}
}

func (v *Virtual) next() {
	e := heap.Pop(&v.queue).(*event)
	v.now.Store(max(v.Now(), e.at))
	v.running = true
	defer func() { v.running = false }()
	e.run()
}

// AfterFunc schedules f. A d that leads past the end of time leads to Never.
func (v *Virtual) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	at := int64(Never)
	if d := max(int64(d), 0); d < Never-v.Now() {
		at = v.Now() + d
	}
	e := v.schedule(at, f)
	return func() bool { return v.cancel(e) }
}

// Go drives step on this clock.
func (v *Virtual) Go(first int64, step func(now int64) (next int64)) Task {
	t := &virtualTask{clock: v, step: step}
	t.at(first)
	return t
}

type virtualTask struct {
	clock   *Virtual
	step    func(now int64) int64
	pending *event // nil when nothing is scheduled
	stopped bool
}

func (t *virtualTask) at(when int64) {
	if when == Never || t.stopped {
		return
	}
	t.pending = t.clock.schedule(max(when, t.clock.Now()), t.run)
}

func (t *virtualTask) run() {
	t.pending = nil
	next := t.step(t.clock.Now())
	if t.pending == nil { // else it was woken from within its own step
		t.at(next)
	}
}

func (t *virtualTask) Wake() {
	if t.pending != nil {
		if t.pending.at <= t.clock.Now() {
			return
		}
		t.clock.cancel(t.pending)
		t.pending = nil
	}
	t.at(t.clock.Now())
}

func (t *virtualTask) Stop() {
	t.stopped = true
	if t.pending != nil {
		t.clock.cancel(t.pending)
		t.pending = nil
	}
}

type event struct {
	at    int64
	seq   uint64
	run   func()
	index int // in the queue, -1 when out of it
}

func (v *Virtual) schedule(at int64, run func()) *event {
	v.seq++
	e := &event{at: at, seq: v.seq, run: run}
	heap.Push(&v.queue, e)
	return e
}

func (v *Virtual) cancel(e *event) bool {
	if e.index < 0 {
		return false
	}
	heap.Remove(&v.queue, e.index)
	return true
}

// eventQueue is a heap by time, then by order of scheduling.
type eventQueue []*event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *eventQueue) Push(x any) {
	e := x.(*event)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}
