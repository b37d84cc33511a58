package l1

import "fmt"

// extents is the set of free extents of an address range: a B+-tree ordered by
// address, in which every entry of an inner node also knows the longest extent
// below it. So the lowest extent of at least some length is one descent away,
// and so is the place of an address. Extents never touch: neighbours are joined
// when they are given, which makes the set canonical.
//
// Nodes live in slabs and refer to each other by number, so that the collector
// has nothing to mark. The cost is 16 bytes an extent at best, 64 at worst, and
// about 23 on average.
type extents struct {
	leaves slab[node]
	inners slab[inner]
	root   uint32
	height int // levels; 1 when the root is a leaf

	// path is how the last descent went, by level, leaf first: the node, and
	// the entry that was followed or, in the leaf, found. It is valid until
	// the tree changes shape.
	path [maxHeight]step
}

const (
	fan       = 31 // makes a leaf 512 bytes
	minFill   = 8  // entries that every node but the root has at least; far from fan/2, so that nodes do not split and merge in turn
	maxHeight = 20 // minFill^20 extents are more than addresses
)

type step struct {
	id uint32
	i  int
}

// node is a leaf, or the part of an inner node that is searched. Entries [0, n)
// are ordered by start.
type node struct {
	n      int
	_      int64
	length [fan]int64 // bytes of the extent, or of the longest one below
	start  [fan]int64 // offset of the extent, or of the first one below
}

type inner struct {
	node
	kids [fan]uint32 // nodes one level down
}

// entry is an extent, or stands for a node one level down.
type entry struct {
	start, length int64
	kid           uint32
}

func (t *extents) init() {
	t.root, t.height = t.leaves.alloc(), 1
}

func (t *extents) node(level int, id uint32) *node {
	if level == 0 {
		return t.leaves.at(id)
	}
	return &t.inners.at(id).node
}

// fits returns the first entry of at least length, n.n if there is none.
func (n *node) fits(length int64) int {
	for i, l := range n.length[:n.n] {
		if l >= length {
			return i
		}
	}
	return n.n
}

// below returns how many entries start at addr or lower.
func (n *node) below(addr int64) int {
	i := 0
	for _, s := range n.start[:n.n] {
		if s > addr {
			break
		}
		i++
	}
	return i
}

// longest returns the greatest length, 0 of an empty node.
func (n *node) longest() int64 {
	m := int64(0)
	for _, l := range n.length[:n.n] {
		m = max(m, l)
	}
	return m
}

// take cuts slots of the given length from the lowest extents that have room,
// as many as dst takes and one leaf has, and returns how many. 0 means that no
// extent has room.
func (t *extents) take(slot int64, dst []int64) int {
	id := t.root
	for level := t.height - 1; level > 0; level-- {
		in := t.inners.at(id)
		i := in.fits(slot)
		if i == in.n { // at the root only
			return 0
		}
		t.path[level] = step{id, i}
		id = in.kids[i]
	}
	t.path[0] = step{id: id}
	leaf := t.leaves.at(id)

	// One sweep over the rest of the leaf: entries that are used up leave
	// gaps, which the ones behind them close.
	i, got := leaf.fits(slot), 0
	kept := i
	for ; i < leaf.n && got < len(dst); i++ {
		start, length := leaf.start[i], leaf.length[i]
		for length >= slot && got < len(dst) {
			dst[got] = start
			got++
			start += slot
			length -= slot
		}
		if length > 0 {
			leaf.start[kept], leaf.length[kept] = start, length
			kept++
		}
	}
	if got == 0 {
		return 0
	}
	if kept < i {
		t.close(0, id, kept, i-kept)
	}
	t.repair(0)
	return got
}

