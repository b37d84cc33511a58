package l1

// Counts say how many objects are in which state.
type Counts struct {
	WriteLocked int64 // reserved, with a live lock
	ReadLocked  int64 // resident, with a live lock
	Temporary   int64 // resident, and gone with their last reader
}

// countBatch is how many slots Counts looks at under one hold of the gate.
const countBatch = 1024

// Counts looks at every object, and lets other calls have their turn in between.
func (m *Manager) Counts() (c Counts) {
	for first, more := uint32(1), true; more; first += countBatch {
		more = m.countSome(&c, first)
		m.gate.yield()
	}
	return c
}

func (m *Manager) countSome(c *Counts, first uint32) (more bool) {
	m.gate.rlock()
	defer m.gate.runlock()
	now, last := m.clock.Now(), m.index.Last()
	for s := first; s <= last && s < first+countBatch; s++ {
		at := m.slots.At(s)
		for n := at.staged; n != 0; n = m.staged.At(n).next {
			if m.staged.At(n).live(now) {
				c.WriteLocked++
			}
		}
		if at.resident.state == absent {
			continue
		}
		if at.resident.state == temporary {
			c.Temporary++
		}
		mu := m.read.of(s)
		mu.Lock()
		if at.resident.live(now) {
			c.ReadLocked++
		}
		mu.Unlock()
	}
	return first+countBatch <= last
}

// Balanced is the part of Check that takes no time: what is used and what is free
// make up the whole.
func (m *Manager) Balanced() bool {
	m.gate.rlock()
	defer m.gate.runlock()
	return m.arena.taken+m.arena.avail == m.arena.heap && m.staging >= 0 && m.staging <= m.arena.taken
}
