package event_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listener is a subscriber made of a function.
type listener struct {
	name   string
	events event.Set
	handle func(*event.Event) error
	close  func() error
}

func (l *listener) Name() string                { return l.name }
func (l *listener) Events() event.Set           { return l.events }
func (l *listener) Handle(e *event.Event) error { return l.handle(e) }
func (l *listener) Close() error {
	if l.close == nil {
		return nil
	}
	return l.close()
}

func newBus(t *testing.T, opt event.Options) *event.Bus {
	t.Helper()
	if opt.Clock == nil {
		opt.Clock = clock.NewVirtual(1e18)
	}
	b := event.New(opt)
	t.Cleanup(func() { b.Close() })
	return b
}

func keys(n int, salt string) []kv.ObjectKey {
	scope, err := kv.InternScope("m", salt)
	if err != nil {
		panic(err)
	}
	list := make([]kv.ObjectKey, n)
	for i := range list {
		k, err := kv.NewObjectKey(fmt.Appendf(nil, "%08d", i), scope, 1, 0)
		if err != nil {
			panic(err)
		}
		list[i] = k
	}
	return list
}

// TestOrder publishes from several goroutines: the events of each arrive in
// order, none twice, with the contents that they were published with.
func TestOrder(t *testing.T) {
	const publishers, each = 4, 5000
	b := newBus(t, event.Options{QueueSize: 64, Lossless: true})
	var next [publishers]int
	var wrong []string
	b.Subscribe(&listener{name: "order", events: event.SetOf(event.L1ReadFinished), handle: func(e *event.Event) error {
		if e.Count != next[e.Adapter] || len(e.Keys) != e.Count%100 || len(e.Failed) != e.Count%7 || e.Time != 1e18 {
			wrong = append(wrong, fmt.Sprintf("%+v, want %d", e, next[e.Adapter]))
		}
		for i := range e.Failed {
			if e.Failed[i] != (kv.ObjectKey{Group: uint32(i), Rank: uint64(e.Count)}) {
				wrong = append(wrong, fmt.Sprintf("failed key %d of %d: %v", i, e.Count, e.Failed[i]))
			}
		}
		next[e.Adapter]++
		return nil
	}})
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			list := keys(100, "s")
			failed := make([]kv.ObjectKey, 7)
			for i := range each {
				for k := range failed {
					failed[k] = kv.ObjectKey{Group: uint32(k), Rank: uint64(i)}
				}
				b.Publish(&event.Event{Type: event.L1ReadFinished, Adapter: p, Count: i, Keys: list[:i%100], Failed: failed[:i%7]})
			}
		})
	}
	wg.Wait()
	b.Flush()
	if len(wrong) > 0 {
		t.Fatalf("%d wrong events, the first: %s", len(wrong), wrong[0])
	}
	if next != [publishers]int{each, each, each, each} {
		t.Errorf("got %v events, want %d of each", next, each)
	}
	if s := b.Stats(); s.Depth != 0 || s.Lag != 0 || s.Dropped != 0 || s.Published != publishers*each {
		t.Errorf("stats %+v", s)
	}
}

// TestFull fills the queue behind a subscriber that hangs: what is new is
// dropped and counted, the stats tell how much waits and for how long, and the
// log says it once, and again at the end with the whole number.
func TestFull(t *testing.T) {
	var log bytes.Buffer
	c := clock.NewVirtual(1e18)
	b := newBus(t, event.Options{Clock: c, QueueSize: 5, Log: slog.New(slog.NewTextHandler(&log, nil))})
	entered, release := make(chan bool), make(chan bool)
	var got []int
	b.Subscribe(&listener{name: "slow", events: event.SetOf(event.L1KeysEvicted), handle: func(e *event.Event) error {
		if len(got) == 0 {
			entered <- true
			<-release
		}
		got = append(got, e.Count)
		return nil
	}})
	b.Publish(&event.Event{Type: event.L1KeysEvicted})
	<-entered
	for i := 1; i <= 10; i++ {
		b.Publish(&event.Event{Type: event.L1KeysEvicted, Count: i})
	}
	if err := c.SleepUntil(t.Context(), c.Now()+int64(3*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); s.Depth != 5 || s.Dropped != 6 || s.Lag != 3*time.Second {
		t.Errorf("stats %+v, want depth 5, dropped 6, lag 3s", s)
	}
	close(release)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[0 1 2 3 4]" {
		t.Errorf("handled %v, want the oldest five", got)
	}
	b.Publish(&event.Event{Type: event.L1KeysEvicted})
	if n := b.Stats().Dropped; n != 7 {
		t.Errorf("%d dropped, want one more after Close", n)
	}
	if n := strings.Count(log.String(), "EventBus queue full (max_queue_size=5), 6 event(s) discarded so far"); n != 1 {
		t.Errorf("%d warnings of 6 drops in the log:\n%s", n, log.String())
	}
}

