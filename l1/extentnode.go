package l1

// This file moves entries inside and between the nodes of an extents tree. The
// arrays of a node always move together; a leaf has no kids. None of it keeps
// the entries of the level above true: repair, set and grow do.

func (t *extents) alloc(level int) uint32 {
	if level == 0 {
		return t.leaves.alloc()
	}
	return t.inners.alloc()
}

func (t *extents) release(level int, id uint32) {
	if level == 0 {
		t.leaves.free(id)
	} else {
		t.inners.free(id)
	}
}

// open adds e as entry i of a node that has room.
func (t *extents) open(level int, id uint32, i int, e entry) {
	n := t.node(level, id)
	copy(n.start[i+1:n.n+1], n.start[i:n.n])
	copy(n.length[i+1:n.n+1], n.length[i:n.n])
	n.start[i], n.length[i] = e.start, e.length
	if level > 0 {
		kids := &t.inners.at(id).kids
		copy(kids[i+1:n.n+1], kids[i:n.n])
		kids[i] = e.kid
	}
	n.n++
}

// close removes the entries [i, i+k) of a node.
func (t *extents) close(level int, id uint32, i, k int) {
	n := t.node(level, id)
	copy(n.start[i:n.n-k], n.start[i+k:n.n])
	copy(n.length[i:n.n-k], n.length[i+k:n.n])
	if level > 0 {
		kids := &t.inners.at(id).kids
		copy(kids[i:n.n-k], kids[i+k:n.n])
	}
	n.n -= k
}

// move takes the entries [i, i+k) out of the node src and puts them before
// entry at of its neighbour dst, which has room for them.
func (t *extents) move(level int, dst uint32, at int, src uint32, i, k int) {
	d, s := t.node(level, dst), t.node(level, src)
	copy(d.start[at+k:d.n+k], d.start[at:d.n])
	copy(d.start[at:at+k], s.start[i:i+k])
	copy(d.length[at+k:d.n+k], d.length[at:d.n])
	copy(d.length[at:at+k], s.length[i:i+k])
	if level > 0 {
		to, from := &t.inners.at(dst).kids, &t.inners.at(src).kids
		copy(to[at+k:d.n+k], to[at:d.n])
		copy(to[at:at+k], from[i:i+k])
	}
	d.n += k
	t.close(level, src, i, k)
}
