package telemetry

import (
	"cmp"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
)

// Bounds of buckets. Where LMCache's are explicit they are kept; where it takes
// the default, which has everything below 5 in one bucket, finer ones are added
// to it, so that a query over its bounds goes on working.
var (
	lifetimeBounds  = []float64{1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400}
	evictGapBounds  = []float64{1, 5, 15, 30, 60, 120, 300}
	throughputBound = []float64{0, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000}
	reuseGapBounds  = []float64{0, .01, .1, .5, 1, 2.5, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000}
	latencyBounds   = []float64{1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, .1, .2, .5, 1, 2, 5, 10}
)

func views() []sdk.View {
	var list []sdk.View
	for name, bounds := range map[string][]float64{
		"lmcache_mp.l1_chunk_lifetime": lifetimeBounds, "lmcache_mp.l1_chunk_idle_before_evict": lifetimeBounds,
		"lmcache_mp.l1_chunk_reuse_gap": lifetimeBounds, "lmcache_mp.l1_chunk_evict_reuse_gap": evictGapBounds,
		"lmcache_mp.l2_store_throughput": throughputBound, "lmcache_mp.l2_load_throughput": throughputBound,
		"lmcache_mp.l0_l1_store_throughput": throughputBound, "lmcache_mp.l0_l1_load_throughput": throughputBound,
		"lmcache_mp.real_reuse_gap":    reuseGapBounds,
		"lmcache_replay.call_duration": latencyBounds, "lmcache_replay.call_lag": latencyBounds,
		"lmcache_bench.call_duration": latencyBounds, "lmcache_bench.call_lag": latencyBounds,
	} {
		list = append(list, sdk.NewView(sdk.Instrument{Name: name},
			sdk.Stream{Aggregation: sdk.AggregationExplicitBucketHistogram{Boundaries: bounds, NoMinMax: true}}))
	}
	return list
}

func (t *Telemetry) histograms() (_ []event.Subscriber, err error) {
	histogram := func(meter, name, unit, help string) metric.Float64Histogram {
		h, e := t.meters.Meter(meter).Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(help))
		if e != nil {
			err = e
		}
		return h
	}
	command := cmp.Or(t.opt.Command, "replay")
	sample := newSampler(t.opt.SampleRate)
	list := []event.Subscriber{
		&l1Lifecycle{
			sampler: sample, live: map[l1Chunk]lived{}, evicted: map[l1Chunk]int64{},
			lifetime: histogram("lmcache.l1", "lmcache_mp.l1_chunk_lifetime", "s", "Histogram of L1 chunk lifetime from allocation to eviction (seconds)."),
			idle:     histogram("lmcache.l1", "lmcache_mp.l1_chunk_idle_before_evict", "s", "Histogram of idle time before L1 chunk eviction (seconds)."),
			gap:      histogram("lmcache.l1", "lmcache_mp.l1_chunk_reuse_gap", "s", "Histogram of time gaps between consecutive touches (write or read) of the same L1 chunk (seconds)."),
			evictGap: histogram("lmcache.l1", "lmcache_mp.l1_chunk_evict_reuse_gap", "s", "Histogram of time from L1 chunk eviction to next reuse.  Capped at max_evict_reuse_wait."),
		},
		&throughput{
			started: map[transfer]started{},
			store:   histogram("lmcache_mp.perf", "lmcache_mp.l2_store_throughput", "GB/s", "Histogram of L1->L2 store throughput in GB/s, measured per task as total_bytes / (completed_ts - submitted_ts).  Spans adapter queue + network/disk I/O, so this is end-to-end latency-based throughput."),
			load:    histogram("lmcache_mp.perf", "lmcache_mp.l2_load_throughput", "GB/s", "Histogram of L2->L1 load throughput in GB/s, measured per (request, adapter) pair as total_bytes / (completed_ts - submitted_ts).  Spans adapter queue + network/disk I/O."),
		},
		&reuse{
			sampler: sample, counts: map[string]int64{}, tracked: map[chunk]access{}, seen: map[chunk]bool{},
			seconds: histogram("lmcache.sm", "lmcache_mp.real_reuse_gap", "s", "Gap between a chunk's last access (read or write) and next read.  Storage cost.  Tagged with cache_salt."),
			objects: histogram("lmcache.sm", "lmcache_mp.real_reuse_gap_objects", "{chunks}", "Per-cache_salt access-counter gap between two reads of the same chunk.  Storage volume.  Tagged with cache_salt."),
		},
		&calls{
			sets:     map[string]metric.RecordOption{},
			duration: histogram("lmcache."+command, "lmcache_"+command+".call_duration", "s", "Duration of a call, by operation."),
			lag:      histogram("lmcache."+command, "lmcache_"+command+".call_lag", "s", "How late a call was made against the schedule, by operation."),
		},
	}
	return list, err
}

