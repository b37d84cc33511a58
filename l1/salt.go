package l1

import (
	"fmt"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// saltTable counts the bytes of every salt, for quotas. It is guarded by the
// manager's lock.
type saltTable struct {
	policy evict.Partitioned
	bytes  []int64 // by kv.Salt; as placed, staged objects included
}

func (t *saltTable) add(scope kv.Scope, bytes int64) {
	salt := int(scope.SaltID())
	if salt >= len(t.bytes) {
		t.bytes = append(t.bytes, make([]int64, salt+1-len(t.bytes))...)
	}
	t.bytes[salt] += bytes
}

// check counts again.
func (t *saltTable) check(m *Manager) error {
	if t == nil {
		return nil
	}
	var again saltTable
	for s := uint32(1); s <= m.index.Last(); s++ {
		at := m.slots.At(s)
		if at.resident.state != absent {
			again.add(m.index.Scope(s), m.physical(at.resident.layout))
		}
		for n := at.staged; n != 0; n = m.staged.At(n).next {
			again.add(m.index.Scope(s), m.physical(m.staged.At(n).layout))
		}
	}
	m.left.each(func(o *leftover) { again.add(o.scope, m.physical(o.layout)) })
	again.bytes = append(again.bytes, make([]int64, max(0, len(t.bytes)-len(again.bytes)))...)
	for salt, bytes := range again.bytes {
		if salt >= len(t.bytes) || bytes != t.bytes[salt] {
			return fmt.Errorf("objects of salt %s have %d bytes; counted by salt are %v", evict.SaltName(kv.Salt(salt)), bytes, t.bytes)
		}
	}
	return nil
}

// whose says among whose keys to evict.
type whose struct {
	all   bool
	salts []kv.Salt
}

var everything = whose{all: true}

func (w whose) len(p evict.Policy) int {
	if w.all {
		return p.Len()
	}
	return p.(evict.Partitioned).LenOf(w.salts)
}

func (w whose) victims(p evict.Policy, dst []uint32, n int, evictable func(uint32) bool) []uint32 {
	if w.all {
		return p.Victims(dst, n, evictable)
	}
	return p.(evict.Partitioned).VictimsOf(dst, n, w.salts, evictable)
}

// HasSalts reports whether the policy chooses by salt, so that quotas mean
// something.
func (m *Manager) HasSalts() bool { return m.salts != nil } // immutable

// UsageBySalt appends to dst the bytes of every salt that has any, as placed,
// and with those that are staged. It appends nothing unless HasSalts.
func (m *Manager) UsageBySalt(dst []evict.SaltUsage) []evict.SaltUsage {
	if m.salts == nil {
		return dst
	}
	m.gate.rlock()
	defer m.gate.runlock()
	for salt, bytes := range m.salts.bytes {
		if bytes > 0 {
			dst = append(dst, evict.SaltUsage{Salt: kv.Salt(salt), Bytes: bytes})
		}
	}
	return dst
}

// EvictSalts is Evict of a share ratio of the tracked keys of salts. It removes
// nothing unless HasSalts.
func (m *Manager) EvictSalts(salts []kv.Salt, ratio float64) Evicted {
	if m.salts == nil {
		return Evicted{}
	}
	return m.evict(whose{salts: salts}, ratio)
}
