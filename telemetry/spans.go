package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
)

// spans makes a span of every call, with children for what L2 does for it. All
// of one request is one trace: its prefetch, lookups and loads, the reads of the
// prefetched chunks and their release. A finish_write joins its reserve_write,
// and the stores join the finish_write.
//
// A child may be heard of before its parent has ended, so a parent's identity
// is made up when it is first referred to, and given to the span when it comes.
type spans struct {
	tracer   trace.Tracer
	requests refs[int64]        // prefetch call, by the number of the prefetch
	reads    refs[kv.ObjectKey] // prefetch call, by the keys that it asked for
	writes   refs[kv.ObjectKey] // reserve_write, by its first key
	stores   refs[kv.ObjectKey] // finish_write, by key
	open     map[transfer]openSpan
}

// ref is the identity of a span.
type ref struct {
	trace trace.TraceID
	span  trace.SpanID
}

type openSpan struct {
	span trace.Span
	at   int64
}

// refs remembers spans under keys, the latest maxRefs of them.
type refs[K comparable] struct {
	m    map[K]ref
	ring []K
	next int
}

const maxRefs = 1 << 16

func (r *refs[K]) get(k K) (ref, bool) { v, ok := r.m[k]; return v, ok }

func (r *refs[K]) put(k K, v ref) {
	if r.m == nil {
		r.m = map[K]ref{}
	}
	if _, known := r.m[k]; !known {
		if len(r.ring) < maxRefs {
			r.ring = append(r.ring, k)
		} else {
			delete(r.m, r.ring[r.next])
			r.ring[r.next] = k
			r.next = (r.next + 1) % maxRefs
		}
	}
	r.m[k] = v
}

// orNew returns what is under k, or a new identity, in a trace of its own if in
// is zero.
func (r *refs[K]) orNew(k K, in trace.TraceID) ref {
	if v, ok := r.get(k); ok {
		return v
	}
	v := newRef(in)
	r.put(k, v)
	return v
}

func newRef(in trace.TraceID) (v ref) {
	if v.trace = in; !in.IsValid() {
		binary.NativeEndian.PutUint64(v.trace[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(v.trace[8:], rand.Uint64()|1)
	}
	binary.NativeEndian.PutUint64(v.span[:], rand.Uint64()|1)
	return v
}

func newSpans(p trace.TracerProvider) *spans {
	return &spans{tracer: p.Tracer("lmcache.storage"), open: map[transfer]openSpan{}}
}

func (s *spans) Name() string { return "StorageTracingSubscriber" }

func (s *spans) Events() event.Set {
	return event.SetOf(event.CallDispatched, event.L2StoreSubmitted, event.L2StoreCompleted,
		event.L2LookupSubmitted, event.L2LoadSubmitted, event.L2LoadTaskSubmitted, event.L2LoadTaskCompleted, event.SMPrefetchCompleted)
}

// identityKey carries the identity that a span is to get.
type identityKey struct{}

// idGenerator gives spans the identity in their context, or a random one.
type idGenerator struct{}

func (idGenerator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	v, ok := ctx.Value(identityKey{}).(ref)
	if !ok {
		v = newRef(trace.TraceID{})
	}
	return v.trace, v.span
}

func (idGenerator) NewSpanID(ctx context.Context, in trace.TraceID) trace.SpanID {
	v, ok := ctx.Value(identityKey{}).(ref)
	if !ok {
		v = newRef(in)
	}
	return v.span
}

// start begins a span with identity id below parent, which may be zero.
func (s *spans) start(name string, id, parent ref, atNS int64, attributes ...attribute.KeyValue) trace.Span {
	ctx := context.WithValue(context.Background(), identityKey{}, id)
	if parent.span.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: parent.trace, SpanID: parent.span, TraceFlags: trace.FlagsSampled}))
	}
	_, span := s.tracer.Start(ctx, name, trace.WithTimestamp(time.Unix(0, atNS)), trace.WithAttributes(attributes...))
	return span
}

func end(span trace.Span, atNS int64) { span.End(trace.WithTimestamp(time.Unix(0, atNS))) }

