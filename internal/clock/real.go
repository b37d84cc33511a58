package clock

import (
	"context"
	"sync"
	"time"
)

// Real is the machine's clock. The zero value is ready, all values are the
// same clock, and it is safe for concurrent use.
//
// Now is the runtime's monotonic clock (vDSO, no system call). Wall can be set
// back by the machine's administrator, Now cannot.
type Real struct{}

// base is the origin of Now.
var base = time.Now()

// Now returns the ns since the process started.
func (Real) Now() int64 { return int64(time.Since(base)) }

// Wall returns the Unix time in ns.
func (Real) Wall() int64 { return time.Now().UnixNano() }

const (
	// coarseNS is the longest wait that is left to the precise sleep alone: it
	// occupies a thread and does not see ctx, so it must stay below what a
	// user notices as a delay of Ctrl-C.
	coarseNS = int64(10 * time.Millisecond)
	// marginNS is how much earlier the runtime's timer ends a longer wait. It
	// is late by up to a millisecond, because the poller rounds up to one.
	marginNS = int64(4 * time.Millisecond)
	// spinNS is the end of a wait that is spent reading the clock: about what
	// a sleeping thread needs to run again.
	spinNS = int64(60 * time.Microsecond)
	// maxSpins bounds the reading should the clock stand still, as it does in
	// a synctest bubble. It is many times what spinNS has room for.
	maxSpins = 1 << 16
)

// SleepUntil waits for time t. A wait of more than 10 ms is left to the
// runtime's timer until shortly before t, and ends with ctx; the rest sleeps
// in the kernel with the smallest timer slack and spins for the last 60 µs. It
// is late by less than a microsecond where the machine has a CPU to spare.
//
// A caller that sleeps often should hold its thread (runtime.LockOSThread): the
// runtime then has no other work for the thread when the kernel wakes it.
func (c Real) SleepUntil(ctx context.Context, t int64) error {
	if t <= c.Now() {
		return ctx.Err()
	}
	for t-c.Now() > coarseNS {
		if err := wait(ctx, time.Duration(t-c.Now()-marginNS)); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t-c.Now() > spinNS {
		sleepKernel(t - spinNS)
	}
	for range maxSpins {
		if c.Now() >= t {
			return ctx.Err()
		}
	}
	for t > c.Now() {
		if err := wait(ctx, time.Duration(t-c.Now())); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// wait waits for d on the runtime's timer, or for ctx and returns its error.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait waits for done, or for ctx and returns its error.
func (Real) Wait(ctx context.Context, done <-chan struct{}) error { return await(ctx, done) }

func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done: // wins over a ctx that has ended
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AfterFunc runs f on a goroutine of its own after d.
func (Real) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return time.AfterFunc(d, f).Stop
}

// Go drives step on a goroutine that ends with Stop.
func (c Real) Go(first int64, step func(now int64) (next int64)) Task {
	t := &realTask{wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go t.run(c, first, step)
	return t
}

type realTask struct {
	wake     chan struct{} // holds one wake that no step has seen yet
	stop     chan struct{} // closed by Stop
	stopOnce sync.Once
	done     chan struct{} // closed when the goroutine ends
}

func (t *realTask) run(c Real, next int64, step func(now int64) int64) {
	defer close(t.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due := timer.C
		if next == Never {
			due = nil
		} else {
			timer.Reset(time.Duration(max(next-c.Now(), 0))) // no stale firing: since Go 1.23 Reset discards it
		}
		select {
		case <-t.stop:
			return
		case <-t.wake:
		case <-due:
		}
		select { // Stop wins over a wake or a timer at the same moment
		case <-t.stop:
			return
		default:
		}
		next = step(c.Now())
	}
}

func (t *realTask) Wake() {
	select {
	case t.wake <- struct{}{}:
	default: // a wake is pending: the step that takes it comes after this call
	}
}

func (t *realTask) Stop() {
	t.stopOnce.Do(func() { close(t.stop) })
	<-t.done
}
