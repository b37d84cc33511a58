package engine

import (
	"fmt"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/tokenhash"
	"github.com/lmcache/lmcache-go/server/wire"
)

// deployment is what objects have one layout for.
type deployment struct {
	model string
	world int
}

// maxWorld is the largest world size that a rank can hold.
const maxWorld = 255

// checkKey refuses keys that no object can have.
func checkKey(k *wire.Key) (kv.Scope, error) {
	if k.WorldSize < 1 || k.WorldSize > maxWorld {
		return 0, fmt.Errorf("%w: world_size %d", ErrKey, k.WorldSize)
	}
	if k.Worker != wire.AllWorkers && (k.Worker < 0 || k.Worker >= k.WorldSize) {
		return 0, fmt.Errorf("%w: worker_id %d of %d", ErrKey, k.Worker, k.WorldSize)
	}
	return kv.InternScope(k.Model, k.Salt)
}

// chunks returns the range of k in chunks.
func (e *Engine) chunks(k *wire.Key) (first, last int, err error) {
	n := e.c.ChunkSize
	if k.Start < 0 || k.End < k.Start || k.End > len(k.Tokens) || k.Start%n != 0 || k.End%n != 0 {
		return 0, 0, fmt.Errorf("%w: %d to %d of %d tokens, %d a chunk", ErrRange, k.Start, k.End, len(k.Tokens), n)
	}
	return k.Start / n, k.End / n, nil
}

func rankOf(world, worker int) uint64 {
	w, r := uint64(world), uint64(worker)
	return kv.PackRank(w, r, w, r)
}

// objectKey returns the key of one chunk on one rank.
func objectKey(h tokenhash.Hash, scope kv.Scope, rank uint64) kv.ObjectKey {
	return kv.ObjectKey{Hash: h, HashLen: tokenhash.Bytes, Scope: scope, Rank: rank}
}

// onRank returns the keys of chunks on one rank.
func onRank(hashes []tokenhash.Hash, scope kv.Scope, rank uint64) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, len(hashes))
	for i, h := range hashes {
		keys[i] = objectKey(h, scope, rank)
	}
	return keys
}

// onAllRanks returns the keys of chunks on all ranks, chunk by chunk.
func onAllRanks(hashes []tokenhash.Hash, scope kv.Scope, world int) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, 0, len(hashes)*world)
	for _, h := range hashes {
		for r := range world {
			keys = append(keys, objectKey(h, scope, rankOf(world, r)))
		}
	}
	return keys
}

// grid returns the prefetch of chunks on all ranks, a row a rank.
func grid(hashes []tokenhash.Hash, scope kv.Scope, world int, layout kv.Layout) kv.PrefetchSpec {
	spec := kv.PrefetchSpec{Readers: 1, Groups: make([]kv.KeyGroup, world)}
	for r := range spec.Groups {
		spec.Groups[r] = kv.KeyGroup{Keys: onRank(hashes, scope, rankOf(world, r)), Layout: layout, Window: kv.FullAttention}
	}
	return spec
}

// transfer names a prepared store or retrieve until it is committed: the
// request id does not belong to it.
type transfer struct {
	scope         kv.Scope
	world, worker int
	first, last   int            // chunks
	end           tokenhash.Hash // of the last chunk, which stands for all before it
}

// span is the range of a worker's request.
type span struct {
	transfer
	keys []kv.ObjectKey // one a chunk
}

// span returns what a store or a retrieve is about.
func (e *Engine) span(k *wire.Key) (span, error) {
	scope, err := checkKey(k)
	if err != nil {
		return span{}, err
	}
	if k.Worker == wire.AllWorkers {
		return span{}, fmt.Errorf("%w: no worker_id", ErrKey)
	}
	first, last, err := e.chunks(k)
	if err != nil {
		return span{}, err
	}
	hashes := e.hashes(k, scope, last)
	s := span{transfer: transfer{scope: scope, world: k.WorldSize, worker: k.Worker, first: first, last: last}}
	if last > 0 {
		s.end = hashes[last-1]
	}
	s.keys = onRank(hashes[first:last], scope, rankOf(k.WorldSize, k.Worker))
	return s, nil
}
