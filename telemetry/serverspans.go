package telemetry

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lmcache/lmcache-go/event"
)

// serverSpans makes LMCache's spans of a server: one of every request, which is
// the root of a trace, and below it its lookup and its transfers. What the
// storage manager does for a request finds its parent here.
//
// Source: reference observability.md, section 4.
type serverSpans struct {
	spans    *spans
	requests map[string]*request // by session
	open     map[served]serverSpan
	latestNS int64 // time of the last event
}

// request is the span of a request that has not ended.
type request struct {
	id        ref
	span      trace.Span
	transfers int   // submitted and not ended
	ended     bool  // as soon as they are
	lastNS    int64 // end of the last transfer
	lookup    ref   // span of its lookup
}

type serverSpan struct {
	span       trace.Span
	id         ref
	atNS       int64
	attributes []attribute.KeyValue
}

func (s *serverSpans) events() event.Set {
	return event.SetOf(event.RequestStart, event.RequestEnd, event.LookupStart, event.LookupEnd, event.TimeoutRaised,
		event.StoreSubmitted, event.StoreStart, event.StoreEnd, event.RetrieveSubmitted, event.RetrieveStart, event.RetrieveEnd)
}

// serverSpanNames names the spans of what begins and ends, by what ends it.
var serverSpanNames = map[event.Type]string{
	event.LookupEnd: "mp.lookup_prefetch", event.StoreEnd: "mp.store", event.RetrieveEnd: "mp.retrieve",
}

func (s *serverSpans) handle(e *event.Event) {
	s.latestNS = max(s.latestNS, e.Time)
	switch e.Type {
	case event.RequestStart:
		s.request(e)
	case event.RequestEnd:
		s.endRequest(e)
	case event.StoreSubmitted, event.RetrieveSubmitted:
		s.request(e).transfers++
	case event.LookupStart:
		s.request(e).lookup = s.begin(event.LookupEnd, e)
	case event.StoreStart:
		id := s.begin(event.StoreEnd, e)
		for i := range e.Keys {
			s.spans.stores.put(e.Keys[i], id)
		}
	case event.RetrieveStart:
		s.begin(event.RetrieveEnd, e)
	case event.LookupEnd:
		s.end(e)
		s.describeLookup(e)
	case event.StoreEnd, event.RetrieveEnd:
		s.end(e)
		if r := s.requests[e.Session]; r != nil {
			r.transfers, r.lastNS = max(r.transfers-1, 0), e.Time
			if r.ended && r.transfers == 0 {
				s.close(e.Session, r.lastNS)
			}
		}
	case event.TimeoutRaised:
		s.timeout(e)
	}
}

// request returns the open span of e's session, a new one if there is none.
func (s *serverSpans) request(e *event.Event) *request {
	r := s.requests[e.Session]
	if r == nil {
		if len(s.requests) >= maxRefs { // of requests whose end was dropped
			s.endAll()
		}
		r = &request{id: newRef(ref{session: e.Session})}
		r.span = s.start("request", r.id, ref{}, e.Time, attribute.String("session_id", e.Session))
		s.requests[e.Session] = r
	}
	return r
}

func (s *serverSpans) start(name string, id, parent ref, atNS int64, attributes ...attribute.KeyValue) trace.Span {
	return s.spans.startBy(s.spans.server, name, id, parent, atNS, attributes...)
}

func (s *serverSpans) endRequest(e *event.Event) {
	switch r := s.requests[e.Session]; {
	case r == nil:
	case r.transfers > 0:
		r.ended = true
	default:
		s.close(e.Session, max(e.Time, r.lastNS))
	}
}

func (s *serverSpans) close(session string, atNS int64) {
	s.spans.end(s.requests[session].span, atNS)
	delete(s.requests, session)
}

func (s *serverSpans) begin(ends event.Type, e *event.Event) ref {
	parent := s.request(e).id
	id := newRef(parent)
	if len(s.open) >= maxRefs {
		s.endAll()
	}
	s.open[keyOf(ends, e)] = serverSpan{s.start(serverSpanNames[ends], id, parent, e.Time), id, e.Time, described(e)}
	return id
}

// keyOf is servedBy of an event that may say nothing of what was served.
func keyOf(ends event.Type, e *event.Event) served {
	if e.Served == nil || ends == event.LookupEnd {
		return served{ends, e.Session, ""}
	}
	return servedBy(ends, e)
}

