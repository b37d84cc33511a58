package l2test

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// patience bounds every wait for a task.
const patience = time.Minute

// Rig is one open adapter and the clock that it runs on. It belongs to one
// goroutine; the adapter may be called from others on the real clock.
type Rig struct {
	l2.Adapter
	t       testing.TB
	virtual *clock.Virtual // nil on the real clock
	notices chan struct{}  // holds one notice that no wait has seen yet

	// Noticed counts the calls of Notify.
	Noticed atomic.Int64
	// stores holds results that were popped while another was waited for.
	stores map[l2.TaskID]l2.StoreResult
}

// NewRig opens an adapter. Cleanup closes it.
func NewRig(t testing.TB, virtual bool, open Open, noPayload bool) *Rig {
	t.Helper()
	r := &Rig{t: t, notices: make(chan struct{}, 1), stores: map[l2.TaskID]l2.StoreResult{}}
	env := l2.Env{Clock: clock.Real{}, NoPayload: noPayload, Notify: r.notice}
	if virtual {
		r.virtual = clock.NewVirtual(0)
		env.Clock = r.virtual
	}
	a, err := open(env)
	if err != nil {
		t.Fatalf("open the store: %v", err)
	}
	r.Adapter = a
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// notice is Env.Notify. On virtual time it asks the clock, as a storage manager
// does that wakes its controllers: the race detector then sees an adapter that
// calls it from a goroutine of its own.
func (r *Rig) notice() {
	r.Noticed.Add(1)
	if r.virtual != nil {
		r.virtual.Now()
		return
	}
	select {
	case r.notices <- struct{}{}:
	default:
	}
}

// Until waits until done, which it asks after every notice.
func (r *Rig) Until(what string, done func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !done() {
		switch {
		case r.virtual == nil:
			select {
			case <-r.notices:
			case <-ctx.Done():
				r.t.Fatalf("%s: not done after %v", what, patience)
			}
		case !r.virtual.Next():
			r.t.Fatalf("%s: not done, and nothing is scheduled on the virtual clock", what)
		}
	}
}

// Store stores objects and returns the result.
func (r *Rig) Store(objects ...l2.Object) l2.StoreResult {
	r.t.Helper()
	return r.AwaitStore(r.SubmitStore(objects))
}

// AwaitStore waits for a store task.
func (r *Rig) AwaitStore(id l2.TaskID) (res l2.StoreResult) {
	r.t.Helper()
	r.Until("store", func() bool {
		for _, s := range r.PopStores() {
			if _, ok := r.stores[s.ID]; ok {
				r.t.Errorf("store task %d has two results", s.ID)
			}
			r.stores[s.ID] = s
		}
		var ok bool
		res, ok = r.stores[id]
		return ok
	})
	delete(r.stores, id)
	return res
}

// MustStore stores objects and wants all of them newly written.
func (r *Rig) MustStore(objects ...l2.Object) {
	r.t.Helper()
	bytes := int64(0)
	for _, o := range objects {
		bytes += int64(len(o.Bytes))
	}
	if res := r.Store(objects...); res.Err != nil || res.Keys != len(objects) || res.Bytes != bytes {
		r.t.Fatalf("store of %d objects: %+v; want %d keys, %d bytes", len(objects), res, len(objects), bytes)
	}
}

// Lookup looks keys up, which locks those that are there.
func (r *Rig) Lookup(keys ...kv.ObjectKey) (found kv.Bitmap) {
	r.t.Helper()
	id := r.SubmitLookup(keys)
	r.Until("lookup", func() (ok bool) { found, ok = r.QueryLookup(id); return ok })
	return found
}

// Peek looks keys up and takes the locks back.
func (r *Rig) Peek(keys ...kv.ObjectKey) kv.Bitmap {
	r.t.Helper()
	found := r.Lookup(keys...)
	var locked []kv.ObjectKey
	for i, k := range keys {
		if found.Test(i) {
			locked = append(locked, k)
		}
	}
	r.Unlock(locked)
	return found
}

// Load reads objects.
func (r *Rig) Load(objects ...l2.Object) (loaded kv.Bitmap) {
	r.t.Helper()
	id := r.SubmitLoad(objects)
	r.Until("load", func() (ok bool) { loaded, ok = r.QueryLoad(id); return ok })
	return loaded
}

// MustLoad wants objects back as Object made them.
func (r *Rig) MustLoad(objects ...l2.Object) {
	r.t.Helper()
	into := Blank(objects...)
	loaded := r.Load(into...)
	for i, o := range objects {
		switch {
		case !loaded.Test(i):
			r.t.Errorf("load of %v: a miss", o.Key)
		case !bytes.Equal(into[i].Bytes, o.Bytes):
			r.t.Errorf("load of %v: other bytes than were stored", o.Key)
		}
	}
}

// Key returns the n-th key of a model and salt.
func Key(t testing.TB, n int, model, salt string) kv.ObjectKey {
	t.Helper()
	scope, err := kv.InternScope(model, salt)
	if err != nil {
		t.Fatal(err)
	}
	var hash [kv.MaxHash]byte
	binary.BigEndian.PutUint64(hash[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(hash[kv.MaxHash-8:], uint64(n))
	k, err := kv.NewObjectKey(hash[:], scope, kv.PackRank(1, 0, 1, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Object returns an object of size bytes that follow from all of its key, so
// that bytes of another key or of another place are seen.
func Object(key kv.ObjectKey, size int) l2.Object {
	seed := uint64(14695981039346656037)
	for _, c := range []byte(key.String()) {
		seed = (seed ^ uint64(c)) * 1099511628211
	}
	b := make([]byte, size)
	var word [8]byte
	for i := range b {
		if i%8 == 0 {
			seed ^= seed << 13
			seed ^= seed >> 7
			seed ^= seed << 17
			binary.LittleEndian.PutUint64(word[:], seed)
		}
		b[i] = word[i%8]
	}
	return l2.Object{Key: key, Bytes: b}
}

// Blank returns room for objects: other bytes of the same sizes.
func Blank(objects ...l2.Object) []l2.Object {
	out := make([]l2.Object, len(objects))
	for i, o := range objects {
		b := bytes.Clone(o.Bytes)
		for j := range b {
			b[j] ^= 0xa5
		}
		out[i] = l2.Object{Key: o.Key, Bytes: b}
	}
	return out
}

// Keys returns the keys of objects.
func Keys(objects ...l2.Object) []kv.ObjectKey {
	out := make([]kv.ObjectKey, len(objects))
	for i, o := range objects {
		out[i] = o.Key
	}
	return out
}