// give adds the extent of length bytes at start. It reports false, and changes
// nothing, if part of it is in the set already.
func (t *extents) give(start, length int64) bool {
	leaf, i := t.find(start)
	end := start + length
	prevEnd, next := int64(-1), t.startAt(i)
	if i > 0 {
		prevEnd = leaf.start[i-1] + leaf.length[i-1]
	}
	if prevEnd > start || next >= 0 && next < end {
		return false
	}

	switch {
	case prevEnd == start && next == end:
		if i == leaf.n {
			length += t.dropNext() // the neighbour is in another leaf
			leaf, i = t.find(start)
		} else {
			length += leaf.length[i]
			t.close(0, t.path[0].id, i, 1)
		}
		leaf.length[i-1] += length
		t.repair(0)
	case prevEnd == start:
		leaf.length[i-1] += length
		t.raise(0, leaf.length[i-1])
	case next == end:
		if i == leaf.n {
			leaf, i = t.nextLeaf(), 0
		}
		leaf.start[i] = start
		leaf.length[i] += length
		t.raise(0, leaf.length[i])
	default:
		t.insert(i, entry{start: start, length: length})
	}
	return true
}

// find descends to the leaf where an extent at addr belongs, and returns the
// leaf and how many of its entries start at addr or lower. If that is 0, so
// does no extent of the set: inner nodes keep the exact start of what is below.
func (t *extents) find(addr int64) (*node, int) {
	id := t.root
	for level := t.height - 1; level > 0; level-- {
		in := t.inners.at(id)
		i := max(in.below(addr)-1, 0)
		t.path[level] = step{id, i}
		id = in.kids[i]
	}
	leaf := t.leaves.at(id)
	i := leaf.below(addr)
	t.path[0] = step{id, i}
	return leaf, i
}

// startAt returns the start of entry i of the leaf of the path, where i may be
// one too many: then that of the first entry of the next leaf. It is -1 behind
// the last extent.
func (t *extents) startAt(i int) int64 {
	for level := 0; level < t.height; level++ {
		n := t.node(level, t.path[level].id)
		if i < n.n {
			return n.start[i]
		}
		if level+1 < t.height {
			i = t.path[level+1].i + 1
		}
	}
	return -1
}

// nextLeaf moves the path to the first entry of the next leaf, which exists.
func (t *extents) nextLeaf() *node {
	level := 1
	for t.path[level].i+1 == t.inners.at(t.path[level].id).n {
		level++
	}
	t.path[level].i++
	for ; level > 0; level-- {
		t.path[level-1] = step{id: t.inners.at(t.path[level].id).kids[t.path[level].i]}
	}
	return t.leaves.at(t.path[0].id)
}

// dropNext removes the first extent of the next leaf and returns its length.
func (t *extents) dropNext() int64 {
	leaf := t.nextLeaf()
	length := leaf.length[0]
	t.close(0, t.path[0].id, 0, 1)
	t.repair(0)
	return length
}

// insert adds e as entry i of the leaf of the path, and splits what overflows.
func (t *extents) insert(i int, e entry) {
	longest := e.length // e becomes the right half of a split, the extent may be in the left
	for level := 0; level < t.height; level++ {
		id := t.path[level].id
		n := t.node(level, id)
		if n.n < fan {
			t.open(level, id, i, e)
			t.raise(level, longest)
			return
		}
		// Extents are given in any order, so halves are the right split.
		right := t.alloc(level)
		const half = (fan + 1) / 2
		t.move(level, right, 0, id, half, fan-half)
		if i <= half {
			t.open(level, id, i, e)
		} else {
			t.open(level, right, i-half, e)
		}
		if level+1 == t.height {
			t.grow(t.entryOf(level, id), t.entryOf(level, right))
			return
		}
		up := t.path[level+1]
		t.set(up, t.entryOf(level, id))
		i, e = up.i+1, t.entryOf(level, right)
	}
}

// grow puts a new root above two nodes.
func (t *extents) grow(left, right entry) {
	t.root = t.inners.alloc()
	t.open(t.height, t.root, 0, left)
	t.open(t.height, t.root, 1, right)
	t.height++
}