func (s *serverSpans) end(e *event.Event) {
	k := keyOf(e.Type, e)
	o, ok := s.open[k]
	if !ok {
		return
	}
	delete(s.open, k)
	o.span.SetAttributes(append(append(o.attributes, described(e)...), attribute.String("session_id", e.Session))...)
	s.spans.end(o.span, max(e.Time, o.atNS))
}

// described returns what an event says of itself, as text: so does LMCache.
func described(e *event.Event) (list []attribute.KeyValue) {
	of := e.Served
	if of == nil {
		return nil
	}
	text := func(key, value string) { list = append(list, attribute.String(key, value)) }
	number := func(key string, n int) { text(key, strconv.Itoa(n)) }
	if of.Model != "" {
		text("model_name", of.Model)
	}
	transfer := func() {
		text("device", of.Device)
		text("engine_id", of.Engine)
		if of.TransferKey != "" {
			text("transfer_key", of.TransferKey)
		}
	}
	switch e.Type {
	case event.LookupEnd:
		number("found_count", e.Count)
		number("requested_tokens", of.RequestedTokens)
		number("hit_tokens", of.HitTokens)
		number("l1_hit_tokens", of.L1HitTokens)
		number("l2_hit_tokens", of.L2HitTokens)
		number("l1_hit_keys", e.L1Hits)
		number("l2_hit_keys", e.L2Hits)
		text("early_exit_reason", of.EarlyExit)
		text("cache_salt", of.Salt)
	case event.StoreStart, event.RetrieveStart:
		transfer()
	case event.StoreEnd:
		transfer()
		number("stored_count", e.Count)
		number("total_bytes", int(e.Bytes))
		number("num_tokens", of.Tokens)
	case event.RetrieveEnd:
		transfer()
		number("retrieved_count", e.Count)
		number("total_bytes", int(e.Bytes))
		number("num_tokens", of.Tokens)
		text("cache_salt", of.Salt)
	}
	return list
}

// describeLookup puts the result of a lookup on the span of its request.
func (s *serverSpans) describeLookup(e *event.Event) {
	r, of := s.requests[e.Session], e.Served
	if r == nil || of == nil {
		return
	}
	rate := func(hit int) float64 {
		if of.RequestedTokens == 0 {
			return 0
		}
		return float64(hit) / float64(of.RequestedTokens)
	}
	r.span.SetAttributes(
		attribute.Int("requested_tokens", of.RequestedTokens), attribute.Int("hit_tokens", of.HitTokens), attribute.Float64("hit_rate", rate(of.HitTokens)),
		attribute.Int("l1_hit_tokens", of.L1HitTokens), attribute.Int("l2_hit_tokens", of.L2HitTokens),
		attribute.Int("l1_hit_keys", e.L1Hits), attribute.Int("l2_hit_keys", e.L2Hits),
		attribute.Float64("l1_hit_rate", rate(of.L1HitTokens)), attribute.Float64("l2_hit_rate", rate(of.L2HitTokens)),
		attribute.String("early_exit_reason", of.EarlyExit))
}

// timeout makes the span of a timeout, which has no length.
func (s *serverSpans) timeout(e *event.Event) {
	parent := ref{}
	if r := s.requests[e.Session]; r != nil {
		parent = r.id
	}
	span := s.spans.startBy(s.spans.timeouts, "timeout", newRef(parent), parent, e.Time, attribute.String("session_id", e.Session))
	span.AddEvent("exception", trace.WithTimestamp(at(e.Time)), trace.WithAttributes(
		attribute.String("exception.type", e.Reason), attribute.String("exception.message", e.Text)))
	span.SetStatus(codes.Error, e.Text)
	s.spans.end(span, e.Time)
}

// parentOf returns the span that the work for a session belongs below.
func (s *serverSpans) parentOf(session string) (ref, bool) {
	r := s.requests[session]
	switch {
	case session == "" || r == nil:
		return ref{}, false
	case r.lookup.span.IsValid():
		return r.lookup, true
	}
	return r.id, true
}

// endAll ends what is open: at a shutdown, or where so much is open that the
// events which should have ended it must have been dropped.
func (s *serverSpans) endAll() {
	for k, o := range s.open {
		s.spans.end(o.span, s.latestNS)
		delete(s.open, k)
	}
	for session := range s.requests {
		s.close(session, s.latestNS)
	}
}
