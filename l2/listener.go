package l2

import "github.com/lmcache/lmcache-go/kv"

// Listener hears what a store holds, so that an eviction policy can choose
// what leaves it. Calls come from any goroutine, possibly under the adapter's
// locks: a Listener must not call the adapter.
//
// Source: reference storage-manager.md, sections 5.9 and 5.10.
type Listener interface {
	// Stored says that objects are in the store now: written, or found there
	// at the start. sizes are what they take of Usage.UsedBytes. Of a key that
	// is known the size counts anew.
	Stored(keys []kv.ObjectKey, sizes []int64)
	// Accessed says that objects were read.
	Accessed(keys []kv.ObjectKey)
	// Deleted says that objects are gone from the store, for whatever reason.
	Deleted(keys []kv.ObjectKey)
}

// Stored tells the listener, if there is one, that objects are in the store.
func (e *Env) Stored(keys []kv.ObjectKey, sizes []int64) {
	if e.Listener != nil && len(keys) > 0 {
		e.Listener.Stored(keys, sizes)
	}
}

// Accessed tells the listener, if there is one, that objects were read.
func (e *Env) Accessed(keys []kv.ObjectKey) {
	if e.Listener != nil && len(keys) > 0 {
		e.Listener.Accessed(keys)
	}
}

// Deleted tells the listener, if there is one, that objects are gone.
func (e *Env) Deleted(keys []kv.ObjectKey) {
	if e.Listener != nil && len(keys) > 0 {
		e.Listener.Deleted(keys)
	}
}
