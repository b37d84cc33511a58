package engine

import (
	"context"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// Lookup begins to look up the full chunks of k up to its End, on all ranks.
// One of a deployment that nobody has registered, or without a full chunk, finds
// nothing and asks nobody.
func (e *Engine) Lookup(k *wire.Key) error {
	n := max(0, min(k.End, len(k.Tokens))) / e.c.ChunkSize
	layout, known := e.layout(k.Model, k.WorldSize)
	l := &lookup{chunks: n, known: true}
	if n > 0 && known {
		scope, err := checkKey(k)
		if err != nil {
			return err
		}
		spec := grid(e.hashes(k, scope, n), scope, k.WorldSize, layout)
		spec.Readers = int32(min(max(k.Readers, 1), maxReaders))
		h, err := e.storage.SubmitPrefetchTask(&spec, k.RequestID, false)
		if err != nil {
			return err
		}
		l.handle, l.known = h, false
	}
	s := e.session(k.RequestID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookup, s.locked = l, kv.NewBitmap(0)
	return nil
}

// maxReaders is above what the storage manager takes, which clamps.
const maxReaders = 1 << 16

// PrefetchStatus returns how many chunks the lookup of a request has found, once:
// after that, and for a request without a lookup, it is 0. ok is false while the
// lookup runs.
func (e *Engine) PrefetchStatus(requestID string) (hits int, ok bool) {
	s := e.sessionOf(requestID)
	if s == nil {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookup == nil {
		return 0, true
	}
	if !s.settle(e.storage.QueryPrefetchStatus) {
		return 0, false
	}
	hits = s.lookup.hits
	s.lookup = nil
	return hits, true
}

// WaitPrefetchStatus is PrefetchStatus when the lookup has ended, but not later
// than after timeout, or when ctx ends.
func (e *Engine) WaitPrefetchStatus(ctx context.Context, requestID string, timeout time.Duration) (hits int, ok bool) {
	if hits, ok = e.PrefetchStatus(requestID); ok || timeout <= 0 {
		return hits, ok
	}
	s := e.sessionOf(requestID)
	if s == nil {
		return 0, true
	}
	s.mu.Lock()
	l := s.lookup
	s.mu.Unlock()
	if l == nil {
		return 0, true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := e.clock.AfterFunc(timeout, cancel)
	defer stop()
	res, ok := e.storage.WaitPrefetchStatus(ctx, l.handle)
	if !ok { // in time; or another has taken the result
		return e.PrefetchStatus(requestID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookup != l { // there is a later one; this one's locks lapse
		return 0, true
	}
	s.found(res)
	hits = l.hits
	s.lookup = nil
	return hits, true
}

// sessionOf returns the session of a request, nil if there is none.
func (e *Engine) sessionOf(requestID string) *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, _ := e.sessions.get(requestID)
	return s
}

// settle asks for the result of the lookup, unless it is there. The caller
// holds the lock.
func (s *session) settle(query func(sm.PrefetchHandle) (*sm.PrefetchResult, bool)) bool {
	if s.lookup.known {
		return true
	}
	res, ok := query(s.lookup.handle)
	if ok {
		s.found(res)
	}
	return ok
}

// found keeps the result of the lookup. The caller holds the lock.
func (s *session) found(res *sm.PrefetchResult) {
	l := s.lookup
	l.hits, l.known = l.chunks, true
	for _, row := range res.Rows {
		l.hits = min(l.hits, row.Hits.LeadingOnes())
	}
	s.locked = kv.NewBitmap(l.hits)
	for i := range l.hits {
		s.locked.Set(i)
	}
}

// FreeLookupLocks gives back what the lookup of the request has locked within
// the range of k, on all ranks. What is not locked is left alone.
func (e *Engine) FreeLookupLocks(k *wire.Key) error {
	scope, err := checkKey(k)
	if err != nil {
		return err
	}
	first, last, err := e.chunks(k)
	if err != nil {
		return err
	}
	s := e.sessionOf(k.RequestID)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	if s.lookup != nil {
		s.settle(e.storage.QueryPrefetchStatus)
	}
	hashes := e.hasher.Extend(&s.chain, k.Tokens[:last*e.c.ChunkSize])
	var keys []kv.ObjectKey
	for c := first; c < min(last, s.locked.Len()); c++ {
		if s.locked.Test(c) {
			s.locked.Clear(c)
			keys = append(keys, onAllRanks(hashes[c:c+1], scope, k.WorldSize)...)
		}
	}
	s.mu.Unlock()
	if len(keys) > 0 {
		e.storage.FinishReadPrefetched(keys, max(k.Readers, 1))
	}
	return nil
}
