package serving

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/lmcache/lmcache-go/server/wire"
)

// Latency counts durations to four decimal digits, up to an hour. It is safe
// for concurrent use once it was made by newLatency.
type Latency struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // in latencyUnit, finer than what a table shows
}

const (
	latencyUnit = 100 * time.Nanosecond
	latencyMax  = int64(time.Hour / latencyUnit)
)

func newLatency() *Latency { return &Latency{h: hdrhistogram.New(1, latencyMax, 4)} }

func (l *Latency) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.h.RecordValue(min(max(int64(d/latencyUnit), 0), latencyMax)) // cannot fail: it is within the bounds
}

// reset forgets what was counted.
func (l *Latency) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h.Reset()
}

// Count returns how many durations were counted.
func (l *Latency) Count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.h.TotalCount()
}

// Summary is what a report shows of a Latency, in milliseconds.
type Summary struct {
	Count                               int64
	Mean, Min, P50, P90, P99, P999, Max float64
}

// Summary returns the counts so far; zero if there are none.
func (l *Latency) Summary() Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h.TotalCount() == 0 {
		return Summary{}
	}
	const perMS = float64(time.Millisecond / latencyUnit)
	q := func(p float64) float64 { return float64(l.h.ValueAtQuantile(p)) / perMS }
	return Summary{
		l.h.TotalCount(), l.h.Mean() / perMS, float64(l.h.Min()) / perMS,
		q(50), q(90), q(99), q(99.9), float64(l.h.Max()) / perMS,
	}
}

// requestLatencies has a Latency for each operation that was requested.
type requestLatencies struct {
	mu sync.Mutex
	by [wire.MaxOp + 1]*Latency
}

func (r *requestLatencies) observe(op wire.Op, took time.Duration, err error) {
	if err != nil {
		return // how long a failure took says nothing of the server's speed
	}
	r.mu.Lock()
	l := r.by[op]
	if l == nil {
		l = newLatency()
		r.by[op] = l
	}
	r.mu.Unlock()
	l.record(took)
}

// RequestLatency is the latency of one operation.
type RequestLatency struct {
	Op wire.Op
	*Latency
}

// list returns those of the operations that were requested, by number.
func (r *requestLatencies) list() []RequestLatency {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []RequestLatency
	for op, l := range r.by {
		if l != nil {
			list = append(list, RequestLatency{wire.Op(op), l})
		}
	}
	return list
}
