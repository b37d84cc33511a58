package telemetry

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// State is what gauges show of a storage manager at one moment, and its counts
// since the start.
type State struct {
	L1       []L1State
	Adapters []AdapterState

	RequestedKeys, L1HitKeys, L2HitKeys int64 // of completed prefetches
	RefusedKeys, OOMKeys                int64 // of reservations

	Front *FrontState // nil without a server
}

// FrontState is the front-end for requests of a server.
type FrontState struct {
	Requests map[string]uint64 // well-formed ones that came, by operation
	Refused  map[string]uint64 // those that were not answered, by reason
	// Disconnected are connections that the server ended or did not take, by reason.
	Disconnected map[string]uint64
	InFlight     int // requests that wait for a worker or run on one
	Waiting      int // status polls that wait for their lookup
	Clients      int // connections
}

// L1State is one L1 manager.
type L1State struct {
	Tag, Backend                        string
	UsedBytes, StagingBytes, TotalBytes int64

	Eviction
}

// Eviction is what a policy has removed since the start.
type Eviction struct {
	Policy                       string // empty if there is none
	EvictedObjects, EvictedBytes int64
}

// AdapterState is one L2 adapter.
type AdapterState struct {
	Index         int    // given once: those of adapters that left are not given again
	Name          string // type
	L1Tag         string // of the L1 that it serves
	UsedBytes     int64
	Stores, Loads int64 // tasks that run
	LoadBytes     int64 // bytes of L1 that loads have reserved

	Eviction
}

// Progress is how far a replay is.
type Progress struct {
	Total, Done, Failed, Skipped int64 // records; Total 0: unknown
	LagNS                        int64 // how late the last record was dispatched
}

// Bench is how far a benchmark is.
type Bench struct {
	Started, Done int64   // requests
	WorkloadS     float64 // seconds of workload time
	LagNS         int64   // how late the last event of the engine was
}

// Watch makes gauges show what state returns. It is called at each scrape or
// export, from any goroutine; nil ends it.
func (t *Telemetry) Watch(state func() State) {
	if t != nil {
		t.state.Store(&state)
	}
}

// WatchProgress is Watch for a replay.
func (t *Telemetry) WatchProgress(progress func() Progress) {
	if t != nil {
		t.progress.Store(&progress)
	}
}

// WatchBench is Watch for a benchmark.
func (t *Telemetry) WatchBench(bench func() Bench) {
	if t != nil {
		t.bench.Store(&bench)
	}
}

func load[T any](f interface{ Load() *func() T }) (v T, ok bool) {
	if p := f.Load(); p != nil && *p != nil {
		return (*p)(), true
	}
	return v, false
}

// gauge is an instrument that is read by callback.
type gauge struct {
	meter, name, unit, help string
	counter                 bool
	observe                 func(t *Telemetry, show func(v float64, labels ...attribute.KeyValue))
}

func ofState(f func(s *State, show func(float64, ...attribute.KeyValue))) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return func(t *Telemetry, show func(float64, ...attribute.KeyValue)) {
		if s, ok := load[State](&t.state); ok {
			f(&s, show)
		}
	}
}

func ofL1(f func(s *L1State) float64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
		for i := range s.L1 {
			show(f(&s.L1[i]), attribute.String("backend", s.L1[i].Backend), attribute.String("l1_tag", s.L1[i].Tag))
		}
	})
}

func ofAdapters(f func(s *AdapterState) float64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
		for i := range s.Adapters {
			if v := f(&s.Adapters[i]); v != 0 {
				show(v, attribute.String("adapter_index", strconv.Itoa(s.Adapters[i].Index)), attribute.String("l2_name", s.Adapters[i].Name))
			}
		}
	})
}

// ofL1Eviction shows what the policies of L1 removed, ofL2Eviction those of the
// adapters that have one.
func ofL1Eviction(f func(e *Eviction) int64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
		for i := range s.L1 {
			show(float64(f(&s.L1[i].Eviction)), attribute.String("l1_tag", s.L1[i].Tag), attribute.String("policy", s.L1[i].Policy))
		}
	})
}

