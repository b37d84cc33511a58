package sm_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// eventLog writes down every event of a storage manager, one line each.
type eventLog struct {
	lines []string
	kinds event.Set
}

func (l *eventLog) Name() string      { return "eventLog" }
func (l *eventLog) Events() event.Set { return ^event.Set(0) }

func (l *eventLog) Handle(e *event.Event) error {
	l.kinds |= event.SetOf(e.Type)
	var b strings.Builder
	b.WriteString(e.Type.String())
	if len(e.Keys)+len(e.Failed) > 0 {
		fmt.Fprintf(&b, " %d", len(e.Keys))
	}
	if len(e.Failed) > 0 {
		fmt.Fprintf(&b, "/%d", len(e.Failed))
	}
	if len(e.Sizes) > 0 {
		sum := int64(0)
		for _, n := range e.Sizes {
			sum += n
		}
		fmt.Fprintf(&b, " of %d MiB", sum/objectBytes)
		if len(e.Sizes) != len(e.Keys) {
			b.WriteString(" SIZES")
		}
	}
	for _, text := range []string{e.Tag, e.During, e.Reason, e.L2Name} {
		if text != "" {
			b.WriteString(" " + text)
		}
	}
	byL1 := strings.HasPrefix(e.Type.String(), "l1.") && e.During == "" // the failures are told by who called it
	if byL1 && e.L1Tag != sm.DefaultTag {
		b.WriteString(" NO TAG")
	}
	if e.Session != "" {
		fmt.Fprintf(&b, " for %s#%d", e.Session, e.RequestID)
	}
	if e.Triggered {
		b.WriteString(" triggered")
	}
	l.lines = append(l.lines, b.String())
	return nil
}

// watchedRig is a rig whose events are written down.
type watchedRig struct {
	rig
	bus *event.Bus
	log *eventLog
}

func newWatchedRig(t *testing.T, objects int64, opt sm.Options, change func(*sm.Config)) *watchedRig {
	t.Helper()
	clk := clock.NewVirtual(1e18)
	w := &watchedRig{log: new(eventLog), bus: event.New(event.Options{Clock: clk, QueueSize: 64, Lossless: true})}
	w.bus.Subscribe(w.log)
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = objects*objectBytes, "LRU"
	if change != nil {
		change(&cfg)
	}
	opt.Clock, opt.Memory, opt.Bus = clk, sm.RealMemory, w.bus
	if opt.Adapters == nil {
		opt.Adapters = l2.Registry{"mock": mock.Kind}
	}
	m, err := sm.New(cfg, opt)
	if err != nil {
		t.Fatal(err)
	}
	w.rig = rig{m, clk, t}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := w.bus.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// take returns the events since the last call.
func (w *watchedRig) take() []string {
	w.bus.Flush()
	lines := w.log.lines
	w.log.lines = nil
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "l1.eviction.loop_tick") })
}

