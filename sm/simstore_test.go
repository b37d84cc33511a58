package sm_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// simBehaviour says how a simStore behaves.
type simBehaviour struct {
	latency  time.Duration // of most tasks, at the most
	slow     time.Duration // of one task in fifty, at the most: a store that hangs and comes back
	failures float64       // share of tasks that fail
	objects  int           // that fit; what does not fit is left out
}

// simStore is a store below L1 whose tasks take random times, so that they end
// in any order, and fail now and then. It reads and writes the memory that it was
// given when a task ends, not when it is submitted: so it sees memory that was
// taken away too early.
type simStore struct {
	name     string
	env      l2.Env
	be       simBehaviour
	complain func(format string, args ...any)

	mu      sync.Mutex // guards all below
	rng     *rand.Rand
	used    int64
	lastID  l2.TaskID
	objects map[kv.ObjectKey][]byte
	locks   map[kv.ObjectKey]int
	stores  []l2.StoreResult
	bits    map[l2.TaskID]kv.Bitmap // of completed lookups and loads
	running map[l2.TaskID]func() bool
}

func newSimStore(name string, be simBehaviour, seed uint64, env l2.Env, complain func(string, ...any)) *simStore {
	return &simStore{name: name, env: env, be: be, complain: complain, rng: rand.New(rand.NewPCG(seed, 5)),
		objects: map[kv.ObjectKey][]byte{}, locks: map[kv.ObjectKey]int{}, bits: map[l2.TaskID]kv.Bitmap{}, running: map[l2.TaskID]func() bool{}}
}

func (s *simStore) Name() string { return s.name }

// start runs done under mu when the task ends. The caller holds mu.
func (s *simStore) start(done func(id l2.TaskID, failed bool)) l2.TaskID {
	s.lastID++
	id, failed := s.lastID, s.rng.Float64() < s.be.failures
	d := time.Duration(s.rng.Int64N(int64(s.be.latency) + 1))
	if s.be.slow > 0 && s.rng.IntN(50) == 0 {
		d = time.Duration(s.rng.Int64N(int64(s.be.slow)))
	}
	s.running[id] = s.env.Clock.AfterFunc(d, func() {
		s.mu.Lock()
		_, mine := s.running[id]
		if mine {
			delete(s.running, id)
			done(id, failed)
		}
		s.mu.Unlock()
		if mine {
			s.env.Notify()
		}
	})
	return id
}

func (s *simStore) SubmitStore(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start(func(id l2.TaskID, failed bool) {
		res := l2.StoreResult{ID: id}
		for i, o := range objects {
			if failed && i >= len(objects)/2 { // half a batch may have got there
				res.Err = errors.New("simulated failure")
				break
			}
			if got := describe(o.Bytes, o.Key); got != "" {
				s.complain("store %s is given %s for key %v", s.name, got, o.Key)
			}
			if s.objects[o.Key] == nil && len(s.objects) < s.be.objects {
				s.objects[o.Key] = append([]byte{}, o.Bytes...)
				res.Keys++
				res.Bytes += int64(len(o.Bytes))
				s.used += int64(len(o.Bytes))
			}
		}
		s.stores = append(s.stores, res)
	})
}

func (s *simStore) PopStores() []l2.StoreResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stores
	s.stores = nil
	return out
}

func (s *simStore) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	keys = append([]kv.ObjectKey{}, keys...)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start(func(id l2.TaskID, failed bool) {
		found := kv.NewBitmap(len(keys))
		for i, k := range keys {
			if s.objects[k] != nil && !failed {
				s.locks[k]++
				found.Set(i)
			}
		}
		s.bits[id] = found
	})
}

func (s *simStore) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) { return s.take(id) }
func (s *simStore) QueryLoad(id l2.TaskID) (kv.Bitmap, bool)   { return s.take(id) }

func (s *simStore) take(id l2.TaskID) (kv.Bitmap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.bits[id]
	delete(s.bits, id)
	return b, ok
}

func (s *simStore) Unlock(keys []kv.ObjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if s.locks[k]--; s.locks[k] < 0 {
			s.complain("store %s: key %v is unlocked once too often", s.name, k)
		}
	}
}

func (s *simStore) SubmitLoad(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		if s.locks[o.Key] == 0 {
			s.complain("store %s: key %v is loaded without its lock", s.name, o.Key)
		}
		fillWith(o.Bytes, byte(s.lastID))
	}
	mark := byte(s.lastID)
	return s.start(func(id l2.TaskID, failed bool) {
		loaded := kv.NewBitmap(len(objects))
		for i, o := range objects {
			if !filledWith(o.Bytes, mark) {
				s.complain("store %s: somebody else wrote the memory that key %v is loaded into", s.name, o.Key)
			}
			if held := s.objects[o.Key]; len(held) == len(o.Bytes) && !(failed && i%2 == 0) {
				copy(o.Bytes, held)
				loaded.Set(i)
			}
		}
		s.bits[id] = loaded
	})
}

func (s *simStore) Delete(keys []kv.ObjectKey) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, k := range keys {
		if s.objects[k] != nil && s.locks[k] == 0 {
			s.used -= int64(len(s.objects[k]))
			delete(s.objects, k)
			n++
		}
	}
	return n
}

// Usage says how full the store is, of so many objects of the smaller layout.
func (s *simStore) Usage() l2.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l2.Usage{UsedBytes: s.used, CapacityBytes: int64(s.be.objects) * simLayouts[0].Bytes()}
}

// Close cancels what runs: no memory is touched afterwards.
func (s *simStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, stop := range s.running {
		stop()
		delete(s.running, id)
	}
	return nil
}

// idle reports whether nothing runs and nothing waits to be taken.
func (s *simStore) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)+len(s.stores)+len(s.bits) == 0
}

// leftLocks returns how many locks nobody gave back.
func (s *simStore) leftLocks() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.locks {
		n += l
	}
	return n
}

// paint fills an object's memory with what belongs to its key.
func paint(b []byte, k kv.ObjectKey) {
	for i := range b {
		b[i] = k.Hash[i%4] + byte(k.Group) + byte(i/4)
	}
}

// fillWith and filledWith mark memory that nobody else may write.
func fillWith(b []byte, mark byte) {
	for i := range b {
		b[i] = mark
	}
}

func filledWith(b []byte, mark byte) bool {
	for i := range b {
		if b[i] != mark {
			return false
		}
	}
	return true
}

// describe says what is wrong with the content of an object, "" if nothing.
func describe(b []byte, k kv.ObjectKey) string {
	for i := range b {
		if want := k.Hash[i%4] + byte(k.Group) + byte(i/4); b[i] != want {
			return fmt.Sprintf("byte %d of %d wrong (%#x; want %#x)", i, len(b), b[i], want)
		}
	}
	return ""
}
