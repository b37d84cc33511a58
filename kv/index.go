package kv

import (
	"encoding/binary"
	"math/bits"
)

const (
	segmentBits = 10 // a table grows by segments, so that no growth moves more than 1/1024 of it: 0.1 ms at 10 M keys
	segmentMin  = 16
)

// Index gives keys small numbers, slots, while somebody refers to them. A table
// of objects and an eviction policy that share an Index keep what they know of a
// key in arrays indexed by its slot, and hold no key of their own. A slot whose
// last reference is released is given to another key later.
//
// The zero Index is empty. It is not safe for concurrent use. It holds no
// pointers to scan, and costs 56 bytes a key and about 13 of hash table.
type Index struct {
	entries  Slab[indexEntry]
	next     uint32 // slots given so far; slot 0 is never given
	free     uint32 // head of the list of released slots, linked by refs
	live     int
	segments [1 << segmentBits]segment
}

// indexEntry is an ObjectKey with the reference count in what would be its padding.
type indexEntry struct {
	hash    [MaxHash]byte
	rank    uint64
	scope   Scope
	group   uint32
	hashLen uint8
	refs    uint32 // references; the next free slot while it is free
}

// segment is an open-addressing table with linear probing. A cell is the low 32
// bits of a key's hash above its slot; 0 is empty. The length is a power of two.
type segment struct {
	cells []uint64
	used  int
}

func hashKey(k *ObjectKey) KeyHash {
	const m1, m2, m3 = 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(k.Hash[i*8:]) }
	h := mix(word(0)^m1, word(1)^m2) ^ mix(word(2)^m2, word(3)^m3)
	return KeyHash(mix(h^m3, mix(k.Rank^m1, uint64(k.Scope)<<32^uint64(k.Group)^m2)^uint64(k.HashLen)))
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func (e *indexEntry) is(k *ObjectKey) bool {
	return e.hash == k.Hash && e.rank == k.Rank && e.scope == k.Scope && e.group == k.Group && e.hashLen == k.HashLen
}

// KeyHash is what an Index finds a key by.
type KeyHash uint64

// AppendHashes appends the hash of each key to dst. It needs no Index, and so
// not the lock that guards one.
func AppendHashes(dst []KeyHash, keys []ObjectKey) []KeyHash {
	for i := range keys {
		dst = append(dst, hashKey(&keys[i]))
	}
	return dst
}

// Find returns the slot of k, 0 if nobody refers to k.
func (x *Index) Find(k *ObjectKey) uint32 { return x.find(k, hashKey(k)) }

// FindHash is Find of a key whose hash is known.
func (x *Index) FindHash(k *ObjectKey, hash KeyHash) uint32 { return x.find(k, hash) }

// AppendSlots appends the slot of each key to dst, 0 for a key that nobody
// refers to; hashes are those of keys. It reads the cells and then the entries
// of all keys in loops of their own, so that their cache misses overlap, where
// those of one Find after the other would follow each other. Several goroutines
// may call it at once as long as none changes the index.
func (x *Index) AppendSlots(dst []uint32, keys []ObjectKey, hashes []KeyHash) []uint32 {
	const block = 32 // more misses than a core has in flight
	for from := 0; from < len(keys); from += block {
		to := min(from+block, len(keys))
		var first [block]uint32 // slot in the cell where the key belongs
		for i, h := range hashes[from:to] {
			if s := &x.segments[h>>(64-segmentBits)]; len(s.cells) > 0 {
				first[i] = uint32(s.cells[int(h)&(len(s.cells)-1)])
			}
		}
		var likely [block]bool
		for i, slot := range first[:to-from] {
			if slot != 0 {
				likely[i] = x.entries.At(slot).hash[0] == keys[from+i].Hash[0]
			}
		}
		for i := from; i < to; i++ {
			slot := first[i-from]
			if !likely[i-from] || !x.entries.At(slot).is(&keys[i]) {
				slot = x.find(&keys[i], hashes[i])
			}
			dst = append(dst, slot)
		}
	}
	return dst
}