// sampler decides which chunks the lifecycle histograms follow. The same chunk
// is always decided alike within a process.
type sampler struct {
	seed  maphash.Seed
	below uint64
}

const sampleModulus = 1000003 // LMCache's

func newSampler(rate float64) sampler {
	return sampler{maphash.MakeSeed(), uint64(rate * sampleModulus)}
}

func (s sampler) chosen(hash uint64) bool { return hash%sampleModulus < s.below }

// seconds is the time from a to b, both in ns.
func seconds(a, b int64) float64 { return float64(b-a) / 1e9 }

// l1Chunk is an object in one of the L1 managers.
type l1Chunk struct {
	tag string
	key kv.ObjectKey
}

type lived struct{ allocated, accessed int64 }

// maxEvictGap is how long an evicted chunk is waited for.
const maxEvictGap = 300 * time.Second

// l1Lifecycle follows sampled chunks from their write to their eviction, and
// for a while beyond.
//
// Source: reference observability.md, section 3.3.
type l1Lifecycle struct {
	sampler
	live    map[l1Chunk]lived
	evicted map[l1Chunk]int64 // when
	queue   []gone            // of evicted, oldest first; those that were written again are stale

	lifetime, idle, gap, evictGap metric.Float64Histogram
}

type gone struct {
	chunk l1Chunk
	at    int64
}

func (l *l1Lifecycle) Name() string { return "L1LifecycleSubscriber" }
func (l *l1Lifecycle) Events() event.Set {
	return event.SetOf(event.L1ReadFinished, event.L1WriteFinished, event.L1WriteFinishedAndRead, event.L1KeysEvicted)
}

func (l *l1Lifecycle) Handle(e *event.Event) error {
	ctx, now := context.Background(), e.Time
	labels := metric.WithAttributes(attribute.String("l1_tag", e.L1Tag))
	for i := range e.Keys {
		c := l1Chunk{e.L1Tag, e.Keys[i]}
		at, tracked := l.live[c]
		switch e.Type {
		case event.L1ReadFinished:
			if tracked {
				l.gap.Record(ctx, seconds(at.accessed, now), labels)
				at.accessed = now
				l.live[c] = at
			}
		case event.L1KeysEvicted:
			if tracked {
				l.lifetime.Record(ctx, seconds(at.allocated, now), labels)
				l.idle.Record(ctx, seconds(at.accessed, now), labels)
				delete(l.live, c)
				l.evicted[c] = now
				l.queue = append(l.queue, gone{c, now})
			}
		default:
			if went, ok := l.evicted[c]; ok {
				l.evictGap.Record(ctx, min(seconds(went, now), maxEvictGap.Seconds()), labels)
				delete(l.evicted, c)
			}
			if tracked {
				l.gap.Record(ctx, seconds(at.accessed, now), labels)
				l.live[c] = lived{now, now}
			} else if l.chosen(maphash.Comparable(l.seed, e.Keys[i])) {
				l.live[c] = lived{now, now}
			}
		}
	}
	if e.Type != event.L1ReadFinished {
		l.sweep(now)
	}
	return nil
}

// sweep gives up on chunks that did not come back.
func (l *l1Lifecycle) sweep(now int64) {
	n := 0
	for ; n < len(l.queue) && now-l.queue[n].at >= int64(maxEvictGap); n++ {
		g := l.queue[n]
		if l.evicted[g.chunk] != g.at {
			continue // written again, and perhaps evicted again
		}
		l.evictGap.Record(context.Background(), maxEvictGap.Seconds(), metric.WithAttributes(attribute.String("l1_tag", g.chunk.tag)))
		delete(l.evicted, g.chunk)
	}
	l.queue = l.queue[n:]
}

// transfer is a store task, or a load task of a request.
type transfer struct {
	load    bool
	adapter int
	id      int64
}

type started struct{ at, bytes int64 }

// throughput measures what adapters carry.
type throughput struct {
	started     map[transfer]started
	store, load metric.Float64Histogram
}

