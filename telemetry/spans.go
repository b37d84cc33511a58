package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
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
	server   trace.Tracer // LMCache's names of scopes, as the next
	timeouts trace.Tracer
	served   serverSpans
	requests refs[int64]        // prefetch call, by the number of the prefetch
	reads    refs[kv.ObjectKey] // prefetch call, by the keys that it asked for
	writes   refs[kv.ObjectKey] // reserve_write, by its first key
	stores   refs[kv.ObjectKey] // finish_write, by key
	open     map[transfer]openSpan
	ended    atomic.Int64
}

// ref is the identity of a span, and of the request that it belongs to.
type ref struct {
	trace   trace.TraceID
	span    trace.SpanID
	session string // external request id
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

// orNew returns what is under k, or a new identity of the same request as in, in
// a trace of its own if in is zero.
func (r *refs[K]) orNew(k K, in ref) ref {
	if v, ok := r.get(k); ok {
		return v
	}
	v := newRef(in)
	r.put(k, v)
	return v
}

func newRef(in ref) (v ref) {
	if v.trace, v.session = in.trace, in.session; !v.trace.IsValid() {
		binary.NativeEndian.PutUint64(v.trace[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(v.trace[8:], rand.Uint64()|1)
	}
	binary.NativeEndian.PutUint64(v.span[:], rand.Uint64()|1)
	return v
}

func newSpans(p trace.TracerProvider) *spans {
	s := &spans{tracer: p.Tracer("lmcache.storage"), server: p.Tracer("lmcache_mp.server"), timeouts: p.Tracer("lmcache_mp.timeout"), open: map[transfer]openSpan{}}
	s.served = serverSpans{spans: s, requests: map[string]*request{}, open: map[served]serverSpan{}}
	return s
}

func (s *spans) Name() string { return "StorageTracingSubscriber" }

func (s *spans) Events() event.Set {
	return s.served.events() | event.SetOf(event.CallDispatched, event.L2StoreSubmitted, event.L2StoreCompleted,
		event.L2LookupSubmitted, event.L2LoadSubmitted, event.L2LoadTaskSubmitted, event.L2LoadCompleted, event.SMPrefetchCompleted)
}

// identityKey carries the identity that a span is to get.
type identityKey struct{}

// idGenerator gives spans the identity in their context, or a random one.
type idGenerator struct{}

func (idGenerator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	v, ok := ctx.Value(identityKey{}).(ref)
	if !ok {
		v = newRef(ref{})
	}
	return v.trace, v.span
}

func (idGenerator) NewSpanID(ctx context.Context, in trace.TraceID) trace.SpanID {
	v, ok := ctx.Value(identityKey{}).(ref)
	if !ok {
		v = newRef(ref{trace: in})
	}
	return v.span
}

// start begins a span with identity id below parent, which may be zero.
func (s *spans) start(name string, id, parent ref, atNS int64, attributes ...attribute.KeyValue) trace.Span {
	if id.session != "" {
		attributes = append(attributes, attribute.String("external_request_id", id.session))
	}
	return s.startBy(s.tracer, name, id, parent, atNS, attributes...)
}

func (s *spans) startBy(tracer trace.Tracer, name string, id, parent ref, atNS int64, attributes ...attribute.KeyValue) trace.Span {
	ctx := context.WithValue(context.Background(), identityKey{}, id)
	if parent.span.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: parent.trace, SpanID: parent.span, TraceFlags: trace.FlagsSampled}))
	}
	_, span := tracer.Start(ctx, name, trace.WithTimestamp(at(atNS)), trace.WithAttributes(attributes...))
	return span
}

func (s *spans) end(span trace.Span, atNS int64) {
	s.ended.Add(1)
	span.End(trace.WithTimestamp(at(atNS)))
}

func at(ns int64) time.Time { return time.Unix(0, ns) }

// keep remembers a span until it is to end. Where so many are open, the events
// that should have ended them were dropped.
func (s *spans) keep(t transfer, span trace.Span, atNS int64) {
	if len(s.open) >= maxRefs {
		s.endAll()
	}
	s.open[t] = openSpan{span, atNS}
}

func (s *spans) endAll() {
	for t, o := range s.open {
		s.end(o.span, o.at)
		delete(s.open, t)
	}
}

