package event

import (
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// Subscriber gets events. The bus calls Handle on one goroutine, one event
// after the other; an error or a panic of it is logged and counted under Name,
// and concerns nobody else. A subscriber that is also an io.Closer is closed by
// Bus.Close.
type Subscriber interface {
	Name() string
	Events() Set
	Handle(*Event) error
}

// Options configures New.
type Options struct {
	Clock clock.Clock  // required; stamps events
	Log   *slog.Logger // discarded if nil
	// QueueSize bounds the events that wait. At 0 or below every event is
	// dropped, as LMCache does.
	QueueSize int
	// Lossless makes publishers wait for room. It is for simulated time,
	// where waiting costs nobody anything.
	Lossless bool
}

// Bus hands events from publishers to subscribers. A nil Bus is one that is
// switched off. It is safe for concurrent use.
//
// Ownership of a cell goes round by its turn: at 2·lap it is free for the
// publisher that claims its position in lap, at 2·lap+1 it belongs to the drain,
// which gives it to the next lap. The store of turn publishes all that was
// written before it. head belongs to the drain.
type Bus struct {
	clock    clock.Clock
	log      *slog.Logger
	bound    uint64
	quarter  uint64 // of bound, at least 1
	mask     uint64
	lap      int // a position shifted by it is its lap
	lossless bool
	cells    []cell

	tail    atomic.Uint64 // positions claimed, by publishers; closedBit
	seen    atomic.Uint64 // a head that a publisher saw, never beyond the real one
	_       [48]byte
	head    atomic.Uint64 // positions dispatched; only the drain stores it
	current atomic.Int64  // when the event that is dispatched was published, or the nap begun
	_       [48]byte
	state   atomic.Uint32 // of the drain: running, asleep or napping
	wanted  atomic.Uint64
	dropped atomic.Uint64
	waiting atomic.Int32 // who waits for room, under room's lock

	wake chan struct{} // holds one token
	done chan struct{} // closed when the drain has ended
	room *sync.Cond    // broadcast after dispatches, for Lossless publishers and Flush

	mu          sync.Mutex // guards the list for those who change it; the drain loads it
	subscribers atomic.Pointer[[]*subscription]

	warned     uint64 // drops of the last warning; the drain's
	warnedAtNS int64
}

type subscription struct {
	Subscriber
	events   Set
	failures atomic.Uint64
}

// closedBit of tail says that no position can be claimed any more, so that what
// was claimed before is known for good.
const closedBit = 1 << 63

// keptKeys is how many keys the buffer of a cell holds on to; the buffers of
// longer lists come from a pool, so that a full queue costs at most 2 KiB a cell.
const keptKeys = 32

type cell struct {
	turn  atomic.Uint64
	event Event
	keys  []kv.ObjectKey  // buffer of event's lists of keys
	sizes []int64         // and of its sizes
	long  *[]kv.ObjectKey // instead of keys, from longKeys
}

var longKeys = sync.Pool{New: func() any { return new([]kv.ObjectKey) }}

// New returns a bus whose drain runs. The caller must Close it.
func New(opt Options) *Bus {
	b := &Bus{clock: opt.Clock, log: opt.Log, lossless: opt.Lossless, bound: uint64(max(opt.QueueSize, 0)), quarter: uint64(max(opt.QueueSize/4, 1)),
		wake: make(chan struct{}, 1), done: make(chan struct{}), room: sync.NewCond(new(sync.Mutex))}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.cells = make([]cell, 1<<bits.Len64(max(b.bound, 1)-1))
	b.mask, b.lap = uint64(len(b.cells)-1), bits.Len(uint(len(b.cells)-1))
	b.subscribers.Store(new([]*subscription))
	b.current.Store(b.clock.Now())
	go b.drain()
	return b
}

// Subscribe adds a subscriber. It gets events that are published from now on.
func (b *Bus) Subscribe(s Subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Clone(*b.subscribers.Load())
	added := &subscription{Subscriber: s, events: s.Events()}
	list = append(list, added)
	b.subscribers.Store(&list)
	b.wanted.Store(b.wanted.Load() | uint64(added.events))
}

// Wants reports whether anybody asks for events of type t: if not, there is no
// need to put one together.
func (b *Bus) Wants(t Type) bool { return b != nil && Set(b.wanted.Load()).Has(t) }

// Publish queues a copy of e, stamped with the time. It drops the event if the
// queue is full; with Lossless it waits instead, so a subscriber must not
// publish there.
func (b *Bus) Publish(e *Event) {
	if !b.Wants(e.Type) {
		return
	}
	pos, ok := b.claim()
	if !ok {
		b.dropped.Add(1)
		if b.state.Load() != running {
			b.rouse() // also to warn: a queue without room has no event that would
		}
		return
	}
	c := &b.cells[pos&b.mask]
	c.copy(e)
	c.event.Time = b.clock.Now() // half the price of Wall; the drain converts it
	c.turn.Store(2*(pos>>b.lap) + 1)
	if s := b.state.Load(); s == asleep || s == napping && pos%b.quarter == 0 {
		b.rouse()
	}
}

// What the drain does. When it has handled what there was it naps, so that events
// gather: a drain at the heels of publishers takes the memory of the cells away
// from them, which costs them more than the event does, and has them wake it all
// the time. A nap that brought nothing is followed by sleep.
const (
	running = iota
	asleep  // until an event comes
	napping // for a while, or until a quarter of the queue has come
)

// napFor is how long events gather. The runtime's timers make it a millisecond
// where nothing else runs.
const napFor = 500 * time.Microsecond

// rouse has the drain run; one of those who find that it does not wakes it.
func (b *Bus) rouse() {
	if s := b.state.Load(); s == running || !b.state.CompareAndSwap(s, running) {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default: // it has been told
	}
}

// claim takes a position whose cell is free.
func (b *Bus) claim() (pos uint64, ok bool) {
	for {
		pos = b.tail.Load()
		switch {
		case pos&closedBit != 0:
			return 0, false
		case b.fits(pos):
			// The cell is free: the drain gives it back before it moves head.
			if b.tail.CompareAndSwap(pos, pos+1) {
				return pos, true
			}
		case !b.lossless || b.bound == 0:
			return 0, false
		default:
			b.awaitRoom()
		}
	}
}

// fits reports whether an event at pos is within the bound. It looks at head,
// whose line of memory the drain writes all the time, only when what it saw there
// last does not tell. A head beyond pos says that pos is stale.
func (b *Bus) fits(pos uint64) bool {
	if int64(pos-b.seen.Load()) < int64(b.bound) {
		return true
	}
	head := b.head.Load()
	b.seen.Store(head)
	return int64(pos-head) < int64(b.bound)
}

// awaitRoom waits until the queue has room or is closed.
func (b *Bus) awaitRoom() {
	b.room.L.Lock()
	defer b.room.L.Unlock()
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	b.rouse()
	for pos := b.tail.Load(); pos&closedBit == 0 && int64(pos-b.head.Load()) >= int64(b.bound); pos = b.tail.Load() {
		b.room.Wait()
	}
}

// copy makes the cell's event one of its own.
func (c *cell) copy(e *Event) {
	c.event = *e
	if len(e.Sizes) > 0 {
		c.sizes = append(c.sizes[:0], e.Sizes...)
		c.event.Sizes = c.sizes
	}
	if n := len(e.Keys) + len(e.Failed); n > 0 {
		keys := &c.keys
		if n > keptKeys {
			c.long = longKeys.Get().(*[]kv.ObjectKey)
			keys = c.long
		} else if c.keys == nil {
			c.keys = make([]kv.ObjectKey, 0, keptKeys)
		}
		*keys = append(append((*keys)[:0], e.Keys...), e.Failed...)
		c.event.Keys = (*keys)[:len(e.Keys):len(e.Keys)]
		c.event.Failed = (*keys)[len(e.Keys):]
	}
}

// release gives up what the cell must not keep. The rest stays until the next
// event: clearing it would take the cell's lines from the publishers' processors.
func (c *cell) release() {
	if c.long != nil {
		c.event.Keys, c.event.Failed = nil, nil
		longKeys.Put(c.long)
		c.long = nil
		c.event.Sizes, c.sizes = nil, nil // as long as the keys were
	}
}

// drain hands out events until the bus is closed and empty.
func (b *Bus) drain() {
	defer close(b.done)
	nap := time.NewTimer(napFor)
	defer nap.Stop()
	for {
		n := b.pass(b.tail.Load() &^ closedBit)
		b.warn(false)
		head, tail := b.head.Load(), b.tail.Load()
		switch {
		case tail&closedBit != 0:
			if head == tail&^closedBit {
				b.warn(true)
				return
			}
			runtime.Gosched() // a publisher is between its claim and its copy
			continue
		case n == 0:
			b.state.Store(asleep)
			// Who published before that has not woken us.
			if !b.ready(head) && b.tail.Load()&closedBit == 0 {
				<-b.wake
			}
		case tail-head >= b.quarter:
			continue
		}
		b.current.Store(b.clock.Now())
		b.state.Store(napping)
		// Who came to wait before that has not woken us either.
		if b.waiting.Load() == 0 && b.tail.Load()&closedBit == 0 {
			nap.Reset(napFor)
			select {
			case <-b.wake:
			case <-nap.C:
			}
		}
		b.state.Store(running)
	}
}

// ready reports whether the event at pos has been published.
func (b *Bus) ready(pos uint64) bool {
	return b.cells[pos&b.mask].turn.Load() == 2*(pos>>b.lap)+1
}

// pass dispatches what is there, up to a position, and returns how many events
// that were.
func (b *Bus) pass(upTo uint64) (n int) {
	subscribers := *b.subscribers.Load()
	toWall := b.clock.Wall() - b.clock.Now()
	for pos := b.head.Load(); pos < upTo && b.ready(pos); pos++ {
		c := &b.cells[pos&b.mask]
		b.current.Store(c.event.Time)
		c.event.Time += toWall
		for _, s := range subscribers {
			if s.events.Has(c.event.Type) {
				b.dispatch(s, &c.event)
			}
		}
		c.release()
		c.turn.Store(2 * (pos>>b.lap + 1))
		b.head.Store(pos + 1)
		n++
		if n%64 == 0 {
			toWall = b.clock.Wall() - b.clock.Now()
			if b.waiting.Load() > 0 {
				b.announceRoom()
			}
		}
	}
	if n > 0 {
		b.announceRoom()
	}
	return n
}

func (b *Bus) announceRoom() {
	b.room.L.Lock()
	b.room.Broadcast()
	b.room.L.Unlock()
}

func (b *Bus) dispatch(s *subscription, e *Event) {
	defer func() {
		if p := recover(); p != nil {
			s.failures.Add(1)
			b.log.Error(fmt.Sprintf("EventBus: error in callback %s for %v: %v\n%s", s.Name(), e.Type, p, debug.Stack()))
		}
	}()
	if err := s.Handle(e); err != nil {
		s.failures.Add(1)
		b.log.Error(fmt.Sprintf("EventBus: error in callback %s for %v: %v", s.Name(), e.Type, err))
	}
}

const warnEvery = time.Second

// warn says how many events were dropped so far, at most once a second, and at
// the end. The drain says it, because logging may take long.
func (b *Bus) warn(last bool) {
	n, now := b.dropped.Load(), b.clock.Now()
	if n == b.warned || !last && b.warned > 0 && now-b.warnedAtNS < int64(warnEvery) {
		return
	}
	b.warned, b.warnedAtNS = n, now
	b.log.Warn(fmt.Sprintf("EventBus queue full (max_queue_size=%d), %d event(s) discarded so far", b.bound, n))
}

// Flush waits until every event has been handled that was published before the
// call.
func (b *Bus) Flush() {
	if b == nil {
		return
	}
	upTo := b.tail.Load() &^ closedBit
	b.room.L.Lock()
	defer b.room.L.Unlock()
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	b.rouse()
	for b.head.Load() < upTo && !b.finished() {
		b.room.Wait()
	}
}

func (b *Bus) finished() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// Close hands out what is queued, ends the drain, and closes the subscribers,
// the last one first. Events published later are dropped and counted. It may be
// called twice.
func (b *Bus) Close() error {
	if b == nil || b.tail.Or(closedBit)&closedBit != 0 {
		return nil
	}
	b.announceRoom()
	b.rouse() // or the drain sees closedBit before it sleeps or naps
	<-b.done
	b.announceRoom()
	var first error
	list := *b.subscribers.Load()
	for _, s := range slices.Backward(list) {
		if c, ok := s.Subscriber.(io.Closer); ok {
			if err := closeOne(c); err != nil {
				b.log.Error(fmt.Sprintf("EventBus: error shutting down %s: %v", s.Name(), err))
				if first == nil {
					first = fmt.Errorf("close subscriber %s: %w", s.Name(), err)
				}
			}
		}
	}
	return first
}

// closeOne closes c. A panic is an error, which concerns nobody else.
func closeOne(c io.Closer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return c.Close()
}

// Stats is the state of a bus.
type Stats struct {
	Depth     int           // events that wait
	Lag       time.Duration // age of the oldest one that was not handled to the end
	Published uint64
	Dropped   uint64
	Failures  map[string]uint64 // of subscribers that failed, by name
}

// Stats returns the state of the bus.
func (b *Bus) Stats() Stats {
	if b == nil {
		return Stats{}
	}
	head := b.head.Load() // before tail, so that the difference is not negative
	s := Stats{Published: b.tail.Load() &^ closedBit, Dropped: b.dropped.Load()}
	s.Depth = int(s.Published - head)
	if s.Depth > 0 {
		s.Lag = time.Duration(max(b.clock.Now()-b.current.Load(), 0))
	}
	for _, sub := range *b.subscribers.Load() {
		if n := sub.failures.Load(); n > 0 {
			if s.Failures == nil {
				s.Failures = map[string]uint64{}
			}
			s.Failures[sub.Name()] += n
		}
	}
	return s
}
