package sm

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// adapter is one L2 store with what belongs to it.
type adapter struct {
	l2.Adapter
	m        *Manager
	cfg      Adapter
	id       int // given once
	memory   kv.MemoryTag
	tier     int // whose objects it gets, and where its objects are loaded
	eviction l2Eviction
	failures failureLog
	closing  sync.Once
	closeErr error // of closing

	// Tasks that run, for those who watch; only the controllers store them.
	stores, loads, loadBytes atomic.Int64

	mu    sync.Mutex // guards all below
	users int        // tasks and requests that may call the adapter
	left  bool       // nobody begins to use it any more
	idle  chan struct{}
}

// acquire keeps the adapter open until release. It reports false if it is being
// removed.
func (a *adapter) acquire() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.left {
		a.users++
	}
	return !a.left
}

func (a *adapter) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users--; a.users == 0 && a.left {
		close(a.idle)
	}
}

// leave refuses new users, and returns a channel that is closed when there are
// none.
func (a *adapter) leave() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.left {
		a.left, a.idle = true, make(chan struct{})
		a.m.tiers[a.tier].stores.Add(-1)
		if a.users == 0 {
			close(a.idle)
		}
	}
	return a.idle
}

// draining reports whether the adapter is being removed.
func (a *adapter) draining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

// stop ends the eviction and closes the store, once; every caller returns when
// that is done.
func (a *adapter) stop() error {
	a.closing.Do(func() {
		a.eviction.stop()
		if err := a.Close(); err != nil {
			a.closeErr = fmt.Errorf("close L2 adapter %s: %w", a.Name(), err)
		}
	})
	return a.closeErr
}

func (a *adapter) usage() L2Usage {
	u := a.Usage()
	return L2Usage{a.Name(), u.UsedBytes, u.CapacityBytes}
}

// stores are the stores of a manager. A list that was read stays as it is; one
// that is being removed is in it until nobody uses it.
type stores struct {
	now atomic.Pointer[[]*adapter] // in cascade order; nil if there never was one
	opt Options                    // of New; immutable after it

	mu     sync.Mutex // taken by who changes now; guards the rest
	nextID int
	closed bool
}

func (s *stores) list() []*adapter {
	if l := s.now.Load(); l != nil {
		return *l
	}
	return nil
}

// of returns those that get the objects of a tier.
func (s *stores) of(t *tier) []*adapter {
	all := s.list()
	for i, a := range all {
		if a.m.tiers[a.tier] != t {
			rest := slices.Clone(all[:i])
			for _, a := range all[i+1:] {
				if a.m.tiers[a.tier] == t {
					rest = append(rest, a)
				}
			}
			return rest
		}
	}
	return all
}

// byID returns nil if there is no such store.
func (s *stores) byID(id int) *adapter {
	for _, a := range s.list() {
		if a.id == id {
			return a
		}
	}
	return nil
}

// close lets nobody add a store any more and returns those that there are.
func (s *stores) close() []*adapter {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.list()
}

// change replaces the list by what f makes of a copy of it.
func (s *stores) change(f func([]*adapter) []*adapter) {
	l := f(slices.Clone(s.list()))
	s.now.Store(&l)
}

var errClosed = errors.New("the storage manager is closed")

// addStore connects to a store and begins to use it, with its eviction if that
// is to run already.
func (m *Manager) addStore(c Adapter, evicts bool) (*adapter, error) {
	s := &m.stores
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	a := &adapter{m: m, cfg: c, id: s.nextID, memory: storeTag(c.Fields)}
	a.tier = slices.IndexFunc(m.tiers, func(t *tier) bool { return t.cfg.Tag == c.AffinityTag })
	if err := a.eviction.init(m, a); err != nil {
		return nil, err
	}
	t := m.tiers[a.tier]
	store, err := s.opt.Adapters[c.Type].New([]byte(c.JSON), l2.Env{
		Clock: m.clock, Log: m.log, NoPayload: s.opt.Memory == ScratchMemory, Found: a.eviction.found(),
		Notify: func() {
			t.store.task.Wake()
			m.prefetch.task.Wake()
		},
	})
	if err != nil {
		return nil, err
	}
	a.Adapter = &guard{Adapter: store, m: m, eviction: &a.eviction, tasks: map[l2.TaskID]sizedKeys{}}
	if evicts {
		a.eviction.start()
	}
	s.nextID++
	s.change(func(list []*adapter) []*adapter { return append(list, a) })
	t.stores.Add(1)
	return a, nil
}

