package clock_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ clock.Clock = clock.Real{}

func TestRealNeverEarly(t *testing.T) {
	var c clock.Real
	for _, d := range []time.Duration{0, -time.Second, 1, 100, time.Microsecond, 59 * time.Microsecond, 61 * time.Microsecond,
		300 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 11 * time.Millisecond} {
		for range 5 {
			due := c.Now() + int64(d)
			if err := c.SleepUntil(t.Context(), due); err != nil {
				t.Fatalf("SleepUntil(now+%v): %v", d, err)
			}
			if early := due - c.Now(); early > 0 {
				t.Errorf("SleepUntil(now+%v) returned %d ns early", d, early)
			}
		}
	}
}

func TestRealSleepEndsWithContext(t *testing.T) {
	var c clock.Real
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	begin := c.Now()
	if err := c.SleepUntil(ctx, begin+int64(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("SleepUntil = %v; want %v", err, context.Canceled)
	}
	for _, d := range []int64{-1, 0, int64(time.Microsecond), int64(5 * time.Millisecond), int64(time.Hour)} {
		if err := c.SleepUntil(ctx, c.Now()+d); !errors.Is(err, context.Canceled) {
			t.Errorf("SleepUntil(now+%d ns) with a dead context = %v; want %v", d, err, context.Canceled)
		}
	}
}

// In a bubble the kernel's time goes on and Now stands still until all wait.
func TestRealSleepInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Real
		for _, d := range []time.Duration{time.Microsecond, time.Millisecond, time.Hour} {
			due := c.Now() + int64(d)
			if err := c.SleepUntil(t.Context(), due); err != nil {
				t.Fatal(err)
			}
			if got := c.Now(); got != due {
				t.Errorf("slept %v until %d ns; want %d", d, got, due)
			}
		}
	})
}

func TestRealTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Real
		start := c.Now()
		var at []time.Duration // owned by the task until Stop
		task := c.Go(start+int64(time.Second), func(now int64) int64 {
			at = append(at, time.Duration(now-start))
			if len(at) >= 3 {
				return clock.Never
			}
			return now + int64(time.Minute)
		})
		time.Sleep(90 * time.Second) // steps at 1 s and 61 s
		task.Wake()                  // and at 90 s
		synctest.Wait()
		time.Sleep(time.Hour) // waits for a wake
		task.Wake()
		task.Wake()
		synctest.Wait()
		task.Stop()
		task.Stop()
		task.Wake()
		time.Sleep(time.Hour)
		want := []time.Duration{time.Second, 61 * time.Second, 90 * time.Second, 3690 * time.Second}
		if len(at) == len(want)+1 { // the second wake may come while the step runs
			want = append(want, want[len(want)-1])
		}
		if !slices.Equal(at, want) {
			t.Errorf("steps at %v; want %v", at, want)
		}
	})
}

func TestRealTaskWakeFromStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Real
		var steps atomic.Int32
		ready := make(chan clock.Task, 1)
		task := c.Go(c.Now(), func(int64) int64 {
			if steps.Add(1) == 1 {
				(<-ready).Wake()
			}
			return clock.Never
		})
		ready <- task
		synctest.Wait()
		if got := steps.Load(); got != 2 {
			t.Errorf("%d steps; want 2", got)
		}
		task.Stop()
	})
}

func TestRealStopWaitsForStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Real
		entered, ended := make(chan struct{}), false
		task := c.Go(c.Now(), func(int64) int64 {
			close(entered)
			time.Sleep(time.Second)
			ended = true
			return 0 // due at once: Stop must win
		})
		<-entered
		task.Stop()
		if !ended {
			t.Error("Stop returned while a step ran")
		}
	})
}

func TestRealAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Real
		ran := 0
		c.AfterFunc(time.Second, func() { ran++ })
		stop := c.AfterFunc(time.Second, func() { ran += 10 })
		if !stop() {
			t.Error("stop = false before the time; want true")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if ran != 1 {
			t.Errorf("ran = %d; want 1", ran)
		}
	})
}

func BenchmarkRealNow(b *testing.B) {
	var c clock.Real
	for b.Loop() {
		_ = c.Now()
	}
}

// BenchmarkPacing measures how late a waiter wakes after a millisecond. The two
// ways to wait take turns, so that both meet the same machine.
//
//	go test ./internal/clock -run '^$' -bench Pacing -benchtime 2000x
func BenchmarkPacing(b *testing.B) {
	var c clock.Real
	ways := []struct {
		name  string
		until func(t int64)
		late  []int64
	}{
		{"SleepUntil", func(t int64) { _ = c.SleepUntil(context.Background(), t) }, nil},
		{"time.Sleep", func(t int64) { time.Sleep(time.Duration(t - c.Now())) }, nil},
	}
	for b.Loop() {
		for i := range ways {
			w := &ways[i]
			due := c.Now() + int64(time.Millisecond)
			w.until(due)
			w.late = append(w.late, c.Now()-due)
		}
	}
	for _, w := range ways {
		slices.Sort(w.late)
		b.ReportMetric(float64(w.late[len(w.late)/2]), w.name+"-p50-late-ns")
		b.ReportMetric(float64(w.late[len(w.late)*99/100]), w.name+"-p99-late-ns")
	}
}
