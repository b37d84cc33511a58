package l2test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Open opens the same store each time it is called, once the adapter before is
// closed.
type Open func(env l2.Env) (l2.Adapter, error)

// Subject is an adapter under test.
type Subject struct {
	// New makes an empty store that nobody else uses, with room for 16 MiB and
	// 2000 objects, and returns how to open it.
	New func(t *testing.T) Open
	// Volatile: a store that is opened again is empty.
	Volatile bool
	// MaxObject is the largest object that the store takes; 1 MiB if zero.
	MaxObject int
	// Grain: objects whose sizes are the same multiple of it, rounded up, are
	// of one size to the store; 1 if zero.
	Grain int
}

// Run tests an adapter: every case on the real clock, and those that wait for
// results on the virtual one too. Leaks are for the caller's TestMain (goleak).
func Run(t *testing.T, s Subject) {
	if s.MaxObject == 0 {
		s.MaxObject = 1 << 20
	}
	s.Grain = max(s.Grain, 1)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Subject, virtual bool)
	}{
		{"StoreAndLoad", storeAndLoad}, {"StoreAgain", storeAgain}, {"Lookup", lookup}, {"LoadMisses", loadMisses},
		{"Delete", deletes}, {"Locks", locks}, {"Usage", usage}, {"Batch", batch}, {"Tasks", tasks},
		{"NoPayload", noPayload}, {"Reopen", reopen}, {"Found", found}, {"List", lists}, {"Close", closes},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Run("real", func(t *testing.T) { c.run(t, s, false) })
			t.Run("virtual", func(t *testing.T) { c.run(t, s, true) })
		})
	}
	t.Run("Concurrent", func(t *testing.T) { concurrent(t, s) })
	t.Run("CloseDuringWork", func(t *testing.T) { closeDuringWork(t, s) })
}

func (s Subject) rig(t *testing.T, virtual bool) *Rig { return NewRig(t, virtual, s.New(t), false) }

// some returns n objects of size bytes.
func some(t testing.TB, n, size int) []l2.Object {
	out := make([]l2.Object, n)
	for i := range out {
		out[i] = Object(Key(t, i, "some/model", ""), size)
	}
	return out
}

// Sizes on both sides of what devices and protocols like; keys that differ in
// one part only.
func storeAndLoad(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	var objects []l2.Object
	for i, size := range []int{1, 7, 511, 512, 4095, 4096, 4097, 65536, s.MaxObject - 1, s.MaxObject} {
		objects = append(objects, Object(Key(t, i, "m", ""), min(size, s.MaxObject)))
	}
	base := Key(t, 1000, "meta-llama/Llama-3.1-8B", "")
	vary := func(f func(k *kv.ObjectKey)) {
		k := base
		f(&k)
		objects = append(objects, Object(k, 1000))
	}
	vary(func(*kv.ObjectKey) {})
	vary(func(k *kv.ObjectKey) { k.Group = 11 })
	vary(func(k *kv.ObjectKey) { k.Rank = kv.PackRank(2, 1, 2, 1) })
	vary(func(k *kv.ObjectKey) { k.Rank = kv.PackRank(300, 299, 8, 3) }) // wider than 32 bits
	vary(func(k *kv.ObjectKey) { k.Hash[31]++ })
	vary(func(k *kv.ObjectKey) { *k, _ = kv.NewObjectKey(k.Hash[:4], k.Scope, k.Rank, k.Group) })
	for _, c := range [][2]string{{"meta-llama/Llama-3.1-8B", "alice"}, {"meta-llama-Llama-3.1-8B", ""}, {"a b%c+d?e#f", "é ü"}, {"", ""}} {
		vary(func(k *kv.ObjectKey) { k.Scope = Key(t, 0, c[0], c[1]).Scope })
	}
	r.MustStore(objects...)
	r.MustLoad(objects...)
	slices.Reverse(objects)
	r.MustLoad(objects...)
}

// Storing what is there succeeds and writes nothing.
func storeAgain(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 4, 5000)
	r.MustStore(objects[:2]...)
	used := r.Usage()
	other := Blank(objects[0])
	if res := r.Store(other[0], objects[1]); res.Err != nil || res.Keys != 0 || res.Bytes != 0 {
		t.Errorf("store of two that are there: %+v; want success, nothing written", res)
	}
	if got := r.Usage(); got != used {
		t.Errorf("usage %+v after storing again; want %+v", got, used)
	}
	r.MustLoad(objects[:2]...)
	if res := r.Store(objects[1], objects[2], objects[2], objects[3]); res.Err != nil || res.Keys != 2 || res.Bytes != 10000 {
		t.Errorf("store of one that is there and two new, one of them twice: %+v; want 2 keys, 10000 bytes", res)
	}
	r.MustLoad(objects...)
	if res := r.Store(); res.Err != nil || res.Keys != 0 {
		t.Errorf("store of nothing: %+v", res)
	}
}