// AddAdapter connects to one more store, which comes last in the cascade; config
// is what --l2-adapter takes. It gets what is written from now on. id names it:
// those of New have 0 to n-1, and none is given twice. An error is an
// *AdapterError.
//
// Source: reference storage-manager.md, sections 2.4 and 2.5.
func (m *Manager) AddAdapter(config string) (id int, err error) {
	c, err := m.cfg.parseAdapter(m.stores.opt.Adapters, 0, config)
	if err != nil {
		return 0, err
	}
	a, err := m.addStore(c, !m.stores.opt.ManualEviction)
	if err != nil {
		return 0, &AdapterError{Type: c.Type, Err: err}
	}
	return a.id, nil
}

// NoAdapterError says that there is no L2 adapter of an id.
type NoAdapterError struct{ ID int }

func (e *NoAdapterError) Error() string { return fmt.Sprintf("No L2 adapter with id %d", e.ID) }

// RemoveAdapter ends the use of a store: nothing new is stored there or looked
// up, what is on its way ends, and the store is closed; its objects stay in it.
// When ctx ends before that, the store stays, unused; RemoveAdapter may be called
// again. An unknown id is a *NoAdapterError.
func (m *Manager) RemoveAdapter(ctx context.Context, id int) error {
	a := m.stores.byID(id)
	if a == nil {
		return &NoAdapterError{id}
	}
	if err := m.clock.Wait(ctx, a.leave()); err != nil {
		return fmt.Errorf("remove L2 adapter %d: tasks still run: %w", id, err)
	}
	err := a.stop()
	m.stores.mu.Lock()
	defer m.stores.mu.Unlock()
	m.stores.change(func(list []*adapter) []*adapter {
		return slices.DeleteFunc(list, func(b *adapter) bool { return b == a })
	})
	return err
}

// L2Usage says how full a store is.
type L2Usage struct {
	Name          string
	UsedBytes     int64
	CapacityBytes int64 // 0: unknown or unlimited
}

// L2Usage returns how full every store is, in cascade order.
func (m *Manager) L2Usage() []L2Usage {
	var list []L2Usage
	for _, a := range m.stores.list() {
		list = append(list, a.usage())
	}
	return list
}

// L2BytesBySalt returns what the stores with an eviction policy hold of every
// cache salt, in all.
func (m *Manager) L2BytesBySalt() map[string]int64 {
	sum := map[string]int64{}
	for _, a := range m.stores.list() {
		a.eviction.bytesBySalt(sum)
	}
	return sum
}

// use returns the adapter of an id, which the caller must release.
func (m *Manager) use(id int) (*adapter, error) {
	if a := m.stores.byID(id); a != nil && a.acquire() {
		return a, nil
	}
	return nil, &NoAdapterError{id}
}

// DeleteL2 deletes keys from a store, locked ones excepted, and returns how many
// were there. L1 keeps what it has.
func (m *Manager) DeleteL2(id int, keys []kv.ObjectKey) (int, error) {
	a, err := m.use(id)
	if err != nil {
		return 0, err
	}
	defer a.release()
	n := a.Delete(keys)
	if n == len(keys) { // else it does not say which
		m.publishL2(event.L2KeysDeleted, a, keys, nil)
	}
	if a.eviction.policy != nil {
		if n == len(keys) {
			a.eviction.deleted(keys)
		} else {
			a.eviction.ask(slices.Clone(keys), nil)
		}
	}
	return n, nil
}

// survive is deferred around a cycle of eviction: a panic is logged, and the next
// cycle runs. In LMCache an exception ends the thread.
//
// Source: reference storage-manager.md, section 11, item 6.
func (m *Manager) survive(what string) {
	if r := recover(); r != nil {
		m.logPanic(what, r)
	}
}

func (m *Manager) logPanic(what string, r any) {
	m.log.Error(fmt.Sprintf("%s: panic: %v", what, r), "stack", string(debug.Stack()))
}
