package sm

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// guard calls an adapter. One that panics is, for that call, a store that fails
// and has nothing: a request goes on with the other stores, and no controller
// ends. In LMCache an exception leaves a prefetch without a result, and its
// locks until they lapse.
//
// Source: reference storage-manager.md, section 11, items 5 and 6.
type guard struct {
	l2.Adapter
	m *Manager

	mu     sync.Mutex
	lost   l2.TaskID        // how many submissions gave no task
	failed []l2.StoreResult // not popped yet
}

var errPanicked = errors.New("the adapter panicked")

// guarded returns what call returns, or instead when it panics.
func guarded[T any](g *guard, what string, instead func() T, call func() T) (out T) {
	defer func() {
		if r := recover(); r != nil {
			g.m.logPanic(fmt.Sprintf("L2 adapter %s, %s", g.Name(), what), r)
			out = instead()
		}
	}()
	return call()
}

func zero[T any]() (v T) { return v }

// lose returns an id for a task that was not submitted. Adapters count from
// below.
func (g *guard) lose() l2.TaskID {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost++
	return math.MaxUint64 - g.lost + 1
}

// isLost reports whether lose gave the id.
func (g *guard) isLost(id l2.TaskID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return id > math.MaxUint64-g.lost
}

func (g *guard) SubmitStore(objects []l2.Object) l2.TaskID {
	return guarded(g, "store", func() l2.TaskID {
		id := g.lose()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.failed = append(g.failed, l2.StoreResult{ID: id, Err: errPanicked})
		return id
	}, func() l2.TaskID { return g.Adapter.SubmitStore(objects) })
}

func (g *guard) PopStores() []l2.StoreResult {
	done := guarded(g, "results of stores", zero, g.Adapter.PopStores)
	g.mu.Lock()
	defer g.mu.Unlock()
	done = append(done, g.failed...)
	g.failed = nil
	return done
}

func (g *guard) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	return guarded(g, "lookup", g.lose, func() l2.TaskID { return g.Adapter.SubmitLookup(keys) })
}

func (g *guard) SubmitLoad(objects []l2.Object) l2.TaskID {
	return guarded(g, "load", g.lose, func() l2.TaskID { return g.Adapter.SubmitLoad(objects) })
}

func (g *guard) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) {
	return g.query(id, "result of a lookup", g.Adapter.QueryLookup)
}

func (g *guard) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) {
	return g.query(id, "result of a load", g.Adapter.QueryLoad)
}

// query ends a task that was lost, and one whose result cannot be had, with no
// bit set.
func (g *guard) query(id l2.TaskID, what string, ask func(l2.TaskID) (kv.Bitmap, bool)) (kv.Bitmap, bool) {
	if g.isLost(id) {
		return kv.Bitmap{}, true
	}
	type result struct {
		bits kv.Bitmap
		ok   bool
	}
	r := guarded(g, what, func() result { return result{ok: true} }, func() result {
		bits, ok := ask(id)
		return result{bits, ok}
	})
	return r.bits, r.ok
}

func (g *guard) Unlock(keys []kv.ObjectKey) {
	guarded(g, "unlock", zero[bool], func() bool { g.Adapter.Unlock(keys); return true })
}

func (g *guard) Delete(keys []kv.ObjectKey) int {
	return guarded(g, "delete", zero[int], func() int { return g.Adapter.Delete(keys) })
}

func (g *guard) Usage() l2.Usage { return guarded(g, "usage", zero[l2.Usage], g.Adapter.Usage) }

func (g *guard) Close() error {
	return guarded(g, "close", func() error { return errPanicked }, g.Adapter.Close)
}
