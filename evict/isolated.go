package evict

import (
	"slices"

	"github.com/lmcache/lmcache-go/kv"
)

// IsolatedLRU keeps the keys of every salt in a list of their own, so that a
// quota takes from a salt without looking at the others. Within any set of
// salts it evicts what was used longest ago, as LRU does. It costs 12 bytes a
// key, and 12 a salt.
//
// Source: reference storage-manager.md, section 5.6.
type IsolatedLRU struct {
	index *kv.Index
	nodes kv.Slab[isolatedNode]
	lists []isolatedList // by kv.Salt
	clock uint32         // uses so far, but see renumber
	n     int
	heads []isolatedHead // scratch of VictimsOf
}

type isolatedNode struct {
	prev, next uint32 // 0 at the ends
	used       uint32 // when it was used last; 0 while it is not tracked
}

type isolatedList struct {
	oldest, last uint32
	n            int32
}

// isolatedHead is how far the merge of several lists has come in one of them.
type isolatedHead struct {
	used, slot uint32
}

func (l *IsolatedLRU) list(slot uint32) *isolatedList {
	salt := int(l.index.Scope(slot).SaltID())
	if salt >= len(l.lists) {
		l.lists = append(l.lists, make([]isolatedList, salt+1-len(l.lists))...)
	}
	return &l.lists[salt]
}

// Reserved moves or adds the keys to the recent end of their salts.
func (l *IsolatedLRU) Reserved(slots []uint32) { l.Created(slots) }

// Created moves or adds the keys to the recent end of their salts.
func (l *IsolatedLRU) Created(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		s := slots[i]
		list := l.list(s)
		if l.nodes.At(s).used != 0 {
			l.unlink(list, s)
		} else {
			l.index.Retain(s)
			l.n++
		}
		l.append(list, s)
	}
}

// Touched moves the keys to the recent end of their salts.
func (l *IsolatedLRU) Touched(slots []uint32) {
	for i := len(slots) - 1; i >= 0; i-- {
		if s := slots[i]; l.nodes.At(s).used != 0 {
			list := l.list(s)
			l.unlink(list, s)
			l.append(list, s)
		}
	}
}

// Removed forgets the keys.
func (l *IsolatedLRU) Removed(slots []uint32) {
	for _, s := range slots {
		if at := l.nodes.At(s); at.used != 0 {
			l.unlink(l.list(s), s)
			*at = isolatedNode{}
			l.n--
			l.index.Release(s)
		}
	}
}

// Victims is VictimsOf all salts.
func (l *IsolatedLRU) Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	l.heads = l.heads[:0]
	for i := range l.lists {
		l.addHead(l.lists[i].oldest)
	}
	return l.merge(dst, n, evictable)
}

// VictimsOf scans the lists of salts at once, from their cold ends.
func (l *IsolatedLRU) VictimsOf(dst []uint32, n int, salts []kv.Salt, evictable func(slot uint32) bool) []uint32 {
	l.heads = l.heads[:0]
	for _, salt := range salts {
		if int(salt) < len(l.lists) {
			l.addHead(l.lists[salt].oldest)
		}
	}
	return l.merge(dst, n, evictable)
}

func (l *IsolatedLRU) addHead(slot uint32) {
	if slot != 0 {
		l.heads = append(l.heads, isolatedHead{l.nodes.At(slot).used, slot})
	}
}

// merge goes through the lists of heads, which it keeps as a heap.
func (l *IsolatedLRU) merge(dst []uint32, n int, evictable func(slot uint32) bool) []uint32 {
	for i := len(l.heads)/2 - 1; i >= 0; i-- {
		l.sink(i)
	}
	for n += len(dst); len(l.heads) > 0 && len(dst) < n; l.sink(0) {
		top := &l.heads[0]
		if evictable(top.slot) {
			dst = append(dst, top.slot)
		}
		if top.slot = l.nodes.At(top.slot).next; top.slot != 0 {
			top.used = l.nodes.At(top.slot).used
			continue
		}
		last := len(l.heads) - 1
		l.heads[0] = l.heads[last]
		l.heads = l.heads[:last]
	}
	return dst
}

func (l *IsolatedLRU) sink(i int) {
	for {
		child := 2*i + 1
		if child+1 < len(l.heads) && l.heads[child+1].used < l.heads[child].used {
			child++
		}
		if child >= len(l.heads) || l.heads[i].used <= l.heads[child].used {
			return
		}
		l.heads[i], l.heads[child] = l.heads[child], l.heads[i]
		i = child
	}
}

// Len returns the number of tracked keys.
func (l *IsolatedLRU) Len() int { return l.n }

// LenOf returns the number of tracked keys of salts.
func (l *IsolatedLRU) LenOf(salts []kv.Salt) int {
	n := 0
	for _, salt := range salts {
		if int(salt) < len(l.lists) {
			n += int(l.lists[salt].n)
		}
	}
	return n
}

// Order appends the tracked keys of all salts to dst, coldest first.
func (l *IsolatedLRU) Order(dst []uint32) []uint32 {
	from := len(dst)
	for i := range l.lists {
		for s := l.lists[i].oldest; s != 0; s = l.nodes.At(s).next {
			dst = append(dst, s)
		}
	}
	slices.SortFunc(dst[from:], func(a, b uint32) int {
		if l.nodes.At(a).used < l.nodes.At(b).used {
			return -1
		}
		return 1
	})
	return dst
}

func (l *IsolatedLRU) append(list *isolatedList, s uint32) {
	if l.clock++; l.clock == 0 {
		l.renumber()
	}
	*l.nodes.At(s) = isolatedNode{prev: list.last, used: l.clock}
	if list.last != 0 {
		l.nodes.At(list.last).next = s
	} else {
		list.oldest = s
	}
	list.last = s
	list.n++
}

// renumber starts the clock anew when it has gone around, at 4 billion uses: the
// keys, all but the one that is being used, are numbered in their order.
func (l *IsolatedLRU) renumber() {
	for _, s := range l.Order(nil) {
		l.clock++
		l.nodes.At(s).used = l.clock
	}
	l.clock++
}

func (l *IsolatedLRU) unlink(list *isolatedList, s uint32) {
	at := *l.nodes.At(s)
	if at.prev != 0 {
		l.nodes.At(at.prev).next = at.next
	} else {
		list.oldest = at.next
	}
	if at.next != 0 {
		l.nodes.At(at.next).prev = at.prev
	} else {
		list.last = at.prev
	}
	list.n--
}
