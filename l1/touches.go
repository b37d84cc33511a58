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

// maxTouches is how many slots are told to the policy at a time, which takes some
// 20 µs.
const maxTouches = 256

// touches keeps what calls that hold the gate shared have to say to the policy,
// in their order. Slots in it stay those of the same keys: no slot is freed
// before somebody holds the gate alone, and drains.
//
// Who holds the gate shared looks at nothing that a policy changes when it is
// told of touches. So one of them may tell it beside the others.
type touches struct {
	mu   sync.Mutex // guards list; taken under the gate
	list []uint32   // calls: how many slots, then the slots

	telling sync.Mutex // held, under the gate shared, by who tells the policy; taken before mu
	told    []uint32   // memory of the next list; guarded by telling
}

// add appends a call's slots, of which 0 stands for no key, and returns how long
// the list is.
func (t *touches) add(slots []uint32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(slots) == 0 {
		return len(t.list)
	}
	at := len(t.list)
	t.list = append(t.list, 0)
	for _, s := range slots {
		if s != 0 {
			t.list = append(t.list, s)
		}
	}
	t.list[at] = uint32(len(t.list) - at - 1)
	return len(t.list)
}

// drainShared is drain by a caller that holds the gate shared. It leaves it to
// another who is at it, unless wait says that the list is too long for that.
func (t *touches) drainShared(p evict.Policy, wait bool) {
	if wait {
		t.telling.Lock()
	} else if !t.telling.TryLock() {
		return
	}
	defer t.telling.Unlock()
	t.mu.Lock()
	list := t.list
	t.list = t.told[:0]
	t.mu.Unlock()
	tell(p, list)
	t.told = list
}

// drain tells the policy, one call at a time. The caller holds the gate alone.
func (t *touches) drain(p evict.Policy) {
	tell(p, t.list)
	t.list = t.list[:0]
}

func tell(p evict.Policy, list []uint32) {
	for at := 0; at < len(list); {
		from := at + 1
		at = from + int(list[at])
		p.Touched(list[from:at])
	}
}
