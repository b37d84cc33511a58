package engine

import (
	"sync"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/tokenhash"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// maxSessions bounds the requests that are remembered; a session is a few
// hundred bytes and 40 a chunk.
const maxSessions = 1 << 17

// session is one request of an engine, from its first message to end_session.
type session struct {
	id string // of the request; immutable

	mu     sync.Mutex // guards all below
	chain  tokenhash.Chain
	scope  kv.Scope
	world  int
	lookup *lookup   // whose answer nobody has had
	locked kv.Bitmap // chunks that the last lookup locked and nobody gave back by free_lookup_locks
}

// lookup is a lookup on its way, or its result.
type lookup struct {
	handle sm.PrefetchHandle
	chunks int
	known  bool // hits is
	hits   int
	served *event.Served // what to publish with the result; nil if nobody listens
}

// session returns the session of a request, a new one if need be.
func (e *Engine) session(requestID string) *session {
	now := e.clock.Now()
	e.mu.Lock()
	s, ok := e.sessions.get(requestID)
	if !ok {
		s = &session{id: requestID}
		e.sessions.put(requestID, s, now)
	}
	e.mu.Unlock()
	if !ok && e.c.Bus.Wants(event.RequestStart) {
		e.c.Bus.Publish(&event.Event{Type: event.RequestStart, Session: requestID})
	}
	return s
}

// hashes returns those of the first n chunks of k's tokens.
func (e *Engine) hashes(k *wire.Key, scope kv.Scope, n int) []tokenhash.Hash {
	s := e.session(k.RequestID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scope, s.world = scope, k.WorldSize
	return e.hasher.Extend(&s.chain, k.Tokens[:n*e.c.ChunkSize])
}

// EndSession forgets a request, and tells the eviction that all of its chunks
// were in use.
func (e *Engine) EndSession(requestID string) error {
	e.mu.Lock()
	s, ok := e.sessions.take(requestID)
	e.mu.Unlock()
	if !ok {
		return nil
	}
	if e.c.Bus.Wants(event.RequestEnd) {
		e.c.Bus.Publish(&event.Event{Type: event.RequestEnd, Session: requestID})
	}
	s.mu.Lock()
	keys := onAllRanks(s.chain.Hashes(), s.scope, s.world)
	s.mu.Unlock()
	if len(keys) > 0 {
		e.storage.Touch(keys)
	}
	return nil
}
