package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/lmcache/lmcache-go/event"
)

// ServerState is what gauges show of a server beside its storage manager.
type ServerState struct {
	PrefetchJobs, PeerLookupJobs, KVEventLog int64
}

// WatchServer is Watch for a server.
func (t *Telemetry) WatchServer(state func() ServerState) {
	if t != nil {
		t.serverState.Store(&state)
	}
}

func ofServer(f func(s *ServerState) int64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return func(t *Telemetry, show func(float64, ...attribute.KeyValue)) {
		if s, ok := load[ServerState](&t.serverState); ok {
			show(float64(f(&s)))
		}
	}
}

// serving counts what a server does for its engines. None of it is there before
// a server does something.
//
// Source: reference observability.md, section 3.5.
type serving struct {
	counters   map[string]metric.Float64Counter
	throughput map[event.Type]metric.Float64Histogram // by the event that ends a transfer
	started    map[served]int64                       // when
}

// served is a transfer that runs.
type served struct {
	ends         event.Type
	session, key string
}

func servedBy(ends event.Type, e *event.Event) served {
	return served{ends, e.Session, e.Served.TransferKey}
}

// servings are LMCache's counters of a server.
var servings = []struct{ meter, name, unit, help string }{
	{"lmcache.lookup", "lookups", "requests", "Completed lookups (denominator for lookup_early_exit)."},
	{"lmcache.lookup", "lookup_early_exit", "requests", "Lookups that ended before the storage manager was asked, by ``reason``."},
	{"lmcache.lookup", "lookup_requested", "tokens", "Total tokens submitted for lookup (denominator of the L1+L2 token-level hit rate). Only chunk-aligned tokens are counted."},
	{"lmcache.lookup", "lookup_hit", "tokens", "Total tokens found in L1+L2 during lookup (numerator of the L1+L2 token-level hit rate). Counts the contiguous prefix hit only."},
	{"lmcache.lookup", "lookup_hit_l1", "tokens", "Of lookup_hit: tokens served from objects L1 already held (from the storage manager's per-tier hit counts)."},
	{"lmcache.lookup", "lookup_hit_l2", "tokens", "Of lookup_hit: tokens L2 added beyond the L1-servable prefix. lookup_hit_l1 + lookup_hit_l2 == lookup_hit."},
	{"lmcache.lookup", "lookup_hit_l1_keys", "keys", "Hit keys (one per object group, kv rank and chunk) that L1 already held."},
	{"lmcache.lookup", "lookup_hit_l2_keys", "keys", "Hit keys loaded from L2 into L1."},
	{"lmcache_mp.engine", "num_chunks_loaded", "", "Total number of LMCache chunks loaded into the engine (summed across all retrieve operations)."},
	{"lmcache_mp.transfer", "num_submitted_stores", "", "Total GPU→CPU store transfers enqueued on the device stream."},
	{"lmcache_mp.transfer", "num_submitted_retrieves", "", "Total CPU→GPU retrieve transfers enqueued on the device stream."},
	{"lmcache_mp.transfer", "num_finished_stores", "", "Total GPU→CPU store transfers completed on the device stream (regardless of how many chunks were committed)."},
	{"lmcache_mp.transfer", "num_finished_retrieves", "", "Total CPU→GPU retrieve transfers completed on the device stream (regardless of how many chunks were retrieved)."},
}

func (t *Telemetry) serving() (*serving, error) {
	s := &serving{counters: map[string]metric.Float64Counter{}, throughput: map[event.Type]metric.Float64Histogram{}, started: map[served]int64{}}
	var err error
	for _, row := range servings {
		if s.counters[row.name], err = t.meters.Meter(row.meter).Float64Counter("lmcache_mp."+row.name, metric.WithUnit(row.unit), metric.WithDescription(row.help)); err != nil {
			return nil, err
		}
	}
	for _, row := range []struct {
		ends event.Type
		name string
		help string
	}{
		{event.StoreEnd, "lmcache_mp.l0_l1_store_throughput", "Histogram of L0→L1 (GPU→CPU) store throughput in GB/s, measured per request as total_bytes / (end_ts - start_ts) on the GPU cupy stream."},
		{event.RetrieveEnd, "lmcache_mp.l0_l1_load_throughput", "Histogram of L1→L0 (CPU→GPU) load throughput in GB/s, measured per request as total_bytes / (end_ts - start_ts) on the GPU cupy stream."},
	} {
		if s.throughput[row.ends], err = t.meters.Meter("lmcache_mp.perf").Float64Histogram(row.name, metric.WithUnit("GB/s"), metric.WithDescription(row.help)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *serving) Name() string { return "MPServerMetricsSubscriber" }

func (s *serving) Events() event.Set {
	return event.SetOf(event.LookupEnd, event.StoreSubmitted, event.StoreStart, event.StoreEnd,
		event.RetrieveSubmitted, event.RetrieveStart, event.RetrieveEnd)
}

func (s *serving) Handle(e *event.Event) error {
	of := e.Served
	if of == nil {
		return nil
	}
	device := attribute.String("device", of.Device)
	switch e.Type {
	case event.LookupEnd:
		s.lookup(e)
	case event.StoreSubmitted:
		s.add("num_submitted_stores", 1, device)
	case event.RetrieveSubmitted:
		s.add("num_submitted_retrieves", 1, device)
	case event.StoreStart:
		s.begin(event.StoreEnd, e)
	case event.RetrieveStart:
		s.begin(event.RetrieveEnd, e)
	case event.StoreEnd:
		s.add("num_finished_stores", 1, device)
		s.end(e)
	case event.RetrieveEnd:
		s.add("num_finished_retrieves", 1, device)
		s.add("num_chunks_loaded", e.Count, attribute.String("cache_salt", of.Salt), attribute.String("model_name", of.Model), attribute.String("worker_id", of.Worker))
		s.end(e)
	}
	return nil
}

func (s *serving) add(name string, n int, labels ...attribute.KeyValue) {
	if n > 0 {
		s.counters[name].Add(context.Background(), float64(n), metric.WithAttributes(labels...))
	}
}

func (s *serving) lookup(e *event.Event) {
	of := e.Served
	labels := []attribute.KeyValue{attribute.String("cache_salt", of.Salt), attribute.String("model_name", of.Model)}
	s.add("lookups", 1, labels...)
	s.add("lookup_requested", of.RequestedTokens, labels...)
	s.add("lookup_hit", of.HitTokens, labels...)
	s.add("lookup_hit_l1", of.L1HitTokens, labels...)
	s.add("lookup_hit_l2", of.L2HitTokens, labels...)
	s.add("lookup_hit_l1_keys", e.L1Hits, labels...)
	s.add("lookup_hit_l2_keys", e.L2Hits, labels...)
	if of.EarlyExit != "" {
		s.add("lookup_early_exit", 1, append(labels, attribute.String("reason", of.EarlyExit))...)
	}
}

func (s *serving) begin(ends event.Type, e *event.Event) {
	if len(s.started) >= maxRefs { // of transfers whose end was dropped
		clear(s.started)
	}
	s.started[servedBy(ends, e)] = e.Time
}

func (s *serving) end(e *event.Event) {
	t := servedBy(e.Type, e)
	at, ok := s.started[t]
	delete(s.started, t)
	if ok && e.Bytes > 0 && e.Time > at {
		s.throughput[e.Type].Record(context.Background(), float64(e.Bytes)/seconds(at, e.Time)/1e9, metric.WithAttributes(
			attribute.String("device", e.Served.Device), attribute.String("engine_id", e.Served.Engine), attribute.String("model_name", e.Served.Model)))
	}
}
