package clock_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
)

// journal notes what ran, and when.
type journal struct {
	v     *clock.Virtual
	lines []string
}

func (j *journal) note(what string) { j.lines = append(j.lines, fmt.Sprintf("%d %s", j.v.Now(), what)) }

func (j *journal) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(j.lines, want) {
		t.Errorf("ran %q; want %q", j.lines, want)
	}
	j.lines = nil
}

func newJournal() *journal { return &journal{v: clock.NewVirtual(1_700_000_000_000_000_000)} }

func sleep(t *testing.T, v *clock.Virtual, until int64) {
	t.Helper()
	if err := v.SleepUntil(context.Background(), until); err != nil {
		t.Fatalf("sleep until %d: %v", until, err)
	}
}

func mustPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "from within an event") {
			t.Errorf("panic %v; want one about an advance from within an event", got)
		}
	}()
	f()
}

func TestVirtualOrder(t *testing.T) {
	j := newJournal()
	// Later first, then ties in the order of scheduling; one more than a heap
	// would keep in order by accident.
	for _, e := range []struct {
		d    time.Duration
		name string
	}{{30, "x"}, {10, "a"}, {20, "p"}, {10, "b"}, {-5, "past"}, {10, "c"}, {20, "q"}, {0, "now"}, {10, "d"}, {21, "late"}} {
		j.v.AfterFunc(e.d, func() { j.note(e.name) })
	}
	j.expect(t) // nothing runs by itself
	sleep(t, j.v, 20)
	j.expect(t, "0 past", "0 now", "10 a", "10 b", "10 c", "10 d", "20 p", "20 q")
	if j.v.Now() != 20 || j.v.Wall() != 1_700_000_000_000_000_020 {
		t.Errorf("now %d, wall %d; want 20 and as much after the start", j.v.Now(), j.v.Wall())
	}
	sleep(t, j.v, 5) // passed: time does not go back
	if j.v.Now() != 20 {
		t.Errorf("now %d after sleeping until 5; want 20", j.v.Now())
	}
	for j.v.Next() {
	}
	j.expect(t, "21 late", "30 x")
	if j.v.Now() != 30 {
		t.Errorf("now %d after the last event; want 30", j.v.Now())
	}
}

func TestVirtualEventsScheduleEvents(t *testing.T) {
	j := newJournal()
	j.v.AfterFunc(10, func() {
		j.note("a")
		j.v.AfterFunc(0, func() { j.note("a0") })
		j.v.AfterFunc(5, func() { j.note("a5") })
	})
	j.v.AfterFunc(10, func() { j.note("b") })
	sleep(t, j.v, 12)
	j.expect(t, "10 a", "10 b", "10 a0")
	j.v.AfterFunc(0, func() { j.note("c") })
	j.v.Settle()
	j.expect(t, "12 c")
	sleep(t, j.v, 100)
	j.expect(t, "15 a5")
}

func TestVirtualCancel(t *testing.T) {
	j := newJournal()
	stopA := j.v.AfterFunc(10, func() { j.note("a") })
	stopB := j.v.AfterFunc(10, func() { j.note("b") })
	var stopC, stopSelf func() bool
	stopSelf = j.v.AfterFunc(11, func() {
		j.note("self")
		if stopSelf() {
			t.Error("a running event was stopped")
		}
		if !stopC() {
			t.Error("an event of the same time was not stopped")
		}
	})
	stopC = j.v.AfterFunc(11, func() { j.note("c") })
	if !stopA() || stopA() {
		t.Error("stop of a: want true, then false")
	}
	sleep(t, j.v, 20)
	j.expect(t, "10 b", "11 self")
	if stopB() || stopC() {
		t.Error("stop after the run, or after a stop, reports true")
	}
}

// TestVirtualCancelMany removes from the middle of the queue, which must stay a
// heap with true indices.
func TestVirtualCancelMany(t *testing.T) {
	j := newJournal()
	var stops []func() bool
	var want []string
	for i := range 200 {
		at := i * 37 % 200
		stops = append(stops, j.v.AfterFunc(time.Duration(at), func() { j.note("") }))
	}
	for i := range 200 {
		if at := i * 37 % 200; at%3 == 0 {
			if !stops[i]() {
				t.Fatalf("event %d was not stopped", i)
			}
		}
	}
	for at := range 200 {
		if at%3 != 0 {
			want = append(want, fmt.Sprintf("%d ", at))
		}
	}
	sleep(t, j.v, 1000)
	j.expect(t, want...)
}

func TestVirtualContext(t *testing.T) {
	j := newJournal()
	ctx, cancel := context.WithCancelCause(context.Background())
	j.v.AfterFunc(10, func() { j.note("a"); cancel(errors.New("enough")) })
	j.v.AfterFunc(15, func() { j.note("b") })
	if err := j.v.SleepUntil(ctx, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep: %v; want canceled", err)
	}
	j.expect(t, "10 a")
	if j.v.Now() != 10 {
		t.Errorf("now %d; want 10, when the context ended", j.v.Now())
	}
	// A context that ended before lets nothing happen.
	if err := j.v.SleepUntil(ctx, 100); !errors.Is(err, context.Canceled) || j.v.Now() != 10 {
		t.Errorf("sleep: %v at %d; want canceled at 10", err, j.v.Now())
	}
	sleep(t, j.v, 100)
	j.expect(t, "15 b")
}