// TestIsolation has subscribers that fail and panic beside one that does not.
func TestIsolation(t *testing.T) {
	var log bytes.Buffer
	b := newBus(t, event.Options{QueueSize: 10, Log: slog.New(slog.NewTextHandler(&log, nil))})
	var closed []string
	add := func(name string, f func(*event.Event) error) {
		b.Subscribe(&listener{name, event.SetOf(event.L2KeysStored), f, func() error {
			closed = append(closed, name)
			if name == "panics" {
				panic("will not close either")
			}
			if name == "errs" {
				return errors.New("will not close")
			}
			return nil
		}})
	}
	n := 0
	add("errs", func(*event.Event) error { return errors.New("no luck") })
	add("panics", func(*event.Event) error { panic("boom") })
	add("works", func(*event.Event) error { n++; return nil })
	for range 3 {
		b.Publish(&event.Event{Type: event.L2KeysStored})
		b.Publish(&event.Event{Type: event.L2KeysDeleted}) // nobody's
	}
	b.Flush()
	if s := b.Stats(); n != 3 || s.Failures["errs"] != 3 || s.Failures["panics"] != 3 || s.Failures["works"] != 0 || s.Published != 3 {
		t.Errorf("handled %d, stats %+v", n, s)
	}
	for _, want := range []string{"error in callback panics for l2.keys.stored: boom", "error in callback errs for l2.keys.stored: no luck"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
	if err := b.Close(); err == nil || !strings.HasPrefix(err.Error(), "close subscriber panics: panic: will not close either") {
		t.Errorf("Close: %v", err)
	}
	if !strings.Contains(log.String(), "error shutting down errs: will not close") {
		t.Errorf("the log lacks the other error:\n%s", &log)
	}
	if fmt.Sprint(closed) != "[works panics errs]" {
		t.Errorf("closed %v, want the last one first", closed)
	}
	if err := b.Close(); err != nil || len(closed) != 3 {
		t.Errorf("second Close: %v, closed %v", err, closed)
	}
}

// TestOff: a nil bus, one that nobody listens to, and one without room.
func TestOff(t *testing.T) {
	var off *event.Bus
	off.Publish(&event.Event{Type: event.L1KeysEvicted})
	off.Flush()
	if off.Wants(event.L1KeysEvicted) || off.Close() != nil || off.Stats().Published != 0 {
		t.Error("a nil bus does something")
	}
	b := newBus(t, event.Options{QueueSize: 0, Lossless: true})
	b.Publish(&event.Event{Type: event.L1KeysEvicted})
	if s := b.Stats(); s.Dropped != 0 {
		t.Errorf("an event that nobody wants was dropped: %+v", s)
	}
	b.Subscribe(&listener{name: "none", events: event.SetOf(event.L1KeysEvicted), handle: func(*event.Event) error { return nil }})
	b.Publish(&event.Event{Type: event.L1KeysEvicted})
	if s := b.Stats(); s.Dropped != 1 || s.Published != 0 {
		t.Errorf("a queue without room: %+v", s)
	}
}

// TestNames: every type has a name of its own.
func TestNames(t *testing.T) {
	seen := map[string]event.Type{}
	for i := event.Type(0); i.String() != "unknown"; i++ {
		if i.String() == "" {
			t.Errorf("type %d has no name", i)
		}
		if other, twice := seen[i.String()]; twice {
			t.Errorf("types %d and %d are both %v", i, other, i)
		}
		seen[i.String()] = i
	}
	if len(seen) < 30 || len(seen) > 64 {
		t.Errorf("%d types; a Set holds 64", len(seen))
	}
}

func TestPublishAllocatesNothing(t *testing.T) {
	b := newBus(t, event.Options{QueueSize: 16, Lossless: true})
	b.Subscribe(&listener{name: "count", events: event.SetOf(event.L1KeysEvicted), handle: func(*event.Event) error { return nil }})
	short, long := keys(16, ""), keys(256, "")
	publish := func() {
		b.Publish(&event.Event{Type: event.L1KeysEvicted, Keys: short})
		b.Publish(&event.Event{Type: event.L1KeysEvicted, Keys: long})
		b.Flush()
	}
	for range 64 {
		publish()
	}
	if n := testing.AllocsPerRun(1000, publish); n > 0.1 { // the pool may lose a buffer to the collector
		t.Errorf("%v allocations a pair of events", n)
	}
}

// TestFlushBesideAPublisher: Flush waits for what was published before it, not
// for a pause of others.
func TestFlushBesideAPublisher(t *testing.T) {
	b := newBus(t, event.Options{QueueSize: 1024})
	handled := 0
	b.Subscribe(&listener{name: "count", events: event.SetOf(event.L1KeysEvicted), handle: func(*event.Event) error { handled++; return nil }})
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				b.Publish(&event.Event{Type: event.L1KeysEvicted})
			}
		}
	}()
	for range 100 {
		b.Flush()
	}
	close(stop)
	<-done
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); uint64(handled) != s.Published || s.Depth != 0 {
		t.Errorf("handled %d, stats %+v", handled, s)
	}
}

