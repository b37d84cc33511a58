package workload_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
)

// heard are the calls that a bus told of.
type heard struct{ calls []string }

func (h *heard) Name() string      { return "heard" }
func (h *heard) Events() event.Set { return event.SetOf(event.CallDispatched) }
func (h *heard) Handle(e *event.Event) error {
	h.calls = append(h.calls, fmt.Sprintf("%s %s keys %d", e.Text, e.Session, len(e.Keys)))
	return nil
}

// The bus hears of every call but queries, with the request that it is for; the
// progress ends where the result does.
func TestBusAndProgress(t *testing.T) {
	bus := event.New(event.Options{Clock: clock.Real{}, QueueSize: 100, Lossless: true})
	var h heard
	bus.Subscribe(&h)
	opt := timedOptions(t)
	opt.Bus, opt.Progress = bus, new(workload.Progress)
	if far := opt.Progress.Load(); far != (workload.Far{}) {
		t.Errorf("before the run: %+v", far)
	}
	res, f, err := run(t, open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{}), opt, slow)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
	want := `
submit_prefetch_task mooncake-0 keys 2
submit_prefetch_task mooncake-1 keys 4
reserve_write mooncake-0 keys 2
finish_write mooncake-0 keys 2
reserve_write mooncake-1 keys 4
finish_write mooncake-1 keys 2
submit_prefetch_task mooncake-2 keys 4
read_prefetched_results.enter mooncake-2 keys 4
read_prefetched_results.exit mooncake-2 keys 4
finish_read_prefetched mooncake-2 keys 4`
	if got := "\n" + strings.Join(h.calls, "\n"); got != want {
		t.Errorf("the bus heard%s\nwant%s\nof the calls\n%s", got, want, calls(f))
	}
	if far := opt.Progress.Load(); far != (workload.Far{Started: int64(res.Requests), Done: int64(res.Completed), Workload: 200 * time.Millisecond}) {
		t.Errorf("at the end: %+v; want %d started, %d done at 200 ms", far, res.Requests, res.Completed)
	}
}
