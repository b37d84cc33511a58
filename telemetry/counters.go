package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
)

// counters counts the events of one family of LMCache's. Its fields belong to
// the goroutine of the bus.
type counters struct {
	name   string
	rules  [64][]rule // by event type
	events event.Set
	sets   map[labelSet]metric.AddOption
	counts map[kv.Scope]int64
	order  []kv.Scope
}

// A rule adds to one counter for one event.
type rule struct {
	counter metric.Float64Counter
	split   split
	labels  labels
	amount  func(e *event.Event) int64 // nil: the keys
}

// split says by what the keys of an event are told apart.
type split uint8

const (
	whole   split = iota // one addition
	bySalt               // one a salt; no label where the salt is empty
	byModel              // one a model
)

// labels says which labels of the event a counter carries.
type labels uint8

const (
	l1Tag labels = 1 << iota
	l2Name
	during
	reason
	exception
)

// labelSet is what a set of attributes is made of.
type labelSet struct {
	scope kv.Scope
	split split
	l1, l2, during,
	reason, exception string
}

func (c *counters) Name() string      { return c.name }
func (c *counters) Events() event.Set { return c.events }

func (c *counters) Handle(e *event.Event) error {
	for i := range c.rules[e.Type] {
		c.apply(&c.rules[e.Type][i], e)
	}
	return nil
}

func (c *counters) apply(r *rule, e *event.Event) {
	set := labelSet{split: r.split}
	if r.labels&l1Tag != 0 {
		set.l1 = e.L1Tag
	}
	if r.labels&l2Name != 0 {
		set.l2 = e.L2Name
	}
	if r.labels&during != 0 {
		set.during = e.During
	}
	if r.labels&reason != 0 {
		set.reason = e.Reason
	}
	if r.labels&exception != 0 {
		set.exception = e.Reason
	}
	if r.split == whole {
		n := int64(len(e.Keys))
		if r.amount != nil {
			n = r.amount(e)
		}
		if n > 0 {
			r.counter.Add(context.Background(), float64(n), c.option(set))
		}
		return
	}
	// Few scopes a call: almost always one.
	c.order = c.order[:0]
	clear(c.counts)
	for i := range e.Keys {
		s := e.Keys[i].Scope
		if c.counts[s] == 0 {
			c.order = append(c.order, s)
		}
		c.counts[s]++
	}
	for _, s := range c.order {
		set.scope = s
		r.counter.Add(context.Background(), float64(c.counts[s]), c.option(set))
	}
}

// option returns the attributes of a set, which are put together once.
func (c *counters) option(set labelSet) metric.AddOption {
	if o, ok := c.sets[set]; ok {
		return o
	}
	var list []attribute.KeyValue
	add := func(key, value string) {
		if value != "" {
			list = append(list, attribute.String(key, value))
		}
	}
	add("l1_tag", set.l1)
	add("l2_name", set.l2)
	add("during", set.during)
	add("reason", set.reason)
	add("exception_type", set.exception)
	switch set.split {
	case bySalt:
		add("cache_salt", set.scope.Salt())
	case byModel:
		list = append(list, attribute.String("model_name", set.scope.Model()))
	}
	o := metric.WithAttributeSet(attribute.NewSet(list...))
	c.sets[set] = o
	return o
}

// counting is one counter of the table below.
type counting struct {
	subscriber, meter, name, unit, help string
	on                                  []event.Type
	split                               split
	labels                              labels
	amount                              func(*event.Event) int64
}

func one(*event.Event) int64 { return 1 }

func sizes(e *event.Event) (sum int64) {
	for _, n := range e.Sizes {
		sum += n
	}
	return sum
}