func lookup(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 3, 100)
	r.MustStore(objects[0], objects[2])
	keys := Keys(objects...)
	id := r.SubmitLookup(keys)
	var found kv.Bitmap
	r.Until("lookup", func() (ok bool) { found, ok = r.QueryLookup(id); return ok })
	if found.String() != "101" {
		t.Errorf("found %v; want 101", found)
	}
	if _, ok := r.QueryLookup(id); ok {
		t.Error("the result of a lookup is given twice")
	}
	if found := r.Lookup(); found.Len() != 0 {
		t.Errorf("lookup of nothing: %v", found)
	}
	other := keys[0]
	other.Group++
	if found := r.Lookup(other, keys[0], keys[0]); found.String() != "011" {
		t.Errorf("another group, and one key twice: %v; want 011", found)
	}
}

// One miss does not take the others along; an object of another size than the
// room for it is a miss, never a part of it or more than it.
func loadMisses(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 6, 8192+s.Grain) // one grain more than the shorter one
	r.MustStore(objects[:5]...)
	into := Blank(objects...)
	into[1].Bytes = into[1].Bytes[:8192]
	into[2].Bytes = append(into[2].Bytes, 0)
	into[3].Bytes = into[3].Bytes[:0]
	id := r.SubmitLoad(into)
	var loaded kv.Bitmap
	r.Until("load", func() (ok bool) { loaded, ok = r.QueryLoad(id); return ok })
	if loaded.String() != "100010" {
		t.Errorf("loaded %v; want 100010: all, one shorter, one longer, one empty, all, one absent", loaded)
	}
	for _, i := range []int{0, 4} {
		if !bytes.Equal(into[i].Bytes, objects[i].Bytes) {
			t.Errorf("object %d: other bytes than were stored", i)
		}
	}
	if _, ok := r.QueryLoad(id); ok {
		t.Error("the result of a load is given twice")
	}
	twice := Blank(objects[0], objects[0])
	if loaded := r.Load(twice...); loaded.String() != "11" || !bytes.Equal(twice[1].Bytes, objects[0].Bytes) {
		t.Errorf("one key twice: %v; want both", loaded)
	}
	if loaded := r.Load(); loaded.Len() != 0 {
		t.Errorf("load of nothing: %v", loaded)
	}
}

func deletes(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 4, 3000)
	r.MustStore(objects[:3]...)
	if n := r.Delete(Keys(objects[0], objects[3], objects[2])); n != 2 {
		t.Errorf("deleted %d; want the 2 that were there", n)
	}
	if found := r.Peek(Keys(objects...)...); found.String() != "0100" {
		t.Errorf("left after Delete: %v; want 0100", found)
	}
	if n := r.Delete(Keys(objects[0])); n != 0 {
		t.Errorf("deleted %d the second time; want 0", n)
	}
	r.MustStore(objects[0])
	r.MustLoad(objects[:2]...)
}

// Each lookup takes a lock, and as many Unlocks release the key.
func locks(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 2, 300)
	keys := Keys(objects...)
	r.MustStore(objects[0])
	r.Unlock(keys) // neither is locked: nothing happens
	r.Lookup(keys...)
	r.Lookup(keys[0])
	if n := r.Delete(keys[:1]); n != 0 {
		t.Fatalf("Delete of a locked key: %d; want 0", n)
	}
	r.Unlock(keys[:1])
	if n := r.Delete(keys[:1]); n != 0 {
		t.Error("one of two locks was taken back, and the key could be deleted")
	}
	r.MustLoad(objects[0])
	r.Unlock(keys[:1])
	if n := r.Delete(keys[:1]); n != 1 {
		t.Error("both locks were taken back, and the key could not be deleted")
	}
}

