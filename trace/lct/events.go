package lct

import (
	"cmp"
	"maps"
	"slices"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// The two records of level events.
const (
	eventBatch     = "events.batch"
	eventLifecycle = "events.lifecycle"
)

// eventCounter aggregates the records of a trace of level events. An argument
// that is missing, or of another type, counts as upstream's default for it.
//
// Source: reference lct-v1.md, sections 3.3 and 5.2.
type eventCounter struct {
	instances  map[string]map[int64]bool // incarnations by instance
	batches    map[batchKind]int64
	entries    map[string]int64 // by event type
	lifecycle  map[string]int64 // by phase
	storeBytes int64
	withTokens int64
}

// SummarizeEvents counts the rest of a trace of level events that was converted.
func SummarizeEvents(src trace.Source) (*trace.EventsSummary, error) {
	var c eventCounter
	var a trace.Args
	for src.Next() {
		if src.Args(&a) == nil {
			c.add(src.Record().Qualname, a.Raw)
		}
	}
	return c.summary(), src.Err()
}

type batchKind struct {
	eventType, tier, backend string
	shared                   bool
}

// unknown stands for a name that a record does not have.
const unknown = "?"

// add counts one record with the encoded arguments args.
func (c *eventCounter) add(qualname string, args []byte) {
	switch qualname {
	case eventBatch:
		c.addBatch(args)
	case eventLifecycle:
		phase := unknown
		eachField(args, func(name, value []byte) {
			if string(name) == "phase" {
				phase = strOr(value, phase)
			}
		})
		count(&c.lifecycle, phase, 1)
	}
}

func (c *eventCounter) addBatch(args []byte) {
	instance := unknown
	kind := batchKind{eventType: unknown, tier: unknown}
	var incarnation int64
	var entries []byte
	eachField(args, func(name, value []byte) {
		switch string(name) {
		case "instance_id":
			instance = strOr(value, instance)
		case "incarnation":
			incarnation = intOr0(value)
		case "event_type":
			kind.eventType = strOr(value, kind.eventType)
		case "tier":
			kind.tier = strOr(value, kind.tier)
		case "backend":
			kind.backend = strOr(value, kind.backend)
		case "shared":
			kind.shared, _, _ = readBool(value)
		case "entries":
			entries = value
		}
	})
	if c.instances == nil {
		c.instances = map[string]map[int64]bool{}
	}
	if c.instances[instance] == nil {
		c.instances[instance] = map[int64]bool{}
	}
	c.instances[instance][incarnation] = true
	count(&c.batches, kind, 1)
	count(&c.entries, kind.eventType, 0)
	n, elems, _, err := list(entries)
	for i := uint32(0); i < n && err == nil; i++ {
		entry := elems
		if elems, err = msgp.Skip(elems); err == nil {
			c.addEntry(kind.eventType, entry)
		}
	}
}

func (c *eventCounter) addEntry(eventType string, entry []byte) {
	count(&c.entries, eventType, 1)
	if eventType != "store" {
		return
	}
	eachField(entry, func(name, value []byte) {
		switch string(name) {
		case "size_bytes":
			c.storeBytes += intOr0(value)
		case "token_ids":
			if n, _, _, err := list(value); err == nil && n > 0 {
				c.withTokens++
			}
		}
	})
}

func count[K comparable](m *map[K]int64, k K, n int64) {
	if *m == nil {
		*m = map[K]int64{}
	}
	(*m)[k] += n
}

// eachField calls f for the fields of the encoded map b; not at all for
// another value. value begins with the field's value and goes on behind it.
func eachField(b []byte, f func(name, value []byte)) {
	n, b, err := fields(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = mapKey(b); err == nil {
			value := b
			if b, err = msgp.Skip(b); err == nil {
				f(name, value)
			}
		}
	}
}

func strOr(b []byte, otherwise string) string {
	if v, _, err := readStr(b); err == nil {
		return string(v)
	}
	return otherwise
}

func intOr0(b []byte) int64 {
	v, _, err := readInt(b)
	if err != nil {
		return 0
	}
	return v
}

// summary returns the counts, sorted.
func (c *eventCounter) summary() *trace.EventsSummary {
	s := &trace.EventsSummary{
		Entries: sortedCounts(c.entries), Lifecycle: sortedCounts(c.lifecycle),
		StoreBytes: c.storeBytes, EntriesWithTokens: c.withTokens,
	}
	for _, id := range slices.Sorted(maps.Keys(c.instances)) {
		s.Instances = append(s.Instances, trace.EventInstance{ID: id, Incarnations: slices.Sorted(maps.Keys(c.instances[id]))})
	}
	for k, n := range c.batches {
		s.Batches = append(s.Batches, trace.EventBatches{Type: k.eventType, Tier: k.tier, Backend: k.backend, Shared: k.shared, Count: n})
	}
	slices.SortFunc(s.Batches, func(a, b trace.EventBatches) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Backend, b.Backend), compareBool(a.Shared, b.Shared))
	})
	return s
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func sortedCounts(m map[string]int64) (counts []trace.OpCount) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		counts = append(counts, trace.OpCount{Qualname: k, Count: m[k]})
	}
	return counts
}
