package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

// Run drives opt.Manager with the requests of w as an inference engine does,
// until the workload or a limit ends it and the last request is done. For each
// request, at its time:
//
//   - the scheduler submits one prefetch of all its full chunks, in prefix
//     order, one key group a rank, and polls for the result;
//   - for the chunks that are hits each worker enters a read, copies, exits
//     and finishes the read;
//   - when the rest of the prompt has been computed each worker reserves its
//     chunks, copies, and finishes those that were reserved;
//   - when the output has been decoded, so do the chunks that it fills, if the
//     workload says what it is.
//
// The Result is that of the requests behind a warm-up, which it has by itself.
//
// A prompt without a full chunk makes no calls. If workers find a hit
// unreadable after all, or the prefetch takes too long, the whole prompt is
// computed.
//
// All of it runs on the calling goroutine. On a clock.Virtual two runs of one
// workload make the same calls at the same times.
//
// When the workload is broken, the requests before that place are finished.
// When ctx ends, or the manager refuses a call as such, Run lets go of what it
// holds. Both return what was measured so far beside the error. The Result is
// nil only if nothing was started.
//
// Source: reference server-protocol.md, section 3.1.
func Run(ctx context.Context, w Workload, opt Options) (*Result, error) {
	opt, err := opt.withDefaults(w)
	if err != nil {
		return nil, err
	}
	scope, err := kv.InternScope(opt.Model, opt.Salt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	e := &engine{Options: opt, workload: w, scope: scope, streams: map[int]bool{}}
	e.begin()
	err = e.run(ctx)
	e.releaseAll()
	e.result.finish(w, e)
	return e.result, err
}

// engine belongs to the goroutine of Run.
type engine struct {
	Options
	workload Workload
	scope    kv.Scope
	startNS  int64 // on Clock; workload time 0
	meterNS  int64 // on Meter, at that time
	before   sm.Stats
	held     bool         // the workload's request has yet to find its conditions met
	fenced   bool         // but not its fence
	streams  map[int]bool // those with a request that runs
	firstNS  int64        // on Clock; start of the run
	taken    int          // requests taken from the workload, without those of a warm-up
	broken   error        // of the workload: there are no more requests
	running  int
	queue    eventQueue
	seq      uint64
	lagNS    int64 // of the present event
	result   *Result
}

// begin starts to measure. What ran before was a warm-up.
func (e *engine) begin() {
	warmup := e.result
	e.startNS, e.meterNS, e.before = e.Clock.Now(), e.Meter.Now(), e.Manager.Stats()
	e.result = newResult(e.workload, e.Options)
	if warmup != nil {
		e.result.Warmup = warmup.summary(time.Duration(e.startNS - e.firstNS))
	} else {
		e.firstNS = e.startNS
	}
}

func (e *engine) run(ctx context.Context) error {
	e.scheduleArrival()
	for e.queue.Len() > 0 {
		next := e.queue.peek()
		if err := e.Clock.SleepUntil(ctx, next.at); err != nil {
			return err
		}
		e.queue.pop()
		e.lagNS = max(e.Clock.Now()-next.at, 0)
		e.result.Lag.record(e.lagNS)
		if err := e.dispatch(next.flight); err != nil {
			return err
		}
		e.Progress.show(e.result, e.lagNS)
	}
	return e.broken
}

// dispatch runs one event: an arrival if f is nil, else the next step of f.
func (e *engine) dispatch(f *flight) error {
	if f != nil {
		return e.advance(f)
	}
	f = e.admit(e.workload.Request())
	// The next arrival enters the queue before what this request will wait for:
	// of one time, arrivals come first.
	e.scheduleArrival()
	return e.advance(f)
}

// scheduleArrival takes the next request from the workload, unless a limit is
// reached.
func (e *engine) scheduleArrival() {
	if e.MaxRequests > 0 && e.taken == e.MaxRequests {
		return
	}
	if !e.workload.Next() {
		e.broken = e.workload.Err()
		return
	}
	r := e.workload.Request()
	if e.MaxDuration > 0 && !r.Warmup && r.ArrivalNS >= int64(e.MaxDuration) {
		return
	}
	if !r.Warmup {
		e.taken++
	}
	e.held, e.fenced = true, false
	e.offer()
}

// offer schedules the arrival of the request that was taken, if it was not and
// nothing that it waits for is still running. Requests that run only become
// fewer until it arrives.
func (e *engine) offer() {
	if !e.held {
		return
	}
	r := e.workload.Request()
	if r.Fence && !e.fenced {
		if e.running > 0 {
			return
		}
		e.fenced = true
		e.begin()
	}
	if r.Limit > 0 && e.running >= r.Limit || r.Stream != 0 && e.streams[r.Stream] {
		return
	}
	e.held = false
	e.schedule(max(e.startNS+e.scaled(r.ArrivalNS), e.Clock.Now()), nil)
}

// scaled converts a workload time to one of the run.
func (e *engine) scaled(ns int64) int64 {
	if e.Speed == 1 {
		return ns // exact, also beyond 2^53
	}
	return int64(min(float64(ns)/e.Speed, 3e18))
}

func (e *engine) schedule(at int64, f *flight) {
	e.seq++
	e.queue.push(queued{at: at, seq: e.seq, flight: f})
}

// releaseAll lets go of the locks and reservations of requests that were cut
// short.
func (e *engine) releaseAll() {
	for e.queue.Len() > 0 {
		if f := e.queue.pop().flight; f != nil {
			e.release(f)
		}
	}
}

// queued is an event: at its time, flight goes on, or the next request arrives
// if it is nil.
type queued struct {
	at     int64
	seq    uint64 // order of scheduling, for events of one time
	flight *flight
}

func (a queued) before(b queued) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// eventQueue is a binary heap. Unlike one of container/heap it does not
// allocate for an event.
type eventQueue []queued

func (q eventQueue) Len() int     { return len(q) }
func (q eventQueue) peek() queued { return q[0] }

func (q *eventQueue) push(e queued) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 && e.before(h[(i-1)/2]) {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = e
	*q = h
}

func (q *eventQueue) pop() queued {
	h := *q
	top, last := h[0], h[len(h)-1]
	h[len(h)-1] = queued{}
	h = h[:len(h)-1]
	for i := 0; len(h) > 0; {
		child := 2*i + 1
		if child+1 < len(h) && h[child+1].before(h[child]) {
			child++
		}
		if child >= len(h) || last.before(h[child]) {
			h[i] = last
			break
		}
		h[i] = h[child]
		i = child
	}
	*q = h
	return top
}

// timed runs call, and records and returns what it cost on meter, in ns.
func timed(meter clock.Clock, h *Histogram, call func()) int64 {
	start := meter.Now()
	call()
	took := meter.Now() - start
	h.record(took)
	return took
}

// publish tells the bus of a call, which returned err.
func (e *engine) publish(call event.Event, err error) {
	if !e.Bus.Wants(event.CallDispatched) {
		return
	}
	call.Type, call.Lag = event.CallDispatched, e.lagNS
	if err != nil {
		call.Lost, call.Reason = 1, err.Error()
	}
	e.Bus.Publish(&call)
}
