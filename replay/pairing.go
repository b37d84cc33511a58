package replay

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/lmcache/lmcache-go/kv"
)

// readQueue holds the reads that were entered and not yet left. The oldest
// read of an equal key list is the one that an exit leaves.
//
// It is a hash table whose chains are in order of entry, so that a chain's
// first match is the oldest. Slots and their key copies are reused: once as
// many reads were open at a time as ever will be, it allocates nothing.
type readQueue struct {
	slots   []readSlot
	free    int32       // head of the list of unused slots, -1 at its end
	buckets []readChain // a power of two, at least as many as open reads; nil before the first read
	open    int
	entered uint64 // reads ever pushed
	scratch []byte // bytes of a key list while it is hashed
}

type readSlot struct {
	hash  uint64
	order uint64         // position among all reads entered
	keys  []kv.ObjectKey // the queue's own copy
	read  Read           // nil in a free slot
	next  int32          // in the chain or in the free list, -1 at its end
}

type readChain struct{ first, last int32 } // slots, -1 when empty

const minReadChains = 64

// hash identifies a key list, nearly: equal lists have equal hashes.
func (q *readQueue) hash(keys []kv.ObjectKey) uint64 {
	b := q.scratch[:0]
	for i := range keys {
		k := &keys[i]
		b = append(b, k.ChunkHash()...)
		b = append(b, k.HashLen)
		b = binary.LittleEndian.AppendUint64(b, k.Rank)
		b = binary.LittleEndian.AppendUint64(b, uint64(k.Scope)|uint64(k.Group)<<32)
	}
	q.scratch = b
	return xxhash.Sum64(b)
}

// push adds an entered read of keys, which it copies. hash is that of keys.
func (q *readQueue) push(hash uint64, keys []kv.ObjectKey, read Read) {
	if q.open == len(q.buckets) {
		q.grow()
	}
	if q.free < 0 {
		q.slots = append(q.slots, readSlot{next: -1})
		q.free = int32(len(q.slots) - 1)
	}
	i := q.free
	s := &q.slots[i]
	q.free = s.next
	s.hash, s.order, s.read = hash, q.entered, read
	s.keys = append(s.keys[:0], keys...)
	q.link(i)
	q.open++
	q.entered++
}

// pop removes the oldest read of keys and returns it, nil if none is open.
func (q *readQueue) pop(hash uint64, keys []kv.ObjectKey) Read {
	if q.open == 0 {
		return nil
	}
	c := &q.buckets[hash&uint64(len(q.buckets)-1)]
	before := int32(-1)
	for i := c.first; i >= 0; before, i = i, q.slots[i].next {
		s := &q.slots[i]
		if s.hash != hash || !slices.Equal(s.keys, keys) {
			continue
		}
		if before < 0 {
			c.first = s.next
		} else {
			q.slots[before].next = s.next
		}
		if c.last == i {
			c.last = before
		}
		read := s.read
		s.read, s.next, q.free = nil, q.free, i
		q.open--
		return read
	}
	return nil
}

// drain removes all reads, in order of entry.
func (q *readQueue) drain(leave func(keys []kv.ObjectKey, read Read)) {
	var left []*readSlot
	for i := range q.slots {
		if q.slots[i].read != nil {
			left = append(left, &q.slots[i])
		}
	}
	slices.SortFunc(left, func(a, b *readSlot) int {
		if a.order < b.order {
			return -1
		}
		return 1
	})
	for _, s := range left {
		leave(s.keys, s.read)
	}
	*q = readQueue{}
}

// link appends slot i to its chain.
func (q *readQueue) link(i int32) {
	s := &q.slots[i]
	s.next = -1
	c := &q.buckets[s.hash&uint64(len(q.buckets)-1)]
	if c.first < 0 {
		c.first = i
	} else {
		q.slots[c.last].next = i
	}
	c.last = i
}

// grow doubles the chains. Every old chain is walked in order, and equal lists
// are in one chain, so they keep their order.
func (q *readQueue) grow() {
	old := q.buckets
	if old == nil {
		q.free = -1
	}
	q.buckets = make([]readChain, max(minReadChains, 2*len(old)))
	for i := range q.buckets {
		q.buckets[i] = readChain{-1, -1}
	}
	for _, c := range old {
		for i := c.first; i >= 0; {
			next := q.slots[i].next
			q.link(i)
			i = next
		}
	}
}
