package resp

import (
	"sync"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// index is what this process knows of the store: the objects that it has put
// there, and its locks, which no other process sees.
type index struct {
	mu   sync.Mutex // guards all below
	of   map[kv.ObjectKey]entry
	used int64 // sum of stored
	held int64 // entries with stored
}

type entry struct {
	stored  int64 // bytes that this process stored, or found when it wanted to, or at the start
	seen    int64 // length at the last lookup, while locked
	locks   int32 // lookups that found it and are not unlocked
	storing int32 // store tasks that have not completed

	deleting bool // a Delete is on its way: nobody finds the key any more
}

// change applies f to key's entry and forgets one that says nothing.
func (x *index) change(key kv.ObjectKey, f func(*entry)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.edit(key, f)
}

// edit is change for a caller that holds mu.
func (x *index) edit(key kv.ObjectKey, f func(*entry)) {
	e := x.of[key]
	before := e.stored
	f(&e)
	x.used += e.stored - before
	switch {
	case before == 0 && e.stored > 0:
		x.held++
	case before > 0 && e.stored == 0:
		x.held--
	}
	if e == (entry{}) {
		delete(x.of, key)
	} else {
		x.of[key] = e
	}
}

// beginStore keeps keys from Delete until endStore.
func (x *index) beginStore(objects []l2.Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range objects {
		x.edit(objects[i].Key, func(e *entry) { e.storing++ })
	}
}

// endStore ends a store; stored[i] tells whether objects[i] is in the store.
func (x *index) endStore(objects []l2.Object, stored []bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range objects {
		size := int64(len(objects[i].Bytes))
		x.edit(objects[i].Key, func(e *entry) {
			e.storing--
			if !stored[i] || size == 0 {
				return
			}
			e.stored = size
			if e.locks > 0 {
				e.seen = size
			}
		})
	}
}

// lock counts a lookup that found the key with a value of size bytes. It
// reports false if the key is being deleted.
func (x *index) lock(key kv.ObjectKey, size int64) (ok bool) {
	x.change(key, func(e *entry) {
		if ok = !e.deleting; ok {
			e.locks++
			e.seen = size
		}
	})
	return ok
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

// beginDelete returns the keys that are neither locked nor being stored, each
// once, and keeps them from being found until endDelete.
func (x *index) beginDelete(keys []kv.ObjectKey) []kv.ObjectKey {
	var out []kv.ObjectKey
	for _, key := range keys {
		x.change(key, func(e *entry) {
			if e.locks == 0 && e.storing == 0 && !e.deleting {
				e.deleting = true
				out = append(out, key)
			}
		})
	}
	return out
}

func (x *index) endDelete(key kv.ObjectKey, gone bool) {
	x.change(key, func(e *entry) {
		e.deleting = false
		if gone && e.storing == 0 {
			e.stored = 0
		}
	})
}

// found notes what was in the store at the start.
func (x *index) found(key kv.ObjectKey, size int64) {
	x.change(key, func(e *entry) { e.stored = size })
}

// objects is how many keys are known to be in the store.
func (x *index) objects() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.held
}

func (x *index) usedBytes() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.used
}
