package evict

import "github.com/lmcache/lmcache-go/kv"

// node joins a slot into one of a policy's lists. Its words hold a neighbour, 0 at
// the ends, below their top three bits: those of prev are the 1-based number of
// the list that it is in, 0 if in none, those of next are flags of the policy's
// own. Slots stay below 2^29: so many keys are 60 GB of table.
type node struct{ prev, next uint32 }

const (
	topShift = 29
	slotMask = 1<<topShift - 1
)

func (n *node) before() uint32     { return n.prev & slotMask }
func (n *node) after() uint32      { return n.next & slotMask }
func (n *node) setBefore(s uint32) { n.prev = n.prev&^slotMask | s }
func (n *node) setAfter(s uint32)  { n.next = n.next&^slotMask | s }
func (n *node) list() uint8        { return uint8(n.prev >> topShift) }
func (n *node) flags() uint8       { return uint8(n.next >> topShift) }
func (n *node) setFlags(f uint8)   { n.next = n.next&slotMask | uint32(f)<<topShift }

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
	if id := l.nodes.At(s).list(); id != 0 {
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
	*l.nodes.At(s) = node{prev: to.last | uint32(to.id)<<topShift}
	if to.last != 0 {
		l.nodes.At(to.last).setAfter(s)
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
	at := l.nodes.At(s)
	prev, next := at.before(), at.after()
	if prev != 0 {
		l.nodes.At(prev).setAfter(next)
	} else {
		from.oldest = next
	}
	if next != 0 {
		l.nodes.At(next).setBefore(prev)
	} else {
		from.last = prev
	}
	from.n--
}

// appendTo appends the slots of a list, oldest first.
func (l *lists) appendTo(dst []uint32, from *list) []uint32 {
	for s := from.oldest; s != 0; s = l.nodes.At(s).after() {
		dst = append(dst, s)
	}
	return dst
}