func (w *watchedRig) expect(what string, want ...string) {
	w.t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		w.t.Errorf("%s:\ngot\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (w *watchedRig) sleep(d time.Duration) {
	w.t.Helper()
	if err := w.clk.SleepUntil(w.t.Context(), w.clk.Now()+int64(d)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watchedRig) write(list []kv.ObjectKey) {
	w.t.Helper()
	if _, err := w.ReserveWrite(list, layout, kv.ModeNew); err != nil {
		w.t.Fatal(err)
	}
	w.FinishWrite(list)
}

// TestEvents holds what every call publishes, and in which order, against the
// reference: observability.md, sections 2.1 to 2.7.
func TestEvents(t *testing.T) {
	var lines bytes.Buffer // the simulation runs one step at a time, so nobody writes while it is read
	w := newWatchedRig(t, 16, sm.Options{Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(c *sm.Config) {
		c.L2Adapters = []string{`{"type":"mock","max_size_gb":0.0079,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"LRU","trigger_watermark":0.7,"eviction_ratio":0.5}}`}
		c.Eviction.Watermark, c.Eviction.Ratio = 0.7, 0.25
	})
	w.take()

	w.write(span(0, 8))
	w.sleep(100 * time.Millisecond)
	w.expect("a write and its copy",
		"l1.write.reserved 8 storage_manager", "sm.write.reserved 8",
		"l1.write.finished 8 of 8 MiB", "sm.write.finished 8",
		"l1.read.reserved 8", "l2.store.submitted 8 mock",
		"l1.read.finished 8", "l1.keys.evicted",
		"l2.keys.stored 8 of 8 MiB mock", "l2.store.completed 8 mock")

	if _, err := w.ReserveWrite(span(0, 4), layout, kv.ModeNew); err != nil {
		t.Fatal(err)
	}
	w.expect("keys that are there", "sm.write.reserved 0/4")
	if _, err := w.ReserveWrite(span(20, 40), layout, kv.ModeNew); err != nil {
		t.Fatal(err)
	}
	w.expect("out of memory", "l1.write.reserved storage_manager", "sm.write.reserved 0/20", "l1.allocation.failed 20 l1_store")
	w.FinishWrite(span(50, 52))
	w.expect("nothing reserved", "sm.write.finished 0/2")
	w.FinishWrite(nil)
	w.expect("nothing at all", "sm.write.finished")

	h, err := w.SubmitPrefetchTask(spec(span(0, 2), 1), "req-a", false)
	if err != nil {
		t.Fatal(err)
	}
	w.sleep(100 * time.Millisecond)
	w.expect("a prefetch that L1 has",
		"l1.read.reserved 2", "l2.prefetch.lookup.submitted 2 for req-a#0", "l1.keys.accessed 2", "sm.prefetch.completed for req-a#0")
	if _, ok := w.QueryPrefetchStatus(h); !ok {
		t.Error("no result")
	}
	w.ReadPrefetched(span(0, 2)).Exit(nil)
	w.expect("a clean read")
	w.FinishReadPrefetched(span(0, 2), 1)
	w.expect("its end", "l1.read.finished 2", "l1.keys.evicted", "sm.read.prefetched_finished 2")
	w.ReadPrefetched(append(span(0, 1), keys(99)...)).Exit(nil)
	w.expect("a read that is refused",
		"l1.read.failed 1 l1_retrieve not_found", "l1.read.failed 1 l1_retrieve write_locked", "sm.read.prefetched_finished")

	w.Clear(false)
	w.expect("clear", "l1.keys.evicted 8 of 8 MiB")
	if _, err := w.SubmitPrefetchTask(spec(span(6, 10), 1), "req-b", false); err != nil { // 8 and 9 are nowhere
		t.Fatal(err)
	}
	w.sleep(100 * time.Millisecond)
	w.expect("a prefetch that loads",
		"l1.read.reserved", "l2.prefetch.lookup.submitted 4 for req-b#1",
		"l1.write.reserved 2 prefetch", "l2.load_task.submitted mock for req-b#1", "l2.prefetch.load.submitted 2 for req-b#1",
		"l2.keys.accessed 2 mock", "l1.write_finished_and_read_reserved 2 of 2 MiB",
		"l2.load_task.completed mock for req-b#1", "l2.prefetch.load.completed 2 mock for req-b#1",
		"l1.keys.accessed 2", "sm.prefetch.completed for req-b#1")
	w.FinishReadPrefetched(span(6, 8), 1)
	w.expect("temporary objects go with their last reader",
		"l1.read.finished 2", "l1.keys.evicted 2 of 2 MiB", "sm.read.prefetched_finished 2")

	w.sleep(time.Second)
	w.expect("the store's eviction", "l2.keys.deleted 4 mock", "l2.keys.evicted 4 mock")
	if _, err := w.ReserveWrite(span(60, 76), layout, kv.ModeNew); err != nil { // L1 is full
		t.Fatal(err)
	}
	w.take()
	if _, err := w.SubmitPrefetchTask(spec(span(6, 8), 1), "req-c", false); err != nil {
		t.Fatal(err)
	}
	w.sleep(10 * time.Millisecond)
	w.expect("a prefetch without memory",
		"l1.read.reserved", "l2.prefetch.lookup.submitted 2 for req-c#2",
		"l1.write.reserved prefetch", "l2.prefetch.failed 2 l1_oom for req-c#2", "sm.prefetch.completed for req-c#2")

	w.FinishWrite(span(60, 76))
	w.sleep(time.Second)
	if got := w.take(); !slices.Contains(got, "l1.keys.evicted 4 of 4 MiB") || !slices.Contains(got, "l1.policy.evicted") {
		t.Errorf("L1's eviction:\n  %s", strings.Join(got, "\n  "))
	}
	for _, want := range []string{
		"Submitted store task 1 to adapter 0 with 8 keys.", "L2 store task 1 completed: adapter 0, 8 keys.",
		"Prefetch request submitted: 4 keys in 1 groups (external_request_id=req-b, prefetch_request_id=1, skip_l2=False)",
		"Prefetch request 1: submitted load tasks to 1 adapters for 2 keys", "Prefetch request 1 completed: 2 hit cells (0 from L1, 2 from L2)",
		"prefetch:2: 2 L1 reservations failed with out-of-memory; L1 may be under memory pressure",
	} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &lines)
		}
	}
	if got := event.SetOf(event.L1EvictionLoopTick); w.log.kinds&got == 0 {
		t.Error("no tick of the eviction loop")
	}
}

// TestRecordingIsNotTheBus records while the bus has no room at all, and while
// there is no bus: every call is in the file.
func TestRecordingIsNotTheBus(t *testing.T) {
	const calls = 200
	for _, tc := range []struct {
		name string
		bus  func(t *testing.T) *event.Bus
	}{
		{"no bus", func(*testing.T) *event.Bus { return nil }},
		{"a full bus", func(t *testing.T) *event.Bus {
			hang := make(chan bool)
			b := event.New(event.Options{Clock: clock.Real{}, QueueSize: 1})
			b.Subscribe(&hanging{hang})
			t.Cleanup(func() {
				if n := b.Stats().Dropped; n == 0 {
					t.Error("nothing was dropped, so the bus was never full")
				}
				close(hang)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
			return b
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := t.TempDir() + "/run.lct"
			r, err := trace.Create(path, trace.Options{RingDir: t.TempDir(), Overflow: trace.OverflowBlock, Clock: clock.Real{}})
			if err != nil {
				t.Fatal(err)
			}
			cfg := sm.DefaultConfig()
			cfg.L1.SizeBytes, cfg.Eviction.Policy = 1<<30, "LRU"
			m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory, Tracer: r, Bus: tc.bus(t)})
			if err != nil {
				t.Fatal(err)
			}
			for i := range calls / 2 {
				if _, err := m.ReserveWrite(keys(i), layout, kv.ModeNew); err != nil {
					t.Fatal(err)
				}
				m.FinishWrite(keys(i))
			}
			if err := errors.Join(m.Close(), r.Close()); err != nil {
				t.Fatal(err)
			}
			s, err := tracefile.Summarize(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if s.Records != calls {
				t.Errorf("%d records of %d calls", s.Records, calls)
			}
		})
	}
}

// hanging hangs in its first event until it is told.
type hanging struct{ until chan bool }

func (h *hanging) Name() string              { return "hanging" }
func (h *hanging) Events() event.Set         { return ^event.Set(0) }
func (h *hanging) Handle(*event.Event) error { <-h.until; return nil }
