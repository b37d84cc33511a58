package workload

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/sm"
)

// Histogram counts durations in ns, up to an hour (a longer one counts as
// one), to three decimal digits.
type Histogram struct{ *hdrhistogram.Histogram }

const histogramMax = int64(time.Hour)

func newHistogram() Histogram { return Histogram{hdrhistogram.New(1, histogramMax, 3)} }

func (h Histogram) record(ns int64) {
	// Cannot fail: the value is inside the histogram's bounds.
	_ = h.RecordValue(min(max(ns, 0), histogramMax))
}

// Result is what a run did and found. Chunks count once whatever the number of
// ranks; keys count on every rank.
type Result struct {
	Description []Fact // of the workload, then of the engine

	Warmup *Warmup // nil if the workload has none; the rest is without it

	Requests     int // started
	Completed    int
	PeakRunning  int // most requests at once
	InputTokens  int64
	OutputTokens int64 // as the workload has them

	Chunks           int64 // looked up
	HitChunks        int64 // of the prefix that every rank had
	HitTokens        int64
	FullHits         int   // requests with chunks, all of them hits
	NoHits           int   // requests with chunks, none of them a hit
	PrefetchTimeouts int   // prefetches given up; their chunks are misses
	UnreadableKeys   int64 // hits that could not be read after all

	ReservedKeys  int64
	RefusedKeys   int64 // were there already, or being written
	OOMKeys       int64 // did not fit
	WrittenKeys   int64
	UnwrittenKeys int64 // reserved, but not finished: the reservation had timed out

	WorkloadDuration time.Duration // workload time of the last arrival
	RunDuration      time.Duration // on Options.Clock
	MeterDuration    time.Duration // on Options.Meter
	VirtualTime      bool

	PrefetchWait Histogram // from submit to result, on Options.Clock
	Lag          Histogram // how late an event of the engine ran, on Options.Clock

	// Cost of each call, on Options.Meter.
	Submit, Query, Enter, Exit, FinishRead, Reserve, FinishWrite Histogram

	// Storage holds what the manager counted meanwhile; its state (used and
	// capacity bytes, resident, staged and pending objects) is that of the end.
	Storage sm.Stats
}

func newResult(w Workload, opt Options) *Result {
	_, virtual := opt.Clock.(*clock.Virtual)
	r := &Result{VirtualTime: virtual}
	for _, h := range []*Histogram{&r.PrefetchWait, &r.Lag,
		&r.Submit, &r.Query, &r.Enter, &r.Exit, &r.FinishRead, &r.Reserve, &r.FinishWrite} {
		*h = newHistogram()
	}
	return r
}

// admitted counts a request that starts.
func (r *Result) admitted(q *Request, running int) {
	r.Requests++
	r.PeakRunning = max(r.PeakRunning, running)
	r.InputTokens += int64(q.InputTokens)
	r.OutputTokens += int64(q.OutputTokens)
	r.WorkloadDuration = time.Duration(q.ArrivalNS)
}

// looked counts the outcome of a prefetch.
func (r *Result) looked(hits, chunks, hitTokens int) {
	r.Chunks += int64(chunks)
	r.HitChunks += int64(hits)
	r.HitTokens += int64(hitTokens)
	switch hits {
	case 0:
		r.NoHits++
	case chunks:
		r.FullHits++
	}
}

// Warmup is what requests that fill the cache did.
type Warmup struct {
	Requests          int
	Chunks, HitChunks int64 // looked up; hits among them
	WrittenKeys       int64
	Duration          time.Duration // on Options.Clock
}

// summary returns what is kept of a warm-up that took so long.
func (r *Result) summary(took time.Duration) *Warmup {
	return &Warmup{r.Requests, r.Chunks, r.HitChunks, r.WrittenKeys, took}
}

// finish completes the result at the end of a run.
func (r *Result) finish(w Workload, e *engine) {
	r.RunDuration = time.Duration(e.Clock.Now() - e.startNS)
	r.MeterDuration = time.Duration(e.Meter.Now() - e.meterNS)
	r.Storage = since(e.Manager.Stats(), e.before)
	r.Description = append(w.Facts(), e.facts()...)
}

// since returns the counts of after less those of before.
func since(after, before sm.Stats) sm.Stats {
	for _, f := range []struct {
		count *int64
		base  int64
	}{
		{&after.RequestedKeys, before.RequestedKeys},
		{&after.L1HitKeys, before.L1HitKeys},
		{&after.L2HitKeys, before.L2HitKeys},
		{&after.L1HitBytes, before.L1HitBytes},
		{&after.L2HitBytes, before.L2HitBytes},
		{&after.RequestedBytes, before.RequestedBytes},
		{&after.ReservedKeys, before.ReservedKeys},
		{&after.RefusedKeys, before.RefusedKeys},
		{&after.OOMKeys, before.OOMKeys},
		{&after.ReservedBytes, before.ReservedBytes},
		{&after.OOMBytes, before.OOMBytes},
		{&after.WrittenKeys, before.WrittenKeys},
		{&after.WrittenBytes, before.WrittenBytes},
		{&after.EvictionPasses, before.EvictionPasses},
		{&after.EvictedKeys, before.EvictedKeys},
		{&after.EvictedBytes, before.EvictedBytes},
		{&after.L2StoredKeys, before.L2StoredKeys},
		{&after.L2StoredBytes, before.L2StoredBytes},
		{&after.L2LoadedKeys, before.L2LoadedKeys},
		{&after.L2LoadedBytes, before.L2LoadedBytes},
		{&after.L2EvictionPasses, before.L2EvictionPasses},
		{&after.L2EvictedKeys, before.L2EvictedKeys},
		{&after.L2EvictedBytes, before.L2EvictedBytes},
		{&after.TemporaryFreedKeys, before.TemporaryFreedKeys},
	} {
		*f.count -= f.base
	}
	return after
}

// ChunkHitRate returns hit chunks by chunks looked up, 0 if there were none.
func (r *Result) ChunkHitRate() float64 { return share(r.HitChunks, r.Chunks) }

// TokenHitRate returns hit tokens by input tokens: what no chunk can hold is a
// miss.
func (r *Result) TokenHitRate() float64 { return share(r.HitTokens, r.InputTokens) }

func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
