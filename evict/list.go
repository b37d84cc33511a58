package evict

import "github.com/lmcache/lmcache-go/kv"

// node joins a slot into one of a policy's lists.
type node struct {
	prev, next uint32 // 0 at the ends
	list       uint8  // 1-based number of the list that it is in; 0: in none
	flags      uint8  // the policy's own
}

// list is a doubly linked list of slots, oldest first. Its nodes are in a slab
// that several lists share: a slot is in one of them at most.
type list struct {
	id           uint8
	oldest, last uint32
	n            int
}

// lists is the slab of nodes with the lists over it. It holds a reference to
// every slot that is in a list.
type lists struct {
	index *kv.Index
	nodes kv.Slab[node]
	all   []list
}

func newLists(x *kv.Index, n int) lists {
	l := lists{index: x, all: make([]list, n)}
	for i := range l.all {
		l.all[i].id = uint8(i + 1)
	}
	return l
}

// of returns the list that s is in, nil if in none.
func (l *lists) of(s uint32) *list {
	if id := l.nodes.At(s).list; id != 0 {
		return &l.all[id-1]
	}
	return nil
}

// push moves s, or adds it, to the recent end of to. Its flags are cleared.
func (l *lists) push(to *list, s uint32) {
	if from := l.of(s); from != nil {
		l.unlink(from, s)
	} else {
		l.index.Retain(s)
	}
	*l.nodes.At(s) = node{prev: to.last, list: to.id}
	if to.last != 0 {
		l.nodes.At(to.last).next = s
	} else {
		to.oldest = s
	}
	to.last = s
	to.n++
}

// drop takes s out of its list, if it is in one.
func (l *lists) drop(s uint32) {
	if from := l.of(s); from != nil {
		l.unlink(from, s)
		*l.nodes.At(s) = node{}
		l.index.Release(s)
	}
}

func (l *lists) unlink(from *list, s uint32) {
	at := *l.nodes.At(s)
	if at.prev != 0 {
		l.nodes.At(at.prev).next = at.next
	} else {
		from.oldest = at.next
	}
	if at.next != 0 {
		l.nodes.At(at.next).prev = at.prev
	} else {
		from.last = at.prev
	}
	from.n--
}

// appendTo appends the slots of a list, oldest first.
func (l *lists) appendTo(dst []uint32, from *list) []uint32 {
	for s := from.oldest; s != 0; s = l.nodes.At(s).next {
		dst = append(dst, s)
	}
	return dst
}
