// Package clock is the only source of time: everything that waits, measures
// a TTL or schedules work is given a [Clock]. [Real] is the machine's; [Virtual]
// runs the same code on simulated time, in one goroutine, in a fixed order.
//
// A controller is a state machine with a step. [Clock.Go] drives it: on the real
// clock a goroutine steps it when it is woken or its time has come, on a virtual
// clock the one that advances time does.
package clock

import (
	"context"
	"math"
	"time"
)

// Never is a time that does not come: the step that returns it waits for a Wake.
const Never = math.MaxInt64

// Clock tells time and runs what is due. Times are nanoseconds.
type Clock interface {
	// Now returns the monotonic time in ns from an origin of the clock's own.
	Now() int64
	// Wall returns the Unix time in ns.
	Wall() int64
	// SleepUntil returns at monotonic time t or a little after it, never
	// before; at once if t has passed. It returns ctx's error when ctx ends
	// first. On a virtual clock it advances time to t and runs on the way
	// what becomes due.
	SleepUntil(ctx context.Context, t int64) error
	// Wait returns when done is closed, or with ctx's error when ctx ends first.
	// On a virtual clock it runs what becomes due until then; where nothing is
	// left to run, somebody else must close done.
	Wait(ctx context.Context, done <-chan struct{}) error
	// AfterFunc runs f once after d, on a goroutine of its own (real) or on
	// the one that advances time (virtual). stop reports whether it
	// prevented the run.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
	// Go drives step until the task is stopped. step gets the current time
	// and returns when it wants to run again at the latest; it also runs
	// after a Wake. One task's steps never overlap. The first step comes at
	// time first (Never: with the first Wake).
	Go(first int64, step func(now int64) (next int64)) Task
}

// Task is a driven state machine.
type Task interface {
	// Wake makes the step run soon. It never blocks, and may be called from
	// any goroutine and from within a step.
	Wake()
	// Stop ends the task and waits for a running step, so it must not be
	// called from within one. It may be called twice.
	Stop()
}
