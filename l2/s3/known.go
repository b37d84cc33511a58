package s3

import "github.com/lmcache/lmcache-go/kv"

// known is what this process knows to be in the store: what it wrote, looked up
// or read, until it deletes it or finds it gone. Its arrays hold no pointers, so
// that ten million objects cost the collector nothing.
//
// The zero value knows nothing. The caller locks.
type known struct {
	index   kv.Index
	objects kv.Slab[object] // by slot of index
	bytes   int64           // sum of the sizes

	// What was asked for lately and was not there. A request that misses a key
	// is followed by its store, which then need not ask again.
	missed, missedBefore map[kv.ObjectKey]struct{}
}

// maxMissed bounds each of the two sets: together about 6 MiB.
const maxMissed = 1 << 15

type object struct {
	size     int64
	locks    uint32
	deleting bool
}

// find returns the object of k, nil if it is not known or about to go.
func (n *known) find(k *kv.ObjectKey) *object {
	if slot := n.index.Find(k); slot != 0 {
		if o := n.objects.At(slot); !o.deleting {
			return o
		}
	}
	return nil
}

// learn notes that k is there with this size, and returns its object.
func (n *known) learn(k *kv.ObjectKey, size int64) *object {
	slot := n.index.Find(k)
	if slot == 0 {
		slot = n.index.Acquire(k)
		*n.objects.At(slot) = object{}
	}
	o := n.objects.At(slot)
	n.bytes += size - o.size
	o.size = size
	delete(n.missed, *k)
	delete(n.missedBefore, *k)
	return o
}

// miss notes that k is not there.
func (n *known) miss(k *kv.ObjectKey) {
	n.forget(k)
	if n.missed == nil || len(n.missed) == maxMissed {
		n.missedBefore, n.missed = n.missed, map[kv.ObjectKey]struct{}{}
	}
	n.missed[*k] = struct{}{}
}

// missing reports whether k was not there when it was asked for last.
func (n *known) missing(k *kv.ObjectKey) bool {
	_, now := n.missed[*k]
	_, before := n.missedBefore[*k]
	return now || before
}

// forget notes that k is gone, and reports whether it was known.
func (n *known) forget(k *kv.ObjectKey) bool {
	slot := n.index.Find(k)
	if slot == 0 {
		return false
	}
	n.bytes -= n.objects.At(slot).size
	n.index.Release(slot)
	return true
}

// keep notes that k was not deleted after all.
func (n *known) keep(k *kv.ObjectKey) {
	if slot := n.index.Find(k); slot != 0 {
		n.objects.At(slot).deleting = false
	}
}

// unlock takes back one lock of k, if there is one.
func (n *known) unlock(k *kv.ObjectKey) {
	if slot := n.index.Find(k); slot != 0 {
		if o := n.objects.At(slot); o.locks > 0 {
			o.locks--
		}
	}
}
