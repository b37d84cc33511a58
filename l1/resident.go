package l1

import "github.com/lmcache/lmcache-go/kv"

// Resident returns which keys have a resident object. Nothing keeps it there.
func (m *Manager) Resident(keys []kv.ObjectKey) kv.Bitmap {
	var mem hashes
	var list slotList
	h, found := mem.of(keys), kv.NewBitmap(len(keys))
	m.gate.rlock()
	defer m.gate.runlock()
	for i, s := range m.index.AppendSlots(list[:0], keys, h) {
		if m.residentOf(s) != nil {
			found.Set(i)
		}
	}
	return found
}