func (s *spans) Handle(e *event.Event) error {
	switch e.Type {
	case event.CallDispatched:
		s.call(e)
	case event.L2StoreSubmitted:
		parent := s.storeParent(e.Keys)
		s.keep(transfer{false, e.Adapter, int64(e.TaskID)}, s.start("l2.store", newRef(parent), parent, e.Time,
			attribute.String("l2_name", e.L2Name), attribute.Int("adapter_index", e.Adapter),
			attribute.Int("key_count", len(e.Keys)), attribute.Int64("total_bytes", e.Bytes)), e.Time)
	case event.L2StoreCompleted:
		s.finish(transfer{false, e.Adapter, int64(e.TaskID)}, e, attribute.Int("stored_count", e.Count), attribute.Int("failed_count", e.Lost))
	case event.L2LookupSubmitted:
		parent := s.request(e)
		s.keep(transfer{true, -1, e.RequestID}, s.start("l2.lookup", newRef(parent), parent, e.Time,
			attribute.Int("key_count", len(e.Keys)), attribute.Int("adapter_count", e.Adapters)), e.Time)
	case event.L2LoadSubmitted:
		s.finish(transfer{true, -1, e.RequestID}, e, attribute.Int("planned_count", len(e.Keys)))
	case event.L2LoadTaskSubmitted:
		parent := s.request(e)
		s.keep(transfer{true, e.Adapter, e.RequestID}, s.start("l2.load", newRef(parent), parent, e.Time,
			attribute.String("l2_name", e.L2Name), attribute.Int("adapter_index", e.Adapter),
			attribute.Int("key_count", e.Count), attribute.Int64("total_bytes", e.Bytes)), e.Time)
	case event.L2LoadCompleted:
		s.finish(transfer{true, e.Adapter, e.RequestID}, e, attribute.Int("loaded_count", len(e.Keys)), attribute.Int("failed_count", len(e.Failed)))
	case event.SMPrefetchCompleted:
		s.finish(transfer{true, -1, e.RequestID}, e) // a lookup after which there was nothing to load
		parent := s.request(e)
		s.end(s.start("prefetch.completed", newRef(parent), parent, e.Time-e.Duration,
			attribute.Int("requested_keys", e.Count), attribute.Int("l1_hit_keys", e.L1Hits), attribute.Int("l2_hit_keys", e.L2Hits)), e.Time)
	default:
		s.served.handle(e)
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
	if e.Lost > 0 || len(e.Failed) > 0 {
		o.span.SetStatus(codes.Error, "")
	}
	s.end(o.span, max(e.Time, o.at))
}

// request returns the identity of the prefetch that e belongs to; in a server
// that of the lookup that asked for it.
func (s *spans) request(e *event.Event) ref {
	if id, ok := s.requests.get(e.RequestID); ok {
		return id
	}
	if parent, ok := s.served.parentOf(e.Session); ok {
		s.requests.put(e.RequestID, parent)
		return parent
	}
	return s.requests.orNew(e.RequestID, ref{session: e.Session})
}

// storeParent returns the identity of the finish_write that admitted keys.
func (s *spans) storeParent(keys []kv.ObjectKey) ref {
	if len(keys) == 0 {
		return ref{}
	}
	if id, ok := s.stores.get(keys[0]); ok {
		return id
	}
	reserved, _ := s.writes.get(keys[0])
	id := newRef(reserved)
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
	switch e.Text {
	case "reserve_write":
		id = newRef(ref{session: e.Session})
		s.writes.put(first, id)
	case "finish_write":
		parent, _ = s.writes.get(first)
		id = s.stores.orNew(first, parent)
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
		if id = newRef(parent); id.session == "" {
			id.session = e.Session
		}
	}
	span := s.start("sm."+e.Text, id, parent, e.Time-e.Duration,
		attribute.Int("key_count", len(e.Keys)),
		attribute.Float64("schedule_lag_seconds", float64(e.Lag)/1e9))
	if e.Lost > 0 {
		span.SetStatus(codes.Error, e.Reason)
	}
	s.end(span, e.Time)
}

// Close ends what is still open.
func (s *spans) Close() error {
	s.endAll()
	s.served.endAll()
	return nil
}
