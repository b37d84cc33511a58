package l1

import (
	"sync"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// hashes is memory for the hashes of a call's keys, and slotList for their
// slots. Both stay on the caller's stack, unless there are more keys than most
// calls have.
type (
	hashes   [64]kv.KeyHash
	slotList [64]uint32
)

func (h *hashes) of(keys []kv.ObjectKey) []kv.KeyHash { return kv.AppendHashes(h[:0], keys) }

// maxTouches bounds what touches keep: so many are told in some 30 µs.
const maxTouches = 256

// touches keeps what calls that hold the gate shared have to say to the policy,
// in their order. Slots in it stay those of the same keys: no slot is freed
// before somebody holds the gate alone, and drains.
type touches struct {
	mu   sync.Mutex // guards list; taken under the gate
	list []uint32   // calls: how many slots, then the slots
}

// add appends a call's slots, of which 0 stands for no key, and reports whether
// it is time to drain.
func (t *touches) add(slots []uint32) (full bool) {
	if len(slots) == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := len(t.list)
	t.list = append(t.list, 0)
	for _, s := range slots {
		if s != 0 {
			t.list = append(t.list, s)
		}
	}
	t.list[at] = uint32(len(t.list) - at - 1)
	return len(t.list) >= maxTouches
}

// drain tells the policy, one call at a time. The caller holds the gate alone.
func (t *touches) drain(p evict.Policy) {
	if len(t.list) == 0 {
		return
	}
	for at := 0; at < len(t.list); {
		from := at + 1
		at = from + int(t.list[at])
		p.Touched(t.list[from:at])
	}
	t.list = t.list[:0]
}
