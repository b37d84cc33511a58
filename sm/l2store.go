package sm

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// adapter is one L2 store with what belongs to it.
type adapter struct {
	l2.Adapter
	cfg      Adapter
	index    int // in Manager.adapters
	memory   kv.MemoryTag
	tier     int // whose objects it gets, and where its objects are loaded
	eviction l2Eviction

	// Tasks that run, for those who watch; only the controllers store them.
	stores, loads, loadBytes atomic.Int64
}

// addAdapter connects to a store.
func (m *Manager) addAdapter(c Adapter, opt Options) error {
	a := &adapter{cfg: c, index: len(m.adapters), memory: storeTag(c.Fields)}
	a.tier = slices.IndexFunc(m.tiers, func(t *tier) bool { return t.cfg.Tag == c.AffinityTag })
	if err := a.eviction.init(m, a); err != nil {
		return err
	}
	t := m.tiers[a.tier]
	store, err := opt.Adapters[c.Type].New([]byte(c.JSON), l2.Env{
		Clock: m.clock, Log: m.log, NoPayload: opt.Memory == ScratchMemory, Found: a.eviction.found(),
		Notify: func() {
			t.store.task.Wake()
			m.prefetch.task.Wake()
		},
	})
	if err != nil {
		return err
	}
	a.Adapter = &guard{Adapter: store, m: m, eviction: &a.eviction, tasks: map[l2.TaskID]sizedKeys{}}
	t.adapters = append(t.adapters, len(m.adapters))
	m.adapters = append(m.adapters, a)
	return nil
}

// L2Usage says how full a store is.
type L2Usage struct {
	Name          string
	UsedBytes     int64
	CapacityBytes int64 // 0: unknown or unlimited
}

// L2Usage returns how full every store is, in cascade order.
func (m *Manager) L2Usage() []L2Usage {
	list := make([]L2Usage, len(m.adapters))
	for i, a := range m.adapters {
		u := a.Usage()
		list[i] = L2Usage{a.Name(), u.UsedBytes, u.CapacityBytes}
	}
	return list
}

// L2BytesBySalt returns what the stores with an eviction policy hold of every
// cache salt, in all.
func (m *Manager) L2BytesBySalt() map[string]int64 {
	sum := map[string]int64{}
	for _, a := range m.adapters {
		a.eviction.bytesBySalt(sum)
	}
	return sum
}

// DeleteL2 deletes keys from the store at index i, locked ones excepted, and
// returns how many were there. L1 keeps what it has.
func (m *Manager) DeleteL2(i int, keys []kv.ObjectKey) (int, error) {
	if i < 0 || i >= len(m.adapters) {
		return 0, fmt.Errorf("no L2 adapter %d, there are %d", i, len(m.adapters))
	}
	a := m.adapters[i]
	n := a.Delete(keys)
	if n == len(keys) { // else it does not say which
		m.publishL2(event.L2KeysDeleted, i, keys, nil)
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
