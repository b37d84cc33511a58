// Package mock is an L2 store in memory with a bandwidth, on the injected clock.
package mock

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Config is what the adapter reads of its JSON object.
//
// Source: reference storage-manager.md, section 8.4.
type Config struct {
	MaxSizeGB       float64 // max_size_gb: GiB that the store holds; above 0
	MockBandwidthGB float64 // mock_bandwidth_gb: GiB a second; above 0
}

// ParseConfig reads the adapter's JSON object; fields that it does not know are
// ignored, as LMCache does.
func ParseConfig(raw []byte) (Config, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return Config{}, err
	}
	var c Config
	for _, f := range []struct {
		name  string
		value *float64
	}{{"max_size_gb", &c.MaxSizeGB}, {"mock_bandwidth_gb", &c.MockBandwidthGB}} {
		if err := json.Unmarshal(fields[f.name], f.value); err != nil || !(*f.value > 0) {
			return Config{}, fmt.Errorf("%s must be a positive number", f.name)
		}
	}
	return c, nil
}

// Store is the adapter. A task takes the time of the bytes that it moves; the
// tasks of one direction follow each other. A store skips, and still succeeds
// with, keys that are present or do not fit.
type Store struct {
	env      l2.Env
	capacity int64
	perByte  float64 // seconds

	mu      sync.Mutex // guards all below
	objects map[kv.ObjectKey]*object
	used    int64
	lastID  l2.TaskID
	free    [3]int64 // when each kind of task has finished what was submitted
	stores  []l2.StoreResult
	lookups map[l2.TaskID]kv.Bitmap
	loads   map[l2.TaskID]kv.Bitmap
	running map[l2.TaskID]func() bool // stops the timer of a running task
	closed  bool
}

type object struct {
	bytes []byte // nil where payloads do not count
	size  int64
	locks int
}

const (
	storing = iota
	loading
	lookingUp // moves no bytes
)

// Kind is the registry's entry.
var Kind = l2.Kind{
	Check: func(config []byte) error { _, err := ParseConfig(config); return err },
	New:   New,
}

// New returns an empty store.
func New(raw []byte, env l2.Env) (l2.Adapter, error) {
	c, err := ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	return &Store{
		env: env, capacity: int64(c.MaxSizeGB * (1 << 30)), perByte: 1 / (c.MockBandwidthGB * (1 << 30)),
		objects: map[kv.ObjectKey]*object{}, lookups: map[l2.TaskID]kv.Bitmap{},
		loads: map[l2.TaskID]kv.Bitmap{}, running: map[l2.TaskID]func() bool{},
	}, nil
}

// Name returns "mock".
func (s *Store) Name() string { return "mock" }

// start runs done after the time that bytes take, and then notifies. The
// caller holds mu; both run under it, so that neither comes after Close. A
// closed store completes nothing.
func (s *Store) start(kind int, bytes int64, done func(id l2.TaskID)) l2.TaskID {
	s.lastID++
	if s.closed {
		return s.lastID
	}
	id, now := s.lastID, s.env.Clock.Now()
	end := max(now, s.free[kind]) + int64(float64(bytes)*s.perByte*1e9)
	s.free[kind] = end
	s.running[id] = s.env.Clock.AfterFunc(time.Duration(end-now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, mine := s.running[id]; mine {
			delete(s.running, id)
			done(id)
			s.env.Notify()
		}
	})
	return id
}

// SubmitStore copies the objects that are new and fit.
func (s *Store) SubmitStore(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var res l2.StoreResult
	for _, o := range objects {
		size := int64(len(o.Bytes))
		if s.closed || s.objects[o.Key] != nil || s.used+size > s.capacity {
			continue
		}
		held := &object{size: size}
		if !s.env.NoPayload {
			held.bytes = slices.Clone(o.Bytes)
		}
		s.objects[o.Key] = held
		s.used += size
		res.Keys++
		res.Bytes += size
	}
	return s.start(storing, res.Bytes, func(id l2.TaskID) {
		res.ID = id
		s.stores = append(s.stores, res)
	})
}

// PopStores returns the store tasks that completed since the last call.
func (s *Store) PopStores() []l2.StoreResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stores
	s.stores = nil
	return out
}

// SubmitLookup locks the keys that are present.
func (s *Store) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := kv.NewBitmap(len(keys))
	for i, k := range keys {
		if o := s.objects[k]; o != nil {
			o.locks++
			found.Set(i)
		}
	}
	return s.start(lookingUp, 0, func(id l2.TaskID) { s.lookups[id] = found })
}

// QueryLookup returns the result of a lookup once.
func (s *Store) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) { return s.take(s.lookups, id) }

// QueryLoad returns the result of a load once.
func (s *Store) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) { return s.take(s.loads, id) }

func (s *Store) take(from map[l2.TaskID]kv.Bitmap, id l2.TaskID) (kv.Bitmap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := from[id]
	delete(from, id)
	return b, ok
}

// Unlock takes back one lock of each key.
func (s *Store) Unlock(keys []kv.ObjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if o := s.objects[k]; o != nil && o.locks > 0 {
			o.locks--
		}
	}
}

// SubmitLoad copies the objects that are present and of the same size.
func (s *Store) SubmitLoad(objects []l2.Object) l2.TaskID {
	s.mu.Lock()
	defer s.mu.Unlock()
	loaded, bytes := kv.NewBitmap(len(objects)), int64(0)
	for i, o := range objects {
		if held := s.objects[o.Key]; held != nil && held.size == int64(len(o.Bytes)) {
			copy(o.Bytes, held.bytes)
			loaded.Set(i)
			bytes += held.size
		}
	}
	return s.start(loading, bytes, func(id l2.TaskID) { s.loads[id] = loaded })
}

// Delete removes keys that no lookup has locked.
func (s *Store) Delete(keys []kv.ObjectKey) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, k := range keys {
		if o := s.objects[k]; o != nil && o.locks == 0 {
			delete(s.objects, k)
			s.used -= o.size
			n++
		}
	}
	return n
}

// Usage says how full the store is.
func (s *Store) Usage() l2.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l2.Usage{UsedBytes: s.used, CapacityBytes: s.capacity}
}

// Report counts the objects.
func (s *Store) Report() l2.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := l2.Report{Objects: int64(len(s.objects))}
	for _, o := range s.objects {
		if o.locks > 0 {
			r.Locked++
		}
	}
	return r
}

// List implements l2.Lister.
func (s *Store) List(model, token string, limit int) (l2.Page, error) {
	p := l2.NewPager(model, token, limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.objects {
		p.Add(k, o.size)
	}
	return p.Page(), nil
}

// Close cancels running tasks and drops the objects.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for id, stop := range s.running {
		stop()
		delete(s.running, id)
	}
	s.objects, s.used = nil, 0
	return nil
}
