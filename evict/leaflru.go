package evict

import "github.com/lmcache/lmcache-go/kv"

// LeafLRU is LRU over prefix chains: a key does not go before the keys that
// extend it, because without it nobody can use them. A key counts as used when
// a key that extends it is used, so that of two keys of a chain the longer
// prefix is always the older; the oldest key that may go goes first.
//
//   - A key with several extensions goes after all of them.
//   - A key that may not go (locked, being written, being loaded) holds every
//     prefix of it, whether or not those have locks of their own.
//   - What is removed by others than Victims, as a forced deletion does, leaves a
//     gap. What is behind it goes by its own use.
//
// Which key extends which is told by Chained. Keys that are not here are
// expected: the link is known before the key comes, in a call of its own. The last
// 16,384 of such links are kept.
//
// It costs 12 bytes a key, and for a key that is expected and never comes as much
// as the tier's tables take for a key. A use of a key costs a step for each of
// its prefixes, also of those that the call does not name.
type LeafLRU struct {
	index *kv.Index
	nodes kv.Slab[leafNode]
	n     int

	expected [expectedKeys]uint32 // ring of untracked slots with a parent; each holds a reference
	nextRing int

	// Scratch lists.
	marked  []uint32
	parents []uint32
	named   []uint32
	lanes   []lane
}

const expectedKeys = 16 << 10

// leafNode links a tracked slot into a ring through slot 0, as LRU's link does.
type leafNode struct {
	prev   uint32 // with tracked
	next   uint32 // with marked
	parent uint32 // the key that this one extends, which it holds a reference to; 0 if not known
}

// marked on next tells a key apart during one call: that the call is still to use
// it, that it is held by one that may not go, or that it is a prefix of the key
// that the call named last.
const marked = 1 << 31

// lane is the last key of one chain in a list that has several, as those of the
// ranks of a chunk.
type lane struct {
	rank  uint64
	scope kv.Scope
	group uint32
	last  uint32 // slot, 0 at the start
	path  bool   // last and all its prefixes are marked
}

func newLeafLRU(x *kv.Index) *LeafLRU { return &LeafLRU{index: x} }

func (l *LeafLRU) isTracked(s uint32) bool { return l.nodes.At(s).prev&tracked != 0 }

// Reserved uses the keys, adding what is new.
func (l *LeafLRU) Reserved(slots []uint32) { l.Created(slots) }

// Created uses the keys, adding what is new.
func (l *LeafLRU) Created(slots []uint32) {
	for _, s := range slots {
		if !l.isTracked(s) {
			l.index.Retain(s)
			l.n++
			l.append(s)
		}
	}
	l.use(slots)
}

// Touched uses those of the keys that are tracked.
func (l *LeafLRU) Touched(slots []uint32) { l.use(slots) }

// use moves each of slots to the recent end, last to first, and then each
// prefix of it, longest first. A prefix that the same call is yet to use is left
// to that.
func (l *LeafLRU) use(slots []uint32) {
	for _, s := range slots {
		if at := l.nodes.At(s); at.prev&tracked != 0 {
			at.next |= marked
		}
	}
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		at := l.nodes.At(s)
		if at.prev&tracked == 0 {
			continue
		}
		for {
			l.unlink(s)
			l.append(s) // and takes the mark away
			s = at.parent
			if at = l.nodes.At(s); s == 0 || at.prev&tracked == 0 || at.next&marked != 0 {
				break
			}
		}
	}
}

// Removed forgets the keys, and what they extend. What extends them stays
// linked, for when they come back.
func (l *LeafLRU) Removed(slots []uint32) {
	for _, s := range slots {
		if at := l.nodes.At(s); at.prev&tracked != 0 {
			l.unlink(s)
			at.prev, at.next = 0, 0
			l.n--
			l.orphan(s)
			l.index.Release(s)
		}
	}
}

// Chained learns which key extends which, also of keys that are not here. Where
// it learns anything about keys that are, the prefixes are used.
func (l *LeafLRU) Chained(keys []kv.ObjectKey) {
	l.lanes, l.parents, l.named = l.lanes[:0], l.parents[:0], l.named[:0]
	at := 0
	for i := range keys {
		s := l.index.Acquire(&keys[i])
		l.named = append(l.named, s)
		at = l.lane(at, &keys[i])
		lane := &l.lanes[at]
		if before := lane.last; before != 0 && before != s && l.nodes.At(s).parent != before {
			l.learn(lane, s, before)
		}
		if lane.path {
			l.mark(s)
		}
		lane.last = s
	}
	l.unmark()
	for _, s := range l.named {
		l.index.Release(s)
	}
	l.use(l.parents)
}

