package kv

import (
	"sync"
	"sync/atomic"
)

// interner maps values to dense ids, from 1 on. Reading an id's value takes no
// lock: values is republished as a whole, and what an id stands for never
// changes. The element that a new id needs is written before the slice that
// shows it is stored.
type interner[V any] struct {
	mu     sync.Mutex
	ids    map[string]uint32    // guarded by mu; keyed by the value's canonical text
	values atomic.Pointer[[]*V] // index id-1
}

// intern returns the id of key, calling make once for a key not seen before.
func (in *interner[V]) intern(key string, make func() *V) uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if id, ok := in.ids[key]; ok {
		return id
	}
	if in.ids == nil {
		in.ids = map[string]uint32{}
	}
	var old []*V
	if p := in.values.Load(); p != nil {
		old = *p
	}
	grown := append(old, make()) // in place when there is room: readers see only their own length
	in.values.Store(&grown)
	id := uint32(len(grown))
	in.ids[key] = id
	return id
}

// lookup returns the value of id, nil for 0 and for an id never given.
func (in *interner[V]) lookup(id uint32) *V {
	p := in.values.Load()
	if p == nil || id == 0 || int(id) > len(*p) {
		return nil
	}
	return (*p)[id-1]
}
