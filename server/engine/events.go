package engine

import (
	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// Why a lookup asks nobody, in LMCache's words.
const (
	exitNoLayout = "no_gpu_context"
	exitNoChunk  = "empty_chunk_hashes"
)

// publishLookup tells that a lookup begins, and of one that asks nobody that it has
// ended. It returns what publishResult needs, nil if nobody listens.
//
// Like LMCache's, transfers that engines drive are not told: how long an engine
// takes between prepare and commit is its own affair.
func (e *Engine) publishLookup(k *wire.Key, chunks int, known bool) *event.Served {
	if !e.c.Bus.Wants(event.LookupStart) && !e.c.Bus.Wants(event.LookupEnd) {
		return nil
	}
	of := event.Served{Model: k.Model, Salt: k.Salt, RequestedTokens: chunks * e.c.ChunkSize}
	start := of // nobody changes what was published
	e.c.Bus.Publish(&event.Event{Type: event.LookupStart, Session: k.RequestID, Served: &start})
	switch {
	case !known:
		of.EarlyExit = exitNoLayout
	case chunks == 0:
		of.EarlyExit = exitNoChunk
	default:
		return &of
	}
	e.c.Bus.Publish(&event.Event{Type: event.LookupEnd, Session: k.RequestID, Served: &of})
	return nil
}

// publishResult tells what a lookup has found. The caller holds the session's
// lock, and has set hits.
func (s *session) publishResult(e *Engine, res *sm.PrefetchResult) {
	l := s.lookup
	if l.served == nil {
		return
	}
	inL1 := l.hits
	for _, row := range res.Rows {
		inL1 = min(inL1, row.L1.LeadingOnes())
	}
	of := l.served
	l.served = nil
	of.HitTokens, of.L1HitTokens = l.hits*e.c.ChunkSize, inL1*e.c.ChunkSize
	of.L2HitTokens = of.HitTokens - of.L1HitTokens
	e.c.Bus.Publish(&event.Event{Type: event.LookupEnd, Session: s.id, Served: of, L1Hits: res.L1Hits, L2Hits: res.L2Hits, Count: l.hits})
}