// TestNothingDroppedBelowTheBound has publishers race for positions in a queue
// that never has more events than they are: none may be taken for one too many.
func TestNothingDroppedBelowTheBound(t *testing.T) {
	const publishers, each = 4, 20000
	b := newBus(t, event.Options{QueueSize: publishers + 1}) // one has given its token back and is not yet off the queue
	token := make(chan bool, publishers)
	b.Subscribe(&listener{name: "tokens", events: event.SetOf(event.L1KeysEvicted), handle: func(*event.Event) error { <-token; return nil }})
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for range each {
				token <- true
				b.Publish(&event.Event{Type: event.L1KeysEvicted})
			}
		})
	}
	wg.Wait()
	b.Flush()
	if s := b.Stats(); s.Published != publishers*each || s.Dropped != 0 || s.Depth != 0 {
		t.Errorf("stats %+v", s)
	}
}

// BenchmarkPublish is what an event costs who publishes it, in bursts that the
// queue holds. The drain handles them beside it, and the pauses in which it
// catches up do not count. wanted=no is an event that nobody subscribed to;
// floor=clock is the one reading of the clock that a publisher makes.
//
//	go test ./event -run '^$' -bench '^BenchmarkPublish$' -count 10
func BenchmarkPublish(b *testing.B) {
	const burst = 4096
	for _, bc := range []struct {
		name   string
		keys   int
		events event.Set
	}{
		{"wanted=no", 16, event.SetOf(event.L1ReadFinished)},
		{"keys=0", 0, event.SetOf(event.L1KeysEvicted)},
		{"keys=1", 1, event.SetOf(event.L1KeysEvicted)},
		{"keys=16", 16, event.SetOf(event.L1KeysEvicted)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bus := event.New(event.Options{Clock: clock.Real{}, QueueSize: burst})
			defer bus.Close()
			bus.Subscribe(&listener{name: "count", events: bc.events, handle: func(*event.Event) error { return nil }})
			e := &event.Event{Type: event.L1KeysEvicted, Keys: keys(bc.keys, "")}
			for range burst { // every cell gets its buffer
				bus.Publish(e)
			}
			bus.Flush()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if i%burst == 0 {
					b.StopTimer()
					bus.Flush()
					b.StartTimer()
				}
				bus.Publish(e)
			}
			b.StopTimer()
			if s := bus.Stats(); s.Dropped > 0 {
				b.Errorf("%d events were dropped", s.Dropped)
			}
		})
	}
	b.Run("floor=clock", func(b *testing.B) {
		sum := int64(0)
		for b.Loop() {
			sum += clock.Real{}.Now()
		}
		if sum == 0 {
			b.Error("the clock stands still")
		}
	})
}

// BenchmarkDispatch is what an event costs from end to end, the publisher
// waiting for the drain.
func BenchmarkDispatch(b *testing.B) {
	bus := event.New(event.Options{Clock: clock.Real{}, QueueSize: 10000, Lossless: true})
	defer bus.Close()
	handled := 0
	bus.Subscribe(&listener{name: "count", events: event.SetOf(event.L1KeysEvicted), handle: func(*event.Event) error { handled++; return nil }})
	list := keys(16, "")
	b.ReportAllocs()
	for b.Loop() {
		bus.Publish(&event.Event{Type: event.L1KeysEvicted, Keys: list})
	}
	bus.Flush()
}
