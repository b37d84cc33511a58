package lct

import (
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/kv"
)

// maxContexts bounds the rows that are looked for in a flat list: the search
// is quadratic in it. A model has a few groups of layers on at most some
// hundreds of ranks.
const maxContexts = 1024

// regroup turns the flat list of d.flat into the grid of d.spec.
//
// The list is a grid if the pairs of object group and rank repeat in a fixed
// order, whole chunks only, if the keys of a chunk differ in nothing else, and
// if that is the shape that attn_desc names, where there is one. Every other
// list stays one group, marked.
//
// Source: reference lct-v1.md, sections 2.5 and 3.4.
func (d *argsDecoder) regroup() error {
	f := &d.flat
	if f.readers > math.MaxInt32 || f.readers < math.MinInt32 {
		return fmt.Errorf("%d readers are too many", f.readers)
	}
	groups := d.spec.Groups[:0]
	d.spec = kv.PrefetchSpec{Readers: int32(f.readers), Policy: f.policy, Lock: f.lock}
	rows := f.contexts()
	if rows == 0 {
		g := kv.KeyGroup{Keys: f.keys, Window: kv.FullAttention}
		if len(f.windows) == 1 {
			g.Window = f.windows[0]
		}
		if len(f.keys) > 0 {
			g.Group = f.keys[0].Group
			var ok bool
			if g.Layout, ok = f.layoutOf(g.Group); !ok {
				return fmt.Errorf("object group %d has no layout", g.Group)
			}
		}
		d.spec.Groups, d.spec.Flat = append(groups, g), true
		return nil
	}
	chunks := len(f.keys) / rows
	if cap(d.cells) < len(f.keys) {
		d.cells = make([]kv.ObjectKey, len(f.keys))
	}
	cells := d.cells[:len(f.keys)]
	for row := range rows {
		column := cells[row*chunks : (row+1)*chunks : (row+1)*chunks]
		for c := range column {
			column[c] = f.keys[c*rows+row]
		}
		first := &f.keys[row]
		g := kv.KeyGroup{Keys: column, Group: first.Group, Window: kv.FullAttention}
		if f.hasAttn {
			g.Window = f.windows[f.ordinal(row)]
		}
		var ok bool
		if g.Layout, ok = f.layoutOf(g.Group); !ok {
			return fmt.Errorf("object group %d has no layout", g.Group)
		}
		groups = append(groups, g)
	}
	d.spec.Groups = groups
	return nil
}

// contexts returns how many pairs of object group and rank make a chunk, 0 if
// the list is no grid.
func (f *flatSpec) contexts() int {
	keys := f.keys
	if len(keys) == 0 {
		return 0
	}
	rows := 1
	for rows < len(keys) && !sameContext(&keys[rows], &keys[0]) {
		rows++
	}
	if rows > maxContexts || len(keys)%rows != 0 {
		return 0
	}
	for i := range rows {
		for j := range i {
			if sameContext(&keys[i], &keys[j]) {
				return 0
			}
		}
	}
	for chunk := 0; chunk < len(keys); chunk += rows {
		first := &keys[chunk]
		for row := range rows {
			k := &keys[chunk+row]
			if !sameContext(k, &keys[row]) || k.Hash != first.Hash || k.HashLen != first.HashLen || k.Scope != first.Scope {
				return 0
			}
		}
	}
	if f.hasAttn {
		n := f.objectGroups(rows)
		if n != len(f.windows) || f.world != 0 && int64(rows) != int64(n)*f.world {
			return 0
		}
	}
	return rows
}

func sameContext(a, b *kv.ObjectKey) bool { return a.Group == b.Group && a.Rank == b.Rank }

// objectGroups returns the number of different object groups in a chunk of
// rows keys.
func (f *flatSpec) objectGroups(rows int) int {
	n := 0
	for i := range rows {
		if f.firstOfGroup(i) == i {
			n++
		}
	}
	return n
}

// ordinal returns the position of row's object group among those of the chunk,
// in the order in which they appear.
func (f *flatSpec) ordinal(row int) int { return f.objectGroups(f.firstOfGroup(row)) }

// firstOfGroup returns the first row of the object group of row.
func (f *flatSpec) firstOfGroup(row int) int {
	for i := range row {
		if f.keys[i].Group == f.keys[row].Group {
			return i
		}
	}
	return row
}
