package evict

// ghosts remembers the last keys that left, by 32-bit fingerprints: a ring of
// them in the order of leaving, and a hash table of places in the ring. Of a
// million ghosts one key in four thousand is taken for another that it is not.
type ghosts struct {
	ring       []uint32 // fingerprints; 0: taken out
	oldest     int      // place in ring of the first one that counts
	span       int      // places from there on that count, taken ones included
	table      []uint32 // place in ring + 1; 0: empty. A power of two, at most 3/4 full
	tableShift uint8    // 32 - log2(len(table))
}

// add remembers a key as the latest, among the last limit ones.
func (g *ghosts) add(fingerprint uint32, limit int) {
	g.take(fingerprint)
	for g.span > max(limit-1, 0) {
		if f := g.ring[g.oldest]; f != 0 {
			g.take(f)
		}
		g.oldest = g.place(1)
		g.span--
	}
	if limit < 1 {
		return
	}
	if g.span == len(g.ring) {
		g.resize(max(len(g.ring)*5/4, 16))
	} else if len(g.ring) > 64 && limit < len(g.ring)/2 { // the tier has shrunk
		g.resize(limit)
	}
	place := g.place(g.span)
	g.ring[place] = nonZero(fingerprint)
	g.span++
	g.insert(place)
}

// take forgets a key and reports whether it was remembered.
func (g *ghosts) take(fingerprint uint32) bool {
	if len(g.ring) == 0 {
		return false
	}
	fingerprint = nonZero(fingerprint)
	mask := uint32(len(g.table) - 1)
	for i := g.home(fingerprint); g.table[i] != 0; i = (i + 1) & mask {
		if place := g.table[i] - 1; g.ring[place] == fingerprint {
			g.remove(i)
			g.ring[place] = 0
			return true
		}
	}
	return false
}

// nonZero keeps 0 for what was taken out.
func nonZero(fingerprint uint32) uint32 {
	if fingerprint == 0 {
		return 1
	}
	return fingerprint
}

// place returns the n-th place from the oldest.
func (g *ghosts) place(n int) int {
	if n += g.oldest; n >= len(g.ring) {
		n -= len(g.ring)
	}
	return n
}

func (g *ghosts) home(fingerprint uint32) uint32 { return fingerprint * 0x9e3779b1 >> g.tableShift }

func (g *ghosts) insert(place int) {
	mask := uint32(len(g.table) - 1)
	i := g.home(g.ring[place])
	for g.table[i] != 0 {
		i = (i + 1) & mask
	}
	g.table[i] = uint32(place) + 1
}

// remove empties a cell of the table and moves later ones of its run back.
func (g *ghosts) remove(i uint32) {
	mask := uint32(len(g.table) - 1)
	for j := (i + 1) & mask; g.table[j] != 0; j = (j + 1) & mask {
		if home := g.home(g.ring[g.table[j]-1]); (j-home)&mask >= (j-i)&mask {
			g.table[i] = g.table[j]
			i = j
		}
	}
	g.table[i] = 0
}

// resize moves everything to a ring of n places, which hold it.
func (g *ghosts) resize(n int) {
	old := *g
	size := 16
	g.tableShift = 32 - 4
	for ; size*3 < n*4; size *= 2 {
		g.tableShift--
	}
	g.ring, g.oldest, g.table = make([]uint32, n), 0, make([]uint32, size)
	for i := range g.span {
		if g.ring[i] = old.ring[old.place(i)]; g.ring[i] != 0 {
			g.insert(i)
		}
	}
}