func TestVirtualNestedAdvancePanics(t *testing.T) {
	for name, advance := range map[string]func(v *clock.Virtual){
		"SleepUntil later":  func(v *clock.Virtual) { _ = v.SleepUntil(context.Background(), 50) },
		"SleepUntil passed": func(v *clock.Virtual) { _ = v.SleepUntil(context.Background(), 0) },
		"Settle":            func(v *clock.Virtual) { v.Settle() },
		"Next":              func(v *clock.Virtual) { v.Next() },
	} {
		t.Run(name, func(t *testing.T) {
			// With an empty queue, too: whether it panics must not depend on
			// what happens to be due.
			v := clock.NewVirtual(0)
			v.AfterFunc(10, func() { advance(v) })
			mustPanic(t, func() { v.Next() })
			if v.Now() != 10 {
				t.Errorf("now %d; want 10", v.Now())
			}
			// The clock is usable after the event that panicked.
			sleep(t, v, 20)

			v = clock.NewVirtual(0)
			v.Go(5, func(int64) int64 { advance(v); return clock.Never })
			mustPanic(t, func() { sleep(t, v, 20) })
		})
	}
}

func TestVirtualFarFuture(t *testing.T) {
	j := newJournal()
	sleep(t, j.v, 1000)
	stop := j.v.AfterFunc(math.MaxInt64, func() { j.note("never") })
	sleep(t, j.v, 1<<62)
	j.expect(t)
	if !stop() {
		t.Error("the event of the end of time has run")
	}
}

func TestVirtualTask(t *testing.T) {
	j := newJournal()
	next := int64(0) // what the step returns, relative to now; 0 for Never
	task := j.v.Go(10, func(now int64) int64 {
		if now != j.v.Now() {
			t.Errorf("step got %d at %d", now, j.v.Now())
		}
		j.note("step")
		if next == 0 {
			return clock.Never
		}
		return now + next
	})

	next = 10
	sleep(t, j.v, 35)
	j.expect(t, "10 step", "20 step", "30 step")

	task.Wake() // earlier than its time
	task.Wake() // and only once
	j.expect(t) // not before time is advanced or settled
	j.v.Settle()
	j.expect(t, "35 step")
	sleep(t, j.v, 44)
	j.expect(t) // the old time, 40, does not count any more

	next = 0
	sleep(t, j.v, 1000)
	j.expect(t, "45 step")
	task.Wake()
	sleep(t, j.v, 1001)
	j.expect(t, "1000 step")

	next = -5 // a time that has passed is now
	task.Wake()
	j.v.AfterFunc(0, func() { next = 0 })
	j.v.Settle()
	j.expect(t, "1001 step", "1001 step")

	task.Wake()
	task.Stop()
	task.Stop()
	task.Wake()
	sleep(t, j.v, 2000)
	j.expect(t)
	if j.v.Next() {
		t.Error("an event is left after Stop")
	}
}

func TestVirtualTaskStartsWithWake(t *testing.T) {
	j := newJournal()
	task := j.v.Go(clock.Never, func(int64) int64 { j.note("step"); return clock.Never })
	sleep(t, j.v, 100)
	j.expect(t)
	j.v.AfterFunc(7, task.Wake)
	sleep(t, j.v, 200)
	j.expect(t, "107 step")
}

// TestVirtualWakeWithinStep: a wake is never lost, and the step that got it
// does not run inside itself.
func TestVirtualWakeWithinStep(t *testing.T) {
	j := newJournal()
	var task clock.Task
	steps, inside := 0, false
	task = j.v.Go(10, func(now int64) int64 {
		if inside {
			t.Fatal("steps of one task overlap")
		}
		inside = true
		defer func() { inside = false }()
		steps++
		j.note(fmt.Sprint("step ", steps))
		if steps == 1 {
			task.Wake()
			task.Wake()
		}
		return now + 50
	})
	j.v.AfterFunc(10, func() { j.note("between") })
	sleep(t, j.v, 60)
	j.expect(t, "10 step 1", "10 between", "10 step 2", "60 step 3")
}

// TestVirtualTwoTasks wakes one task from the other, as controllers do.
func TestVirtualTwoTasks(t *testing.T) {
	j := newJournal()
	var consumer clock.Task
	queue := 0
	producer := j.v.Go(0, func(now int64) int64 {
		queue++
		j.note("produce")
		consumer.Wake()
		return now + 10
	})
	consumer = j.v.Go(clock.Never, func(int64) int64 {
		j.note(fmt.Sprint("consume ", queue))
		queue = 0
		return clock.Never
	})
	sleep(t, j.v, 20)
	j.expect(t, "0 produce", "0 consume 1", "10 produce", "10 consume 1", "20 produce", "20 consume 1")
	producer.Stop()
	sleep(t, j.v, 100)
	j.expect(t)
}
