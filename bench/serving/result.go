package serving

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
)

// Result is what a run did and found. The counters may be read while it runs.
type Result struct {
	Requests     atomic.Int64 // done
	ChecksumOK   atomic.Int64
	ChecksumFail atomic.Int64

	// What failed; an operation fails once however many ranks it has.
	LookupFailures   atomic.Int64
	StoreFailures    atomic.Int64
	RetrieveFailures atomic.Int64
	SessionFailures  atomic.Int64 // end_session
	UnexpectedMisses atomic.Int64 // lookups that did not find what had been stored

	Chunks    atomic.Int64 // looked up
	HitChunks atomic.Int64
	// UnstoredChunks are those that the server did not want, on all ranks: it had
	// them by then, or had no room.
	UnstoredChunks atomic.Int64
	StoredBytes    atomic.Int64
	RetrievedBytes atomic.Int64

	ColdLookup, ColdStore, WarmLookup, WarmRetrieve *Latency
	// Whole is the time of a workload's request from its start to its end, Late how
	// long after its arrival it started.
	Whole, Late *Latency
	Duration    time.Duration
	Warmup      *Warmup         // of a workload; nil if it has none
	Description []workload.Fact // of a workload

	requests requestLatencies
}

func newResult() *Result {
	return &Result{
		ColdLookup: newLatency(), ColdStore: newLatency(), WarmLookup: newLatency(), WarmRetrieve: newLatency(),
		Whole: newLatency(), Late: newLatency(),
	}
}

// Warmup is what requests that fill the cache did.
type Warmup struct {
	Requests, Chunks, HitChunks, StoredBytes int64
	Duration                                 time.Duration
}

// begin starts to measure, while no request runs: what was counted but failures
// and checksums is that of a warm-up, which took so long.
func (r *Result) begin(took time.Duration) {
	r.Warmup = &Warmup{r.Requests.Swap(0), r.Chunks.Swap(0), r.HitChunks.Swap(0), r.StoredBytes.Swap(0), took}
	r.UnstoredChunks.Store(0)
	r.RetrievedBytes.Store(0)
	for _, l := range []*Latency{r.ColdLookup, r.ColdStore, r.WarmLookup, r.WarmRetrieve, r.Whole, r.Late} {
		l.reset()
	}
	for _, c := range r.Calls() {
		c.reset()
	}
}

// Calls returns the latencies of the requests that were answered, by operation.
func (r *Result) Calls() []RequestLatency { return r.requests.list() }

func (r *Result) lookup(warm bool) *Latency {
	if warm {
		return r.WarmLookup
	}
	return r.ColdLookup
}

// fail counts a failure, unless it is the end of the run.
func (r *Result) fail(ctx context.Context, counter *atomic.Int64) {
	if ctx.Err() == nil {
		counter.Add(1)
	}
}

// Err says what failed, nil if nothing did.
func (r *Result) Err() error {
	var kinds []string
	for _, k := range r.failures() {
		if n := k.count.Load(); n > 0 {
			kinds = append(kinds, fmt.Sprintf("%s: %d", k.name, n))
		}
	}
	if kinds == nil {
		return nil
	}
	err := fmt.Errorf("%d requests, failures: %s", r.Requests.Load(), strings.Join(kinds, ", "))
	if n := r.UnstoredChunks.Load(); n > 0 {
		err = fmt.Errorf("%w (chunks that the server did not take, for lack of room or since it had them: %d)", err, n)
	}
	return err
}

type failure struct {
	name  string
	count *atomic.Int64
}

func (r *Result) failures() []failure {
	return []failure{
		{"lookups", &r.LookupFailures},
		{"stores", &r.StoreFailures},
		{"retrieves", &r.RetrieveFailures},
		{"checksums", &r.ChecksumFail},
		{"unexpected misses", &r.UnexpectedMisses},
		{"sessions not ended", &r.SessionFailures},
	}
}

// Failed returns how many operations failed, of all kinds.
func (r *Result) Failed() int64 {
	var n int64
	for _, k := range r.failures() {
		n += k.count.Load()
	}
	return n
}

// Progress is how far a run is. The zero value is ready; it may be read while
// Run keeps it up to date.
type Progress struct{ result atomic.Pointer[Result] }

// Load returns the requests done and the operations failed so far.
func (p *Progress) Load() (requests, failed, storedBytes, retrievedBytes int64) {
	r := p.result.Load()
	if r == nil {
		return 0, 0, 0, 0
	}
	return r.Requests.Load(), r.Failed(), r.StoredBytes.Load(), r.RetrievedBytes.Load()
}
