package resp

import (
	"sync"

	"github.com/lmcache/lmcache-go/kv"
)

// index is what this process knows of the store: the objects that it has put
// there, and its locks, which no other process sees.
type index struct {
	mu   sync.Mutex // guards all below
	of   map[kv.ObjectKey]entry
	used int64 // sum of stored
}

type entry struct {
	stored  int64 // bytes that this process stored, or found when it wanted to
	seen    int64 // length at the last lookup, while locked
	locks   int32 // lookups that found it and are not unlocked
	storing int32 // store tasks that have not completed
}

// change applies f to key's entry and forgets one that says nothing.
func (x *index) change(key kv.ObjectKey, f func(*entry)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.of[key]
	before := e.stored
	f(&e)
	x.used += e.stored - before
	if e == (entry{}) {
		delete(x.of, key)
	} else {
		x.of[key] = e
	}
}

// beginStore keeps a key from Delete until endStore.
func (x *index) beginStore(key kv.ObjectKey) { x.change(key, func(e *entry) { e.storing++ }) }

// endStore ends a store; size is 0 if it failed.
func (x *index) endStore(key kv.ObjectKey, size int64) {
	x.change(key, func(e *entry) {
		e.storing--
		if size == 0 {
			return
		}
		e.stored = size
		if e.locks > 0 {
			e.seen = size
		}
	})
}

// lock counts a lookup that found the key with a value of size bytes.
func (x *index) lock(key kv.ObjectKey, size int64) {
	x.change(key, func(e *entry) { e.locks++; e.seen = size })
}

func (x *index) unlock(keys []kv.ObjectKey) {
	for _, key := range keys {
		x.change(key, func(e *entry) {
			if e.locks > 0 {
				e.locks--
			}
			if e.locks == 0 {
				e.seen = 0
			}
		})
	}
}

// gone notes that the store does not have the key: the store has evicted it,
// or came back empty. A store on its way puts it back.
func (x *index) gone(key kv.ObjectKey) {
	x.change(key, func(e *entry) {
		if e.storing == 0 {
			e.stored = 0
		}
	})
}

// length returns the length that a lookup saw, 0 if none did.
func (x *index) length(key kv.ObjectKey) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.of[key].seen
}

// idle returns the keys that are neither locked nor being stored.
func (x *index) idle(keys []kv.ObjectKey) []kv.ObjectKey {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []kv.ObjectKey
	for _, key := range keys {
		if e := x.of[key]; e.locks == 0 && e.storing == 0 {
			out = append(out, key)
		}
	}
	return out
}

func (x *index) usedBytes() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.used
}