func ofL2Eviction(f func(e *Eviction) int64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
		for i := range s.Adapters {
			if a := &s.Adapters[i]; a.Policy != "" {
				show(float64(f(&a.Eviction)), attribute.String("adapter_index", strconv.Itoa(a.Index)), attribute.String("l2_name", a.Name), attribute.String("policy", a.Policy))
			}
		}
	})
}

func ofFront(f func(s *FrontState, show func(float64, ...attribute.KeyValue))) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
		if s.Front != nil {
			f(s.Front, show)
		}
	})
}

func ofProgress(f func(p *Progress) float64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return func(t *Telemetry, show func(float64, ...attribute.KeyValue)) {
		if p, ok := load[Progress](&t.progress); ok {
			show(f(&p))
		}
	}
}

func ofBench(f func(b *Bench) float64) func(*Telemetry, func(float64, ...attribute.KeyValue)) {
	return func(t *Telemetry, show func(float64, ...attribute.KeyValue)) {
		if b, ok := load[Bench](&t.bench); ok {
			show(f(&b))
		}
	}
}

// gauges are all of them; those of the meters lmcache.* that begin with
// lmcache_mp are LMCache's, in its words.
var gauges = []gauge{
	{"lmcache.l1_manager", "lmcache_mp.l1_memory_usage_bytes", "", "Bytes currently held in L1 cache", false,
		ofL1(func(s *L1State) float64 { return float64(s.UsedBytes) })},
	{"lmcache.l1_manager", "lmcache_mp.l1_usage_ratio", "", "L1 used/total ratio (0.0–1.0)", false,
		ofL1(func(s *L1State) float64 {
			if s.TotalBytes == 0 {
				return 0
			}
			return float64(s.UsedBytes) / float64(s.TotalBytes)
		})},
	{"lmcache.l1_manager", "lmcache_mp.l1_staging_bytes", "", "Bytes held by L1 staging objects (write-reserved, not admitted)", false,
		ofL1(func(s *L1State) float64 { return float64(s.StagingBytes) })},
	{"lmcache.l2", "lmcache_mp.l2_usage_bytes", "", "Bytes currently held in each L2 adapter, tagged by ``l2_name`` (one observation per adapter).", false,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			sum := map[string]int64{} // LMCache loses all but one of a type
			for i := range s.Adapters {
				sum[s.Adapters[i].Name] += s.Adapters[i].UsedBytes
			}
			for name, v := range sum {
				show(float64(v), attribute.String("l2_name", name))
			}
		})},
	{"lmcache.l2_store", "lmcache_mp.num_inflight_l2_stores", "", "L2 store tasks currently executing, per adapter", false,
		ofAdapters(func(s *AdapterState) float64 { return float64(s.Stores) })},
	{"lmcache.l2_prefetch", "lmcache_mp.num_inflight_l2_loads", "", "L2 -> L1 prefetch load tasks currently executing, per adapter", false,
		ofAdapters(func(s *AdapterState) float64 { return float64(s.Loads) })},
	{"lmcache.l2_prefetch", "lmcache_mp.inflight_load_memory_usage_bytes", "", "L1 bytes reserved by in-flight L2 -> L1 prefetch loads, per adapter", false,
		ofAdapters(func(s *AdapterState) float64 { return float64(s.LoadBytes) })},
	{"lmcache.l2_store", "lmcache_mp.l2_store_adapters", "", "Count of L2 adapters attached to the store controller, tagged by ``state`` (active or draining).", false,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			for i := range s.L1 {
				n := 0
				for j := range s.Adapters {
					if s.Adapters[j].L1Tag == s.L1[i].Tag {
						n++
					}
				}
				show(float64(n), attribute.String("l1_tag", s.L1[i].Tag), attribute.String("state", "active"))
				show(0, attribute.String("l1_tag", s.L1[i].Tag), attribute.String("state", "draining"))
			}
		})},
	{"lmcache.l2_prefetch", "lmcache_mp.l2_prefetch_adapters", "", "Count of L2 adapters attached to the prefetch controller, tagged by ``state`` (active or draining).", false,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			show(float64(len(s.Adapters)), attribute.String("state", "active"))
			show(0, attribute.String("state", "draining"))
		})},

	{"lmcache.event_bus", "lmcache_mp.event_bus.queue_depth", "", "Events currently queued in the EventBus.", false,
		func(t *Telemetry, show func(float64, ...attribute.KeyValue)) { show(float64(t.bus.Stats().Depth)) }},
	{"lmcache.event_bus", "lmcache_mp.event_bus.drain_lag_seconds", "", "Seconds since the oldest queued event was published; 0.0 when empty.  Rising values mean the drain thread is falling behind.", false,
		func(t *Telemetry, show func(float64, ...attribute.KeyValue)) { show(t.bus.Stats().Lag.Seconds()) }},
	{"lmcache.event_bus", "lmcache_mp.event_bus.dropped_events_total", "", "Cumulative events dropped because the EventBus queue was at max_queue_size.", true,
		func(t *Telemetry, show func(float64, ...attribute.KeyValue)) { show(float64(t.bus.Stats().Dropped)) }},
	{"lmcache.event_bus", "lmcache_mp.event_bus.subscriber_exceptions", "", "Cumulative failures of event subscribers, by subscriber.", true,
		func(t *Telemetry, show func(float64, ...attribute.KeyValue)) {
			for name, n := range t.bus.Stats().Failures {
				show(float64(n), attribute.String("subscriber_name", name))
			}
		}},

	// What LMCache does not show.
	{"lmcache.storage", "lmcache_storage.prefetch_keys", "", "Keys of completed prefetches, by where they were found: l1, l2 or miss.", true,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			show(float64(s.L1HitKeys), attribute.String("found", "l1"))
			show(float64(s.L2HitKeys), attribute.String("found", "l2"))
			show(float64(s.RequestedKeys-s.L1HitKeys-s.L2HitKeys), attribute.String("found", "miss"))
		})},
	{"lmcache.storage", "lmcache_storage.reservation_failures", "", "Keys that a reservation refused, by reason: not_writable or out_of_memory.", true,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			show(float64(s.RefusedKeys), attribute.String("reason", "not_writable"))
			show(float64(s.OOMKeys), attribute.String("reason", "out_of_memory"))
		})},
	{"lmcache.storage", "lmcache_storage.policy_evicted_objects", "", "Objects that the eviction policy of L1 removed; deletes, clears and temporary objects do not count.", true,
		ofL1Eviction(func(e *Eviction) int64 { return e.EvictedObjects })},
	{"lmcache.storage", "lmcache_storage.policy_evicted_bytes", "", "Bytes that the eviction policy of L1 freed, padding included.", true,
		ofL1Eviction(func(e *Eviction) int64 { return e.EvictedBytes })},
	{"lmcache.storage", "lmcache_storage.l2_policy_evicted_objects", "", "Objects that the eviction policy of an L2 adapter removed.", true,
		ofL2Eviction(func(e *Eviction) int64 { return e.EvictedObjects })},
	{"lmcache.storage", "lmcache_storage.l2_policy_evicted_bytes", "", "Bytes that the eviction policy of an L2 adapter freed.", true,
		ofL2Eviction(func(e *Eviction) int64 { return e.EvictedBytes })},
	{"lmcache.mp_server", "lmcache_mp.active_prefetch_jobs", "", "Number of active prefetch jobs", false,
		ofServer(func(s *ServerState) int64 { return s.PrefetchJobs })},
	{"lmcache.mp_server", "lmcache_mp.active_p2p_lookup_jobs", "", "Number of active P2P lookup jobs", false,
		ofServer(func(s *ServerState) int64 { return s.PeerLookupJobs })},
	{"lmcache.kv_events", "lmcache_mp.kv_events.log_depth", "", "Cache-event records retained for subscribers and reconnects.", false,
		ofServer(func(s *ServerState) int64 { return s.KVEventLog })},
	{"lmcache.storage", "lmcache_storage.l2_adapter_usage_bytes", "", "Bytes held in each L2 adapter, one series an adapter.", false,
		ofState(func(s *State, show func(float64, ...attribute.KeyValue)) {
			for i := range s.Adapters {
				show(float64(s.Adapters[i].UsedBytes), attribute.String("adapter_index", strconv.Itoa(s.Adapters[i].Index)), attribute.String("l2_name", s.Adapters[i].Name))
			}
		})},
	{"lmcache.server", "lmcache_server.requests", "", "Well-formed requests that came, by operation.", true,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) {
			for op, n := range s.Requests {
				show(float64(n), attribute.String("operation", op))
			}
		})},
	{"lmcache.server", "lmcache_server.refused_requests", "", "Requests that were not answered, by reason.", true,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) {
			for reason, n := range s.Refused {
				show(float64(n), attribute.String("reason", reason))
			}
		})},
	{"lmcache.server", "lmcache_server.disconnected_clients", "", "Connections that the server ended or did not take, by reason.", true,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) {
			for reason, n := range s.Disconnected {
				show(float64(n), attribute.String("reason", reason))
			}
		})},
	{"lmcache.server", "lmcache_server.requests_in_flight", "", "Requests that wait for a worker or run on one.", false,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) { show(float64(s.InFlight)) })},
	{"lmcache.server", "lmcache_server.status_polls_waiting", "", "Status polls that wait for their lookup.", false,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) { show(float64(s.Waiting)) })},
	{"lmcache.server", "lmcache_server.clients", "", "Clients that are connected.", false,
		ofFront(func(s *FrontState, show func(float64, ...attribute.KeyValue)) { show(float64(s.Clients)) })},
	{"lmcache.replay", "lmcache_replay.records", "", "Records of the trace that is replayed.", false,
		ofProgress(func(p *Progress) float64 { return float64(p.Total) })},
	{"lmcache.replay", "lmcache_replay.records_done", "", "Records that were dispatched, failed and skipped ones included.", true,
		ofProgress(func(p *Progress) float64 { return float64(p.Done) })},
	{"lmcache.replay", "lmcache_replay.records_failed", "", "Records whose call failed.", true,
		ofProgress(func(p *Progress) float64 { return float64(p.Failed) })},
	{"lmcache.replay", "lmcache_replay.records_skipped", "", "Records that were not dispatched.", true,
		ofProgress(func(p *Progress) float64 { return float64(p.Skipped) })},
	{"lmcache.replay", "lmcache_replay.schedule_lag_seconds", "", "How late the last record was dispatched against the recorded schedule.", false,
		ofProgress(func(p *Progress) float64 { return float64(p.LagNS) / 1e9 })},
	{"lmcache.bench", "lmcache_bench.requests_started", "", "Requests of the workload that have arrived.", true,
		ofBench(func(b *Bench) float64 { return float64(b.Started) })},
	{"lmcache.bench", "lmcache_bench.requests_done", "", "Requests of the workload that are done.", true,
		ofBench(func(b *Bench) float64 { return float64(b.Done) })},
	{"lmcache.bench", "lmcache_bench.workload_seconds", "", "Workload time of the last arrival.", false,
		ofBench(func(b *Bench) float64 { return b.WorkloadS })},
	{"lmcache.bench", "lmcache_bench.schedule_lag_seconds", "", "How late the last event of the engine was against its schedule.", false,
		ofBench(func(b *Bench) float64 { return float64(b.LagNS) / 1e9 })},
}

func (t *Telemetry) defineGauges() error {
	for i := range gauges {
		g := &gauges[i]
		observe := func(_ context.Context, o metric.Float64Observer) error {
			g.observe(t, func(v float64, labels ...attribute.KeyValue) { o.Observe(v, metric.WithAttributes(labels...)) })
			return nil
		}
		m := t.meters.Meter(g.meter)
		var err error
		if g.counter {
			_, err = m.Float64ObservableCounter(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.help), metric.WithFloat64Callback(observe))
		} else {
			_, err = m.Float64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.help), metric.WithFloat64Callback(observe))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