// learn makes before what s extends, unless it extends s itself: a link that
// would close a circle is none.
func (l *LeafLRU) learn(lane *lane, s, before uint32) {
	if !lane.path {
		for p := before; p != 0; p = l.nodes.At(p).parent {
			l.mark(p)
		}
		lane.path = true
	}
	at := l.nodes.At(s)
	if at.next&marked != 0 {
		for i := range l.lanes {
			l.lanes[i].path = false
		}
		l.unmark()
		return
	}
	wasLinked := at.parent != 0
	l.orphan(s)
	at.parent = before
	l.index.Retain(before)
	switch {
	case l.isTracked(s):
		l.parents = append(l.parents, before)
	case !wasLinked:
		l.expect(s)
	}
}

func (l *LeafLRU) mark(s uint32) {
	l.nodes.At(s).next |= marked
	l.marked = append(l.marked, s)
}

func (l *LeafLRU) unmark() {
	for _, s := range l.marked {
		l.nodes.At(s).next &^= marked
	}
	l.marked = l.marked[:0]
}

// lane returns the number of the key's lane. The lanes of a list mostly take
// turns: the one after the last is tried first.
func (l *LeafLRU) lane(last int, k *kv.ObjectKey) int {
	for i := range l.lanes {
		n := last + 1 + i
		if n >= len(l.lanes) {
			n -= len(l.lanes)
		}
		if at := &l.lanes[n]; at.rank == k.Rank && at.scope == k.Scope && at.group == k.Group {
			return n
		}
	}
	l.lanes = append(l.lanes, lane{rank: k.Rank, scope: k.Scope, group: k.Group})
	return len(l.lanes) - 1
}

// orphan takes away the link from s to what it extends.
func (l *LeafLRU) orphan(s uint32) {
	at := l.nodes.At(s)
	if p := at.parent; p != 0 {
		at.parent = 0
		l.index.Release(p)
	}
}

// expect keeps the link of a key that is not here, in place of the oldest such.
func (l *LeafLRU) expect(s uint32) {
	l.index.Retain(s)
	old := l.expected[l.nextRing]
	l.expected[l.nextRing] = s
	l.nextRing = (l.nextRing + 1) % expectedKeys
	if old != 0 {
		if !l.isTracked(old) {
			l.orphan(old)
		}
		l.index.Release(old)
	}
}

// Victims scans from the cold end. Every key comes after those that extend it:
// one that may not go, or is held, holds what it extends.
func (l *LeafLRU) Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	n += len(dst)
	for s := l.nodes.At(0).next; s != 0 && len(dst) < n; {
		at := l.nodes.At(s)
		if at.next&marked == 0 && evictable(s) {
			dst = append(dst, s)
		} else if p := l.nodes.At(at.parent); p.prev&tracked != 0 && p.next&marked == 0 {
			l.mark(at.parent)
		}
		s = at.next &^ marked
	}
	l.unmark()
	return dst
}

// Len returns the number of tracked keys.
func (l *LeafLRU) Len() int { return l.n }

// Order appends the tracked keys to dst, coldest first.
func (l *LeafLRU) Order(dst []uint32) []uint32 {
	for s := l.nodes.At(0).next; s != 0; s = l.nodes.At(s).next &^ marked {
		dst = append(dst, s)
	}
	return dst
}

func (l *LeafLRU) unlink(s uint32) {
	at := l.nodes.At(s)
	prev, next := at.prev&^tracked, at.next&^marked
	before := l.nodes.At(prev)
	before.next = next | before.next&marked
	after := l.nodes.At(next)
	after.prev = prev | after.prev&tracked
}

func (l *LeafLRU) append(s uint32) {
	root := l.nodes.At(0)
	last := root.prev
	at := l.nodes.At(s)
	at.prev, at.next = last|tracked, 0
	before := l.nodes.At(last)
	before.next = s | before.next&marked
	root.prev = s
}
