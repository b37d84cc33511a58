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
//
// It tells the store's eviction of what stores and loads did, a task at a time: so
// the policy sees keys in the order of the call, however the adapter goes about
// them.
type guard struct {
	l2.Adapter
	m        *Manager
	eviction *l2Eviction

	mu     sync.Mutex              // guards all below
	tasks  map[l2.TaskID]sizedKeys // of stores and loads that run, if there is a policy
	lost   l2.TaskID               // how many submissions gave no task
	failed []l2.StoreResult        // not popped yet
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

// sizedKeys are the objects of a task.
type sizedKeys struct {
	keys  []kv.ObjectKey
	sizes []int64
}

// note remembers the objects of a task for the eviction.
func (g *guard) note(id l2.TaskID, objects []l2.Object) l2.TaskID {
	if g.eviction.policy == nil {
		return id
	}
	s := sizedKeys{make([]kv.ObjectKey, len(objects)), make([]int64, len(objects))}
	for i, o := range objects {
		s.keys[i], s.sizes[i] = o.Key, int64(len(o.Bytes))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tasks[id] = s
	return id
}

// noted returns what note remembered, once.
func (g *guard) noted(id l2.TaskID) (s sizedKeys, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok = g.tasks[id]
	delete(g.tasks, id)
	return s, ok
}

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
	return g.note(guarded(g, "store", func() l2.TaskID {
		id := g.lose()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.failed = append(g.failed, l2.StoreResult{ID: id, Err: errPanicked})
		return id
	}, func() l2.TaskID { return g.Adapter.SubmitStore(objects) }), objects)
}

func (g *guard) PopStores() []l2.StoreResult {
	done := guarded(g, "results of stores", zero, g.Adapter.PopStores)
	g.mu.Lock()
	done = append(done, g.failed...)
	g.failed = nil
	g.mu.Unlock()
	for _, res := range done {
		if s, ok := g.noted(res.ID); ok {
			g.eviction.storeDone(s.keys, s.sizes, res)
		}
	}
	return done
}

func (g *guard) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	return guarded(g, "lookup", g.lose, func() l2.TaskID { return g.Adapter.SubmitLookup(keys) })
}

func (g *guard) SubmitLoad(objects []l2.Object) l2.TaskID {
	return g.note(guarded(g, "load", g.lose, func() l2.TaskID { return g.Adapter.SubmitLoad(objects) }), objects)
}

func (g *guard) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) {
	return g.query(id, "result of a lookup", g.Adapter.QueryLookup)
}

func (g *guard) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) {
	bits, ok := g.query(id, "result of a load", g.Adapter.QueryLoad)
	if ok {
		if s, ok := g.noted(id); ok {
			g.eviction.loadDone(s.keys, s.sizes, bits)
		}
	}
	return bits, ok
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

// Report implements l2.Reporter for every adapter.
func (g *guard) Report() l2.Report {
	unknown := l2.Report{Objects: -1, Locked: -1}
	return guarded(g, "report", func() l2.Report { unknown.Err = errPanicked; return unknown }, func() l2.Report {
		if r, ok := g.Adapter.(l2.Reporter); ok {
			return r.Report()
		}
		return unknown
	})
}

// List implements l2.Lister for every adapter; those that cannot list fail with
// l2.ErrNoListing.
func (g *guard) List(model, token string, limit int) (page l2.Page, err error) {
	err = errPanicked
	page = guarded(g, "list", zero, func() l2.Page {
		l, ok := g.Adapter.(l2.Lister)
		if !ok {
			err = l2.ErrNoListing
			return l2.Page{}
		}
		var p l2.Page
		p, err = l.List(model, token, limit)
		return p
	})
	return page, err
}

func (g *guard) Close() error {
	return guarded(g, "close", func() error { return errPanicked }, g.Adapter.Close)
}