func usage(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	empty := r.Usage()
	if empty.UsedBytes != 0 {
		t.Fatalf("an empty store uses %d bytes", empty.UsedBytes)
	}
	objects := some(t, 5, 6000)
	r.MustStore(objects...)
	full := r.Usage()
	if full.UsedBytes < 5*6000 || full.CapacityBytes > 0 && full.UsedBytes > full.CapacityBytes {
		t.Errorf("usage %+v with 30000 bytes stored", full)
	}
	r.Delete(Keys(objects[:2]...))
	if got, want := r.Usage().UsedBytes, full.UsedBytes*3/5; got != want {
		t.Errorf("%d bytes used with three of five equal objects left; want %d", got, want)
	}
	r.Delete(Keys(objects...))
	if got := r.Usage(); got != empty {
		t.Errorf("usage %+v when all is deleted; want %+v", got, empty)
	}
}

// One task of very many keys.
func batch(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 1000, 64)
	even := make([]l2.Object, 0, 500)
	for i := 0; i < len(objects); i += 2 {
		even = append(even, objects[i])
	}
	r.MustStore(even...)
	found, loaded := r.Peek(Keys(objects...)...), r.Load(Blank(objects...)...)
	for i := range objects {
		if want := i%2 == 0; found.Test(i) != want || loaded.Test(i) != want {
			t.Fatalf("key %d: found %t, loaded %t; want %t", i, found.Test(i), loaded.Test(i), want)
		}
	}
	r.MustLoad(even...)
	if n := r.Delete(Keys(objects...)); n != 500 {
		t.Errorf("deleted %d; want 500", n)
	}
}

// Tasks have ids of their own, one result each, and every one is noticed.
func tasks(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 20, 200)
	seen := map[l2.TaskID]bool{}
	see := func(id l2.TaskID) l2.TaskID {
		if seen[id] {
			t.Errorf("task id %d was given twice", id)
		}
		seen[id] = true
		return id
	}
	var stores, lookups, loads []l2.TaskID
	for _, o := range objects {
		stores = append(stores, see(r.SubmitStore([]l2.Object{o})))
	}
	for _, id := range stores {
		if res := r.AwaitStore(id); res.Err != nil || res.Keys != 1 {
			t.Errorf("store: %+v", res)
		}
	}
	for i := range objects {
		lookups = append(lookups, see(r.SubmitLookup(Keys(objects[i]))))
		loads = append(loads, see(r.SubmitLoad(Blank(objects[i]))))
	}
	for i := range objects {
		r.Until("lookup", func() bool { found, ok := r.QueryLookup(lookups[i]); return ok && found.Count() == 1 })
		r.Until("load", func() bool { loaded, ok := r.QueryLoad(loads[i]); return ok && loaded.Count() == 1 })
	}
	if got := r.PopStores(); len(got) != 0 {
		t.Errorf("results without a task: %+v", got)
	}
	if _, ok := r.QueryLookup(stores[0]); ok {
		t.Error("a store task has the result of a lookup")
	}
	if r.Noticed.Load() == 0 {
		t.Error("Notify was never called")
	}
}

// On scratch memory the bytes mean nothing, and those of one object may be
// those of another: sizes count, and a load leaves the memory alone.
func noPayload(t *testing.T, s Subject, virtual bool) {
	r := NewRig(t, virtual, s.New(t), true)
	shared := bytes.Repeat([]byte{0x5c}, 10000)
	var objects []l2.Object
	for i := range 8 {
		objects = append(objects, l2.Object{Key: Key(t, i, "m", ""), Bytes: shared[i*100 : i*100+6000]})
	}
	r.MustStore(objects...)
	if r.Usage().UsedBytes < 8*6000 {
		t.Errorf("%d bytes used; want the sizes of all objects", r.Usage().UsedBytes)
	}
	before := bytes.Clone(shared)
	if loaded := r.Load(objects...); loaded.Count() != 8 {
		t.Errorf("loaded %v; want all", loaded)
	}
	if !bytes.Equal(shared, before) {
		t.Error("a load changed memory that several objects share")
	}
	short := l2.Object{Key: objects[0].Key, Bytes: shared[:4096]}
	if loaded := r.Load(short); loaded.Count() != 0 {
		t.Error("an object of another size was loaded")
	}
}