func (s *spans) Handle(e *event.Event) error {
	switch e.Type {
	case event.CallDispatched:
		s.call(e)
	case event.L2StoreSubmitted:
		parent := s.storeParent(e.Keys)
		id := newRef(parent.trace)
		s.open[transfer{false, e.Adapter, int64(e.TaskID)}] = openSpan{s.start("l2.store", id, parent, e.Time,
			attribute.String("l2_name", e.L2Name), attribute.Int("adapter_index", e.Adapter),
			attribute.Int("key_count", len(e.Keys)), attribute.Int64("total_bytes", e.Bytes)), e.Time}
	case event.L2StoreCompleted:
		s.finish(transfer{false, e.Adapter, int64(e.TaskID)}, e, attribute.Int("stored_count", e.Count), attribute.Int("failed_count", e.Lost))
	case event.L2LookupSubmitted:
		parent := s.request(e)
		s.open[transfer{true, -1, e.RequestID}] = openSpan{s.start("l2.lookup", newRef(parent.trace), parent, e.Time,
			attribute.Int("key_count", len(e.Keys)), attribute.Int("adapter_count", e.Adapters)), e.Time}
	case event.L2LoadSubmitted:
		s.finish(transfer{true, -1, e.RequestID}, e, attribute.Int("planned_count", len(e.Keys)))
	case event.L2LoadTaskSubmitted:
		parent := s.request(e)
		s.open[transfer{true, e.Adapter, e.RequestID}] = openSpan{s.start("l2.load", newRef(parent.trace), parent, e.Time,
			attribute.String("l2_name", e.L2Name), attribute.Int("adapter_index", e.Adapter),
			attribute.Int("key_count", e.Count), attribute.Int64("total_bytes", e.Bytes)), e.Time}
	case event.L2LoadTaskCompleted:
		s.finish(transfer{true, e.Adapter, e.RequestID}, e)
	case event.SMPrefetchCompleted:
		s.finish(transfer{true, -1, e.RequestID}, e) // a lookup after which there was nothing to load
		parent := s.request(e)
		end(s.start("prefetch.completed", newRef(parent.trace), parent, e.Time-e.Duration,
			attribute.Int("requested_keys", e.Count), attribute.Int("l1_hit_keys", e.L1Hits), attribute.Int("l2_hit_keys", e.L2Hits)), e.Time)
	}
	return nil
}

func (s *spans) finish(t transfer, e *event.Event, attributes ...attribute.KeyValue) {
	o, ok := s.open[t]
	if !ok {
		return
	}
	delete(s.open, t)
	o.span.SetAttributes(attributes...)
	if e.Lost > 0 {
		o.span.SetStatus(codes.Error, "")
	}
	end(o.span, max(e.Time, o.at))
}

// request returns the identity of the prefetch that e belongs to.
func (s *spans) request(e *event.Event) ref { return s.requests.orNew(e.RequestID, trace.TraceID{}) }

// storeParent returns the identity of the finish_write that admitted keys.
func (s *spans) storeParent(keys []kv.ObjectKey) ref {
	if len(keys) == 0 {
		return ref{}
	}
	if id, ok := s.stores.get(keys[0]); ok {
		return id
	}
	reserved, _ := s.writes.get(keys[0])
	id := newRef(reserved.trace)
	for i := range keys {
		s.stores.put(keys[i], id)
	}
	return id
}

// call makes the span of a call that has returned.
func (s *spans) call(e *event.Event) {
	var id, parent ref
	first := kv.ObjectKey{}
	if len(e.Keys) > 0 {
		first = e.Keys[0]
	}
	switch e.Text[strings.LastIndexByte(e.Text, '.')+1:] {
	case "reserve_write":
		id = newRef(trace.TraceID{})
		s.writes.put(first, id)
	case "finish_write":
		parent, _ = s.writes.get(first)
		id = s.stores.orNew(first, parent.trace)
		if parent.trace != id.trace {
			parent = ref{}
		}
		for i := range e.Keys {
			s.stores.put(e.Keys[i], id)
		}
	case "submit_prefetch_task":
		id = s.request(e)
		for i := range e.Keys {
			s.reads.put(e.Keys[i], id)
		}
	default:
		parent, _ = s.reads.get(first)
		id = newRef(parent.trace)
	}
	span := s.start(e.Text, id, parent, e.Time-e.Duration,
		attribute.String("external_request_id", e.Session), attribute.Int("key_count", len(e.Keys)),
		attribute.Float64("schedule_lag_seconds", float64(e.Lag)/1e9))
	if e.Lost > 0 {
		span.SetStatus(codes.Error, e.Reason)
	}
	end(span, e.Time)
}

// Close ends what is still open.
func (s *spans) Close() error {
	for t, o := range s.open {
		end(o.span, o.at)
		delete(s.open, t)
	}
	return nil
}
