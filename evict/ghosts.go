package evict

// ghosts remembers the last keys that left, by 32-bit fingerprints: a ring of
// them in the order of leaving, and a hash table of places in the ring. Two keys
// of a million are taken for each other about once in four thousand.
type ghosts struct {
	ring       []uint32 // fingerprints; 0: taken out; the length is a power of two
	next       uint32   // place, without the wrap, of the next one
	oldest     uint32   // place of the first one that counts
	table      []uint32 // place in the ring + 1; 0: empty. Twice as long as the ring
	tableShift uint8    // 32 - log2(len(table))
}

// add remembers a key as the latest, among at most limit.
func (g *ghosts) add(fingerprint uint32, limit int) {
	fingerprint |= b2u(fingerprint == 0) // 0 marks an empty place
	g.take(fingerprint)
	for g.span() > max(limit-1, 0) {
		g.expire()
	}
	if limit < 1 {
		return
	}
	if g.span() == len(g.ring) {
		g.resize(max(2*len(g.ring), 16))
	} else if len(g.ring) > 64 && limit < len(g.ring)/4 { // the tier has shrunk
		g.resize(len(g.ring) / 2)
	}
	place := g.next & uint32(len(g.ring)-1)
	g.ring[place] = fingerprint
	g.next++
	g.insert(place)
}

// take forgets a key and reports whether it was remembered.
func (g *ghosts) take(fingerprint uint32) bool {
	if len(g.ring) == 0 {
		return false
	}
	fingerprint |= b2u(fingerprint == 0)
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

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// span is how many leaves ago the oldest was, taken ones included.
func (g *ghosts) span() int { return int(g.next - g.oldest) }

func (g *ghosts) home(fingerprint uint32) uint32 { return fingerprint * 0x9e3779b1 >> g.tableShift }

func (g *ghosts) expire() {
	if f := g.ring[g.oldest&uint32(len(g.ring)-1)]; f != 0 {
		g.take(f)
	}
	g.oldest++
}

func (g *ghosts) insert(place uint32) {
	mask := uint32(len(g.table) - 1)
	i := g.home(g.ring[place])
	for g.table[i] != 0 {
		i = (i + 1) & mask
	}
	g.table[i] = place + 1
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
	old, oldest, next := g.ring, g.oldest, g.next
	g.ring, g.table = make([]uint32, n), make([]uint32, 2*n)
	g.tableShift = 32
	for size := 2 * n; size > 1; size /= 2 {
		g.tableShift--
	}
	g.oldest, g.next = 0, 0
	for ; oldest != next; oldest++ {
		f := old[oldest&uint32(len(old)-1)]
		if g.ring[g.next] = f; f != 0 {
			g.insert(g.next)
		}
		g.next++
	}
}