func reopen(t *testing.T, s Subject, virtual bool) {
	open := s.New(t)
	r := NewRig(t, virtual, open, false)
	objects := some(t, 5, 7000)
	r.MustStore(objects[:4]...)
	r.Delete(Keys(objects[3]))
	r.Lookup(Keys(objects[0])...) // the lock does not outlive the adapter
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = NewRig(t, virtual, open, false)
	want := "11100"
	if s.Volatile {
		want = "00000"
	}
	if found := r.Peek(Keys(objects...)...); found.String() != want {
		t.Fatalf("found %v in a store that was opened again; want %s", found, want)
	}
	if s.Volatile {
		return
	}
	r.MustLoad(objects[:3]...)
	if res := r.Store(objects[0], objects[4]); res.Err != nil || res.Keys != 1 {
		t.Errorf("store of one that is there and one that is new: %+v", res)
	}
	if n := r.Delete(Keys(objects...)); n != 4 {
		t.Errorf("deleted %d; want 4", n)
	}
}

// Who evicts is told, within the call of New, of what is there, each object once
// and with what it takes.
func found(t *testing.T, s Subject, virtual bool) {
	open := s.New(t)
	r := NewRig(t, virtual, open, false)
	objects := some(t, 5, 7000)
	r.MustStore(objects...)
	r.Delete(Keys(objects[4]))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	told := map[kv.ObjectKey]int64{}
	sum := int64(0)
	r = NewRig(t, virtual, func(env l2.Env) (l2.Adapter, error) {
		env.Found = func(keys []kv.ObjectKey, sizes []int64) {
			for i, k := range keys {
				if told[k] > 0 {
					t.Errorf("told twice of %v", k)
				}
				told[k] = sizes[i]
				sum += sizes[i]
			}
		}
		return open(env)
	}, false)
	want := objects[:4]
	if s.Volatile {
		want = nil
	}
	if len(told) != len(want) || sum != r.Usage().UsedBytes {
		t.Errorf("told of %d objects of %d bytes; want %d, and %d as Usage says", len(told), sum, len(want), r.Usage().UsedBytes)
	}
	for _, o := range want {
		if told[o.Key] < int64(len(o.Bytes)) {
			t.Errorf("told that %v takes %d bytes", o.Key, told[o.Key])
		}
	}
	if rep, ok := r.Adapter.(l2.Reporter); ok {
		if got := rep.Report(); got.Objects != int64(len(want)) || got.Err != nil {
			t.Errorf("reports %+v; want %d objects", got, len(want))
		}
	}
}

// A list has every object once, page by page, of one model if asked.
func lists(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	l, ok := r.Adapter.(l2.Lister)
	if !ok {
		t.Skip("the adapter does not list")
	}
	sizes := map[kv.ObjectKey]int64{}
	var objects []l2.Object
	for i := range 25 {
		model, salt := "org/a*b", ""
		if i%5 == 0 {
			model, salt = "org/a", "tenant"
		}
		o := Object(Key(t, i, model, salt), 3000+i)
		objects = append(objects, o)
		sizes[o.Key] = int64((len(o.Bytes) + s.Grain - 1) / s.Grain * s.Grain)
	}
	r.MustStore(objects...)
	for model, want := range map[string]int{"": 25, "org/a": 5, "org/a*b": 20, "org": 0} {
		seen := map[kv.ObjectKey]bool{}
		for token, pages := "", 0; pages == 0 || token != ""; pages++ {
			page, err := l.List(model, token, 4)
			if err != nil || len(page.Objects) > 4 || pages > 30 {
				t.Fatalf("model %q: page %d of %d objects, %v", model, pages, len(page.Objects), err)
			}
			for _, o := range page.Objects {
				if seen[o.Key] || o.SizeBytes != sizes[o.Key] || model != "" && o.Key.Scope.Model() != model {
					t.Errorf("model %q: %v of %d bytes, seen %v; want %d, once", model, o.Key, o.SizeBytes, seen[o.Key], sizes[o.Key])
				}
				seen[o.Key] = true
			}
			token = page.Next
		}
		if len(seen) != want {
			t.Errorf("model %q: listed %d objects; want %d", model, len(seen), want)
		}
	}
}

// A closed adapter takes calls and does nothing.
func closes(t *testing.T, s Subject, virtual bool) {
	r := s.rig(t, virtual)
	objects := some(t, 3, 300)
	r.MustStore(objects[0])
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r.SubmitStore(objects)
	r.SubmitLookup(Keys(objects...))
	r.SubmitLoad(Blank(objects...))
	r.Unlock(Keys(objects...))
	if n := r.Delete(Keys(objects...)); n != 0 {
		t.Errorf("Delete of a closed adapter: %d; want 0", n)
	}
	r.Usage()
	if r.virtual != nil {
		for r.virtual.Next() {
		}
	}
	for _, res := range r.PopStores() {
		if res.Err == nil {
			t.Errorf("a store into a closed adapter succeeded: %+v", res)
		}
	}
}

