package sm

import (
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

// AbandonWrite frees what ReserveWrite has reserved for keys: nobody gets to see
// it. Keys without a reservation are ignored. It is not among the calls that are
// recorded; in a replay such a reservation lapses.
func (m *Manager) AbandonWrite(keys []kv.ObjectKey) {
	for _, t := range m.tiers {
		t.l1.Discard(keys, l1.Writer)
	}
}
