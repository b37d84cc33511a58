package evict

import "github.com/lmcache/lmcache-go/kv"

// LRU evicts the key that was reserved, created or hit longest ago. It costs 8
// bytes a key.
type LRU struct {
	index *kv.Index // tracked keys hold a reference
	links kv.Slab[link]
	n     int

	cursor uint32 // the key that Scan looks at next, 0 at the end
}

// link joins the slots into a ring through slot 0, which is no key's: next of 0
// is the coldest key, prev of 0 the hottest. next and prev of an untracked slot
// are its own number, or 0 and 0 in a slab's fresh part; a tracked slot is told
// from that by tracked.
type link struct{ prev, next uint32 }

// tracked marks prev of a linked slot, so that a lone key (0, 0) differs from
// an untracked slot. Slots stay far below it: 2^31 keys are 120 GB of table.
const tracked = 1 << 31

// Reserved moves or adds the keys to the recent end.
func (l *LRU) Reserved(slots []uint32) { l.Created(slots) }

// Created moves or adds the keys to the recent end.
func (l *LRU) Created(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		if l.links.At(s).prev&tracked != 0 {
			l.unlink(s)
		} else {
			l.index.Retain(s)
			l.n++
		}
		l.append(s)
	}
}

// prime reads the links that moving the slots will change, in a loop of its own
// so that the cache misses overlap. What it returns means nothing, and keeps the
// reads from being optimized away.
//
//go:noinline
func (l *LRU) prime(slots []uint32) (read uint32) {
	for _, s := range slots {
		at := l.links.At(s)
		read += l.links.At(at.next).next + l.links.At(at.prev&^tracked).prev
	}
	return read
}

// Touched moves the keys to the recent end.
func (l *LRU) Touched(slots []uint32) {
	l.prime(slots)
	for i := len(slots) - 1; i >= 0; i-- {
		if s := slots[i]; l.links.At(s).prev&tracked != 0 {
			l.unlink(s)
			l.append(s)
		}
	}
}

// Removed forgets the keys.
func (l *LRU) Removed(slots []uint32) {
	for _, s := range slots {
		if at := l.links.At(s); at.prev&tracked != 0 {
			l.unlink(s)
			*at = link{}
			l.n--
			l.index.Release(s)
		}
	}
}

// Victims scans from the cold end.
func (l *LRU) Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	n += len(dst)
	for s := l.links.At(0).next; s != 0 && len(dst) < n; s = l.links.At(s).next {
		if evictable(s) {
			dst = append(dst, s)
		}
	}
	return dst
}

// Len returns the number of tracked keys.
func (l *LRU) Len() int { return l.n }

// Order appends the tracked keys to dst, coldest first.
func (l *LRU) Order(dst []uint32) []uint32 {
	for s := l.links.At(0).next; s != 0; s = l.links.At(s).next {
		dst = append(dst, s)
	}
	return dst
}

func (l *LRU) unlink(s uint32) {
	at := *l.links.At(s)
	if s == l.cursor {
		l.cursor = at.next
	}
	prev := at.prev &^ tracked
	l.links.At(prev).next = at.next
	next := l.links.At(at.next)
	next.prev = prev | next.prev&tracked
}

func (l *LRU) append(s uint32) {
	root := l.links.At(0)
	last := root.prev
	*l.links.At(s) = link{prev: last | tracked, next: 0}
	l.links.At(last).next = s
	root.prev = s
}
