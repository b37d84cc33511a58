package l1

import (
	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// KeyState is what one key has in the tier.
type KeyState struct {
	Key        kv.ObjectKey
	Resident   bool
	Temporary  bool // resident, and goes with its last read lock
	ReadLocked bool // resident, with a live read lock
	ReadLocks  int  // how many, 0 if the lock has lapsed
	Staged     bool // has a reservation, live or expired
}

// Snapshot is the whole state of a tier, for tests and inspection. It takes time
// and memory in proportion to the objects, with the tier locked.
type Snapshot struct {
	Keys  []KeyState     // in no order
	Order []kv.ObjectKey // the policy's, first to go first

	// Of the ARC policy only: its lists t1, t2, b1 and b2, oldest first, the
	// wanted size of t1 and the capacity.
	Lists    map[string][]kv.ObjectKey
	Target   float64
	Capacity int
}

// Snapshot returns the present state.
func (m *Manager) Snapshot() Snapshot {
	m.enter()
	defer m.gate.unlock()
	now := m.clock.Now()
	var s Snapshot
	for i := uint32(1); i <= m.index.Last(); i++ {
		at := m.slots.At(i)
		if r := &at.object; r.state != absent || at.next != 0 {
			k := KeyState{Key: m.index.Key(i), Resident: r.state != absent, Temporary: r.state == temporary, Staged: at.next != 0}
			if k.Resident && r.live(now) {
				k.ReadLocked, k.ReadLocks = true, int(r.locks)
			}
			s.Keys = append(s.Keys, k)
		}
	}
	s.Order = m.keysOf(m.policy.Order(nil))
	if arc, ok := m.policy.(*evict.ARC); ok {
		s.Lists = map[string][]kv.ObjectKey{}
		for name, slots := range arc.Lists() {
			s.Lists[name] = m.keysOf(slots)
		}
		s.Target, s.Capacity = arc.Target()
	}
	return s
}

func (m *Manager) keysOf(slots []uint32) []kv.ObjectKey {
	var keys []kv.ObjectKey
	for _, s := range slots {
		keys = append(keys, m.index.Key(s))
	}
	return keys
}