// countings are the counters that events feed: LMCache's, and ours, which begin
// with lmcache_storage.
//
// Source: reference observability.md, section 3.2.
var countings = []counting{
	{"L1MetricsSubscriber", "lmcache.l1", "lmcache_mp.l1_read", "chunks", "Total chunks read from L1", []event.Type{event.L1ReadFinished}, bySalt, l1Tag, nil},
	{"L1MetricsSubscriber", "lmcache.l1", "lmcache_mp.l1_write", "chunks", "Total chunks written to L1", []event.Type{event.L1WriteFinished, event.L1WriteFinishedAndRead}, bySalt, l1Tag, nil},
	{"L1MetricsSubscriber", "lmcache.l1", "lmcache_mp.l1_evicted", "chunks", "Total chunks evicted from L1", []event.Type{event.L1KeysEvicted}, bySalt, l1Tag, nil},
	{"L1MetricsSubscriber", "lmcache.storage", "lmcache_storage.l1_written_bytes", "", "Bytes of the chunks written to L1, loads from L2 included, without padding.", []event.Type{event.L1WriteFinished, event.L1WriteFinishedAndRead}, whole, l1Tag, sizes},
	{"L1MetricsSubscriber", "lmcache.storage", "lmcache_storage.l1_removed_bytes", "", "Bytes of the chunks that left L1, for whatever reason, without padding.", []event.Type{event.L1KeysEvicted}, whole, l1Tag, sizes},
	{"L1EvictionLoopSubscriber", "lmcache.l1", "lmcache_mp.l1_eviction_loop_ticks", "", "L1 eviction-loop iterations (every cycle)", []event.Type{event.L1EvictionLoopTick}, whole, 0, one},
	{"L1EvictionLoopSubscriber", "lmcache.l1", "lmcache_mp.l1_eviction_loop_triggered", "", "L1 eviction-loop iterations where the policy ran", []event.Type{event.L1EvictionLoopTick}, whole, 0,
		func(e *event.Event) int64 {
			if e.Triggered {
				return 1
			}
			return 0
		}},
	{"L1FailureMetricsSubscriber", "lmcache_mp.health", "lmcache_mp.l1_allocation_failure", "chunks", "Count of L1 memory allocation failures (OOM) during reserve_write. Tagged by ``during`` = l1_store | l2_prefetch and ``model_name``.", []event.Type{event.L1AllocationFailed}, byModel, during, nil},
	{"L1FailureMetricsSubscriber", "lmcache_mp.health", "lmcache_mp.l1_read_failure", "chunks", "Count of L1 reserve_read failures (post-lookup anomaly). Tagged by ``during`` = l2_store | l1_retrieve, ``reason`` = not_found | write_locked, and ``model_name``. Should stay near zero in healthy operation; non-zero indicates a lookup/reserve race or unexpected eviction.", []event.Type{event.L1ReadFailed}, byModel, during | reason, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_store_submitted", "requests", "Total L2 store requests submitted", []event.Type{event.L2StoreSubmitted}, whole, 0, one},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_store_submitted_objects", "chunks", "Total chunks submitted for L2 store", []event.Type{event.L2StoreSubmitted}, bySalt, 0, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_store_completed", "requests", "Total L2 store requests completed", []event.Type{event.L2StoreCompleted}, whole, l2Name, one},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_store_completed_objects", "chunks", "Total chunks successfully stored to L2", []event.Type{event.L2StoreCompleted}, bySalt, 0, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_load_completed", "requests", "Total L2 load tasks completed (per-adapter)", []event.Type{event.L2LoadTaskCompleted}, whole, l2Name, one},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_prefetch_lookup", "requests", "Total L2 prefetch lookup requests submitted", []event.Type{event.L2LookupSubmitted}, whole, 0, one},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_prefetch_lookup_objects", "chunks", "Total chunks submitted for L2 prefetch lookup", []event.Type{event.L2LookupSubmitted}, bySalt, 0, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_prefetch_load_submitted", "requests", "Total L2 prefetch load requests submitted (per-adapter)", []event.Type{event.L2LoadSubmitted}, whole, 0,
		func(e *event.Event) int64 { return int64(e.Adapters) }},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_prefetch_load_submitted_objects", "chunks", "Total chunks submitted for L2 load", []event.Type{event.L2LoadSubmitted}, bySalt, 0, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_prefetch_load_completed", "chunks", "Total chunks successfully loaded from L2", []event.Type{event.L2LoadCompleted}, bySalt, 0, nil},
	{"L2MetricsSubscriber", "lmcache.l2", "lmcache_mp.l2_evicted_objects", "chunks", "Total chunks evicted from L2", []event.Type{event.L2KeysEvicted}, bySalt, 0, nil},
	{"L2FailureMetricsSubscriber", "lmcache_mp.health", "lmcache_mp.l2_prefetch_failure", "chunks", "Count of keys that were expected in L2 but failed to load into L1. Tagged by ``reason`` = l1_oom | l1_contended | not_found and ``model_name``.", []event.Type{event.L2PrefetchFailed}, byModel, reason, nil},
	{"TimeoutMetricsSubscriber", "lmcache_mp.health", "lmcache_mp.timeouts", "", "Timeouts that were raised, by class.", []event.Type{event.TimeoutRaised}, whole, exception, one},
}

// instruments makes all instruments and the subscribers that feed them.
func (t *Telemetry) instruments() ([]event.Subscriber, error) {
	if err := t.defineGauges(); err != nil {
		return nil, err
	}
	var list []event.Subscriber
	byName := map[string]*counters{}
	for i := range countings {
		row := &countings[i]
		c := byName[row.subscriber]
		if c == nil {
			c = &counters{name: row.subscriber, sets: map[labelSet]metric.AddOption{}, counts: map[kv.Scope]int64{}}
			byName[row.subscriber] = c
			list = append(list, c)
		}
		counter, err := t.meters.Meter(row.meter).Float64Counter(row.name, metric.WithUnit(row.unit), metric.WithDescription(row.help))
		if err != nil {
			return nil, err
		}
		for _, on := range row.on {
			c.events |= event.SetOf(on)
			c.rules[on] = append(c.rules[on], rule{counter, row.split, row.labels, row.amount})
		}
	}
	serving, err := t.serving()
	if err != nil {
		return nil, err
	}
	histograms, err := t.histograms()
	return append(append(list, serving), histograms...), err
}