// repair makes the nodes above the changed node of the path at level true
// again, and merges nodes that have become too empty.
func (t *extents) repair(level int) {
	for ; level+1 < t.height; level++ {
		up := t.path[level+1]
		n, parent := t.node(level, t.path[level].id), t.inners.at(up.id)
		if n.n < minFill {
			t.balance(level, up)
			continue
		}
		longest := n.longest()
		if parent.start[up.i] == n.start[0] && parent.length[up.i] == longest {
			return
		}
		parent.start[up.i], parent.length[up.i] = n.start[0], longest
	}
	if root := t.node(level, t.root); level > 0 && root.n == 1 {
		id := t.root
		t.root = t.inners.at(id).kids[0]
		t.height--
		t.inners.free(id)
	}
}

// raise makes the nodes above the changed node of the path at level true again,
// when all that happened is that an entry came or grew to length. It is repair
// without a look at the other entries, half of the cost of giving.
func (t *extents) raise(level int, length int64) {
	for ; level+1 < t.height; level++ {
		up := t.path[level+1]
		first, parent := t.node(level, t.path[level].id).start[0], t.inners.at(up.id)
		if parent.start[up.i] == first && parent.length[up.i] >= length {
			return
		}
		parent.start[up.i] = first
		parent.length[up.i] = max(parent.length[up.i], length)
	}
}

// balance evens the node at level that hangs at entry up with a sibling, or
// merges the two. Every inner node has at least two entries, so there is one.
func (t *extents) balance(level int, up step) {
	parent := t.inners.at(up.id)
	if up.i+1 == parent.n {
		up.i--
	}
	left, right := parent.kids[up.i], parent.kids[up.i+1]
	l, r := t.node(level, left), t.node(level, right)
	switch sum := l.n + r.n; {
	case sum <= fan:
		t.move(level, left, l.n, right, 0, r.n)
		t.release(level, right)
		t.close(level+1, up.id, up.i+1, 1)
	case l.n < r.n:
		t.move(level, left, l.n, right, 0, r.n-sum/2)
		t.set(step{up.id, up.i + 1}, t.entryOf(level, right))
	default:
		k := l.n - sum/2
		t.move(level, right, 0, left, l.n-k, k)
		t.set(step{up.id, up.i + 1}, t.entryOf(level, right))
	}
	t.set(up, t.entryOf(level, left))
}

// set overwrites the entry that at points to, in an inner node.
func (t *extents) set(at step, e entry) {
	in := t.inners.at(at.id)
	in.start[at.i], in.length[at.i], in.kids[at.i] = e.start, e.length, e.kid
}

// entryOf returns the entry that stands for a node.
func (t *extents) entryOf(level int, id uint32) entry {
	n := t.node(level, id)
	return entry{n.start[0], n.longest(), id}
}

// check walks the tree, calls visit with every extent in order, and returns an
// error if a node lies about what is below it.
func (t *extents) check(visit func(start, length int64) error) error {
	leaves, inners := 0, 0
	var walk func(level int, id uint32) error
	walk = func(level int, id uint32) error {
		n, least := t.node(level, id), minFill
		if level == t.height-1 {
			least = min(level, 1) * 2 // a root that is a leaf may be empty
		}
		if n.n > fan || n.n < least {
			return fmt.Errorf("node %d of level %d has %d entries", id, level, n.n)
		}
		if level == 0 {
			leaves++
			for i := range n.n {
				if err := visit(n.start[i], n.length[i]); err != nil {
					return err
				}
			}
			return nil
		}
		inners++
		for i, kid := range t.inners.at(id).kids[:n.n] {
			if err := walk(level-1, kid); err != nil {
				return err
			}
			want := t.entryOf(level-1, kid)
			if n.start[i] != want.start || n.length[i] != want.length {
				return fmt.Errorf("node %d of level %d says start %d, longest %d of child %d, which has %d, %d",
					id, level, n.start[i], n.length[i], i, want.start, want.length)
			}
		}
		return nil
	}
	if err := walk(t.height-1, t.root); err != nil {
		return err
	}
	if leaves != t.leaves.inUse() || inners != t.inners.inUse() {
		return fmt.Errorf("%d leaves and %d inner nodes reached, %d and %d in use", leaves, inners, t.leaves.inUse(), t.inners.inUse())
	}
	return nil
}

// footprint returns the bytes of all nodes, those not in use included.
func (t *extents) footprint() int { return t.leaves.footprint() + t.inners.footprint() }
