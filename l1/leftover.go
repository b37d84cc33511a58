package l1

import "github.com/lmcache/lmcache-go/kv"

// leftovers are the memory of objects that went by force while a task of a store
// read or wrote it. The keys have nothing any more; the memory is given back when
// the task has ended, since it must not become another object's before.
type leftovers struct {
	pinned  map[int64]*leftover      // by offset, which nobody else has: see Pin
	loading map[reservation]leftover // by prefetches: Finish or Discard ends them
}

// reservation names an object that was reserved.
type reservation struct {
	key kv.ObjectKey
	tag Tag
}

// leftover is one object.
type leftover struct {
	object
	scope kv.Scope
}

// each calls f for every object.
func (l *leftovers) each(f func(*leftover)) {
	for _, o := range l.pinned {
		f(o)
	}
	for _, o := range l.loading {
		f(&o)
	}
}

// leave keeps the memory of a resident object of slot s that has pins.
func (m *Manager) leave(s uint32, o object) {
	if m.left.pinned == nil {
		m.left.pinned = map[int64]*leftover{}
	}
	m.left.pinned[o.offset] = &leftover{o, m.index.Scope(s)}
}

// leaveLoading keeps the memory that a prefetch has reserved for slot s.
func (m *Manager) leaveLoading(s uint32, tag Tag, o object) {
	if m.left.loading == nil {
		m.left.loading = map[reservation]leftover{}
	}
	m.left.loading[reservation{m.index.Key(s), tag}] = leftover{o, m.index.Scope(s)}
}

// unpinLeft undoes a pin of the object at offset, if that went by force.
func (m *Manager) unpinLeft(offset int64) {
	if o := m.left.pinned[offset]; o != nil {
		if o.pins--; o.pins == 0 {
			delete(m.left.pinned, offset)
			m.giveBack(o)
		}
	}
}

// endLoading gives back what tag had reserved for key, if that went by force.
func (m *Manager) endLoading(key *kv.ObjectKey, tag Tag) {
	if len(m.left.loading) == 0 {
		return
	}
	if o, ok := m.left.loading[reservation{*key, tag}]; ok {
		delete(m.left.loading, reservation{*key, tag})
		m.giveBack(&o)
	}
}

func (m *Manager) giveBack(o *leftover) {
	m.arena.free(o.offset, m.physical(o.layout))
	if m.salts != nil {
		m.salts.add(o.scope, -m.physical(o.layout))
	}
}