// Prime reads what a Release of each slot will, for the same reason. The result
// means nothing, and keeps the reads from being optimized away.
//
//go:noinline
func (x *Index) Prime(slots []uint32) (read uint64) {
	for _, slot := range slots {
		e := x.entries.At(slot)
		k := ObjectKey{e.hash, e.rank, e.scope, e.group, e.hashLen}
		h := hashKey(&k)
		s := &x.segments[h>>(64-segmentBits)]
		read += s.cells[int(h)&(len(s.cells)-1)]
	}
	return read
}

func (x *Index) find(k *ObjectKey, hash KeyHash) uint32 {
	h := uint64(hash)
	s := &x.segments[h>>(64-segmentBits)]
	if s.used == 0 {
		return 0
	}
	mask := uint64(len(s.cells) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		cell := s.cells[i]
		if cell == 0 {
			return 0
		}
		if cell>>32 == h&0xffffffff {
			if slot := uint32(cell); x.entries.At(slot).is(k) {
				return slot
			}
		}
	}
}

// Acquire returns the slot of k with one more reference to it.
func (x *Index) Acquire(k *ObjectKey) uint32 {
	h := hashKey(k)
	if slot := x.find(k, h); slot != 0 {
		x.entries.At(slot).refs++
		return slot
	}
	return x.Add(k, h)
}

// Add gives a slot to k, of that hash, which must have none, with one reference.
func (x *Index) Add(k *ObjectKey, hash KeyHash) uint32 {
	slot := x.free
	if slot != 0 {
		x.free = x.entries.At(slot).refs
	} else {
		x.next++
		slot = x.next
	}
	*x.entries.At(slot) = indexEntry{k.Hash, k.Rank, k.Scope, k.Group, k.HashLen, 1}
	h := uint64(hash)
	x.segments[h>>(64-segmentBits)].insert(h<<32 | uint64(slot))
	x.live++
	return slot
}

// Retain adds a reference to a slot that has one.
func (x *Index) Retain(slot uint32) { x.entries.At(slot).refs++ }

// Release drops a reference; with the last one the slot is free.
func (x *Index) Release(slot uint32) {
	e := x.entries.At(slot)
	if e.refs--; e.refs > 0 {
		return
	}
	k := x.Key(slot)
	h := uint64(hashKey(&k))
	x.segments[h>>(64-segmentBits)].remove(h<<32 | uint64(slot))
	*e = indexEntry{refs: x.free}
	x.free = slot
	x.live--
}

// Key returns the key of a slot that has a reference.
func (x *Index) Key(slot uint32) ObjectKey {
	e := x.entries.At(slot)
	return ObjectKey{e.hash, e.rank, e.scope, e.group, e.hashLen}
}

// Hash returns a hash of a slot's key. Equal keys have equal ones while the
// program runs.
func (x *Index) Hash(slot uint32) uint64 {
	k := x.Key(slot)
	return uint64(hashKey(&k))
}

// Scope returns the scope of a slot's key.
func (x *Index) Scope(slot uint32) Scope { return x.entries.At(slot).scope }

// Len returns the number of keys.
func (x *Index) Len() int { return x.live }

// Last returns the largest slot given so far; slots below it may be free.
func (x *Index) Last() uint32 { return x.next }

func (s *segment) insert(cell uint64) {
	if (s.used+1)*4 > len(s.cells)*3 {
		old := s.cells
		s.cells = make([]uint64, max(segmentMin, len(old)*2))
		for _, c := range old {
			if c != 0 {
				s.place(c)
			}
		}
	}
	s.place(cell)
	s.used++
}

func (s *segment) place(cell uint64) {
	mask := uint64(len(s.cells) - 1)
	i := cell >> 32 & mask
	for s.cells[i] != 0 {
		i = (i + 1) & mask
	}
	s.cells[i] = cell
}

// remove takes cell out and moves later cells of the same run back, so that no
// marks of deleted cells pile up.
func (s *segment) remove(cell uint64) {
	mask := uint64(len(s.cells) - 1)
	i := cell >> 32 & mask
	for s.cells[i] != cell {
		i = (i + 1) & mask
	}
	s.used--
	for j := (i + 1) & mask; s.cells[j] != 0; j = (j + 1) & mask {
		if home := s.cells[j] >> 32 & mask; (j-home)&mask >= (j-i)&mask {
			s.cells[i] = s.cells[j]
			i = j
		}
	}
	s.cells[i] = 0
}
