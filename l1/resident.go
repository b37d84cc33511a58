package l1

import "github.com/lmcache/lmcache-go/kv"

// Resident returns which keys have a resident object. Nothing keeps it there.
func (m *Manager) Resident(keys []kv.ObjectKey) kv.Bitmap {
	m.gate.rlock()
	defer m.gate.runlock()
	found := kv.NewBitmap(len(keys))
	for i := range keys {
		if _, at := m.find(&keys[i]); at != nil && at.state != absent {
			found.Set(i)
		}
	}
	return found
}
