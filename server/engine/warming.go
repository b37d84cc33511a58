package engine

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// maxWarming bounds the prefetches whose result nobody has asked for.
const maxWarming = 1 << 14

// warming is a prefetch for whoever comes later.
type warming struct {
	handle sm.PrefetchHandle
	keys   int
}

// waits says whether a lookup's answer is outstanding.
func (s *session) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup != nil
}

// Prefetch begins to load the full chunks of tokens into L1, to stay there
// without locks, wherever they are in the stores below. It returns how many
// chunks that are; with none there is nothing to ask for later. It fails with
// ErrNoLayout if nobody has registered that deployment.
func (e *Engine) Prefetch(model string, worldSize int, salt string, tokens []uint32) (id string, chunks int, err error) {
	k := wire.Key{Model: model, WorldSize: worldSize, Worker: wire.AllWorkers, Salt: salt}
	scope, err := checkKey(&k)
	if err != nil {
		return "", 0, err
	}
	layout, known := e.layout(model, worldSize)
	if !known {
		return "", 0, fmt.Errorf("%w for model_name='%s' world_size=%d", ErrNoLayout, model, worldSize)
	}
	hashes := e.hasher.Append(nil, tokens)
	if len(hashes) == 0 {
		return "", 0, nil
	}
	var random [16]byte
	_, _ = rand.Read(random[:])
	id = hex.EncodeToString(random[:])
	spec := grid(hashes, scope, worldSize, layout)
	spec.Policy, spec.Lock = kv.FetchFull, kv.NoLock
	h, err := e.storage.SubmitPrefetchTask(&spec, id, false)
	if err != nil {
		return "", 0, err
	}
	now := e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.warmings.put(id, &warming{h, len(hashes) * worldSize}, now)
	return id, len(hashes), nil
}

// PrefetchResult returns what came of a Prefetch, once: keys that were found, of
// how many. known is false for an id that was never given or has been answered.
func (e *Engine) PrefetchResult(id string) (found, total int, done, known bool) {
	e.mu.Lock()
	w, known := e.warmings.get(id)
	e.mu.Unlock()
	if !known {
		return 0, 0, false, false
	}
	res, done := e.storage.QueryPrefetchStatus(w.handle)
	if !done {
		return 0, 0, false, true
	}
	e.mu.Lock()
	e.warmings.take(id)
	e.mu.Unlock()
	for _, row := range res.Rows {
		found += row.Hits.Count()
	}
	return found, w.keys, true, true
}