func (p *throughput) Name() string { return "L2ThroughputSubscriber" }
func (p *throughput) Events() event.Set {
	return event.SetOf(event.L2StoreSubmitted, event.L2StoreCompleted, event.L2LoadTaskSubmitted, event.L2LoadTaskCompleted)
}

func (p *throughput) Handle(e *event.Event) error {
	if len(p.started) >= maxRefs { // of tasks whose end was dropped
		clear(p.started)
	}
	switch e.Type {
	case event.L2StoreSubmitted:
		p.started[transfer{false, e.Adapter, int64(e.TaskID)}] = started{e.Time, e.Bytes}
	case event.L2LoadTaskSubmitted:
		p.started[transfer{true, e.Adapter, e.RequestID}] = started{e.Time, e.Bytes}
	case event.L2StoreCompleted:
		p.finish(p.store, transfer{false, e.Adapter, int64(e.TaskID)}, e)
	case event.L2LoadTaskCompleted:
		p.finish(p.load, transfer{true, e.Adapter, e.RequestID}, e)
	}
	return nil
}

func (p *throughput) finish(h metric.Float64Histogram, t transfer, e *event.Event) {
	s, ok := p.started[t]
	delete(p.started, t)
	bytes := s.bytes
	if !t.load {
		bytes = e.Bytes // what was newly written
	}
	if ok && bytes > 0 && e.Time > s.at {
		h.Record(context.Background(), float64(bytes)/seconds(s.at, e.Time)/1e9, metric.WithAttributes(attribute.String("l2_name", e.L2Name)))
	}
}

// chunk is a chunk of a tenant, whatever its rank.
type chunk struct {
	hash [kv.MaxHash]byte
	salt string
}

type access struct{ at, count int64 }

// maxTracked bounds the chunks whose reuse is followed.
const maxTracked = 100000

// reuse measures how long, and over how many other chunks, a chunk is kept until
// it is read again.
type reuse struct {
	sampler
	counts  map[string]int64 // accesses, by salt
	tracked map[chunk]access
	ring    []chunk // of tracked, to find one to give up
	seen    map[chunk]bool

	seconds, objects metric.Float64Histogram
}

func (r *reuse) Name() string { return "SMLifecycleSubscriber" }
func (r *reuse) Events() event.Set {
	return event.SetOf(event.SMReadPrefetchedFinished, event.SMWriteFinished)
}

func (r *reuse) Handle(e *event.Event) error {
	clear(r.seen)
	for i := range e.Keys {
		salt := e.Keys[i].Scope.Salt()
		c := chunk{e.Keys[i].Hash, salt}
		if r.seen[c] {
			continue
		}
		r.seen[c] = true
		r.counts[salt]++
		now := access{e.Time, r.counts[salt]}
		last, tracked := r.tracked[c]
		if tracked {
			if e.Type == event.SMReadPrefetchedFinished {
				labels := metric.WithAttributes(attribute.String("cache_salt", salt))
				r.seconds.Record(context.Background(), seconds(last.at, now.at), labels)
				r.objects.Record(context.Background(), float64(now.count-last.count), labels)
			}
			r.tracked[c] = now
		} else if r.chosen(maphash.Comparable(r.seed, c)) {
			r.track(c, now)
		}
	}
	return nil
}

func (r *reuse) track(c chunk, a access) {
	if len(r.ring) < maxTracked {
		r.ring = append(r.ring, c)
	} else {
		i := rand.IntN(len(r.ring))
		delete(r.tracked, r.ring[i])
		r.ring[i] = c
	}
	r.tracked[c] = a
}

// calls measures the calls of a replay or a benchmark.
type calls struct {
	sets          map[string]metric.RecordOption
	duration, lag metric.Float64Histogram
}

func (c *calls) Name() string      { return "ReplayMetricsSubscriber" }
func (c *calls) Events() event.Set { return event.SetOf(event.CallDispatched) }

func (c *calls) Handle(e *event.Event) error {
	o, ok := c.sets[e.Text]
	if !ok {
		o = metric.WithAttributeSet(attribute.NewSet(attribute.String("op", e.Text)))
		c.sets[e.Text] = o
	}
	c.duration.Record(context.Background(), float64(e.Duration)/1e9, o)
	c.lag.Record(context.Background(), float64(e.Lag)/1e9, o)
	return nil
}