// Callers at once over few keys: whatever is loaded is right, and the books
// balance at the end.
func concurrent(t *testing.T, s Subject) {
	r := s.rig(t, false)
	objects := some(t, 24, 2500)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards running
	running := 0      // store tasks without a result
	done := make(chan struct{})
	results := sync.WaitGroup{}
	results.Add(1)
	go func() { // takes store results while they come
		defer results.Done()
		for {
			n := 0
			for _, res := range r.PopStores() {
				if res.Err != nil {
					t.Errorf("store: %v", res.Err)
				}
				n++
			}
			mu.Lock()
			running -= n
			left := running
			mu.Unlock()
			select {
			case <-done:
				if left == 0 {
					return
				}
			default:
			}
			<-r.notices
		}
	}()
	for g := range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range 60 {
				picked := make([]l2.Object, 1+rng.IntN(6))
				for i := range picked {
					picked[i] = objects[rng.IntN(len(objects))]
				}
				switch rng.IntN(5) {
				case 0, 1:
					mu.Lock()
					running++
					mu.Unlock()
					r.SubmitStore(picked)
				case 2:
					r.Delete(Keys(picked...))
				default:
					if err := lookupAndLoad(r.Adapter, picked); err != nil {
						t.Error(err)
					}
				}
				r.Usage()
			}
		}()
	}
	wg.Wait()
	close(done)
	r.notice()
	results.Wait()
	r.Delete(Keys(objects...))
	if u := r.Usage(); u.UsedBytes != 0 {
		t.Errorf("%d bytes used when all is deleted", u.UsedBytes)
	}
}

// lookupAndLoad does what a prefetch does, and asks for results again and again
// because the notices go to another goroutine.
func lookupAndLoad(a l2.Adapter, objects []l2.Object) error {
	keys := Keys(objects...)
	id := a.SubmitLookup(keys)
	var found kv.Bitmap
	if err := poll("lookup", func() (ok bool) { found, ok = a.QueryLookup(id); return ok }); err != nil {
		return err
	}
	var there []l2.Object
	var locked []kv.ObjectKey
	for i := range objects {
		if found.Test(i) {
			there = append(there, objects[i])
			locked = append(locked, keys[i])
		}
	}
	into := Blank(there...)
	id = a.SubmitLoad(into)
	var loaded kv.Bitmap
	if err := poll("load", func() (ok bool) { loaded, ok = a.QueryLoad(id); return ok }); err != nil {
		return err
	}
	a.Unlock(locked)
	for i := range into {
		if loaded.Test(i) && !bytes.Equal(into[i].Bytes, there[i].Bytes) {
			return fmt.Errorf("load of %v: wrong bytes", into[i].Key)
		}
	}
	return nil
}

// poll asks until done, and lets the clock of the machine tick between.
func poll(what string, done func() bool) error {
	var c clock.Real
	end := c.Now() + int64(patience)
	for !done() {
		if c.Now() > end {
			return fmt.Errorf("%s: not done after %v", what, patience)
		}
		tick := make(chan struct{})
		c.AfterFunc(50_000, func() { close(tick) })
		<-tick
	}
	return nil
}

// Close in the middle of tasks: it returns, and afterwards nobody reads or
// writes the objects' bytes or calls Notify. (The race detector watches.)
func closeDuringWork(t *testing.T, s Subject) {
	for _, before := range []int{0, 1, 20} { // tasks that are waited for
		r := s.rig(t, false)
		objects := some(t, 40, min(s.MaxObject, 200_000))
		into := Blank(objects...)
		var stores []l2.TaskID
		for i := range objects {
			stores = append(stores, r.SubmitStore(objects[i:i+1]))
			r.SubmitLookup(Keys(objects[i]))
		}
		for _, id := range stores[:before] {
			r.AwaitStore(id)
		}
		for i := range into {
			r.SubmitLoad(into[i : i+1])
		}
		if err := r.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		noticed := r.Noticed.Load()
		for i := range objects {
			clear(objects[i].Bytes)
			clear(into[i].Bytes)
		}
		for i := range into {
			for _, b := range into[i].Bytes {
				if b != 0 {
					t.Fatal("memory was written after Close")
				}
			}
		}
		if got := r.Noticed.Load(); got != noticed {
			t.Errorf("%d notices after Close", got-noticed)
		}
	}
}
