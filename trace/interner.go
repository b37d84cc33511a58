package trace

import (
	"encoding/binary"

	"github.com/lmcache/lmcache-go/kv"
)

// interner numbers the chunk hashes of one block: FORMAT.md 4.6. It belongs to
// one writer.
//
// A list that repeats, or goes on where a known one ended, is recognised by
// following the link from each node to the one that came after it last, which
// lies beside it in memory; only where that link is wrong does a lookup pay its
// cache miss.
type interner struct {
	nodes []node   // index = number; 0 is no node
	table []uint32 // open addressing, a power of two; 0 = free; at most half full
	shift uint     // 64 - log2(len(table))
	runs  []run    // new since the last call of takeRuns
}

// node is a hash and where it stands. It holds no pointers, so that millions
// cost the garbage collector nothing.
type node struct {
	hash   [kv.MaxHash]byte
	parent uint32 // 0 = none
	next   uint32 // the node that followed last; 0 = none yet
	size   uint8  // of the hash
}

// run is a row of new nodes with consecutive numbers, each the parent of the
// next, with hashes of one size.
type run struct {
	parent uint32 // of the first
	first  uint32
	count  uint32
	size   uint8
}

const minTable = 1 << 10

// reset forgets all nodes; the memory stays.
func (in *interner) reset() {
	if in.table == nil {
		in.table = make([]uint32, minTable)
		in.shift = 64 - 10
	} else {
		clear(in.table)
	}
	in.nodes = append(in.nodes[:0], node{})
	in.runs = in.runs[:0]
}

// len returns the number of nodes.
func (in *interner) len() int { return len(in.nodes) - 1 }

// follow returns the node of k's hash behind cur, adding it if the hash is new.
// cur 0 begins a segment: then any node will do. It returns 0 if the hash is
// known with another parent.
func (in *interner) follow(cur uint32, k *kv.ObjectKey) uint32 {
	n := in.nodes[cur].next
	if n != 0 && in.nodes[n].is(k) {
		return n // the link of node 0 holds the segment that began last
	}
	slot := in.slot(k)
	if n = in.table[slot]; n == 0 {
		return in.add(cur, k, slot)
	}
	if cur != 0 && in.nodes[n].parent != cur {
		return 0
	}
	in.nodes[cur].next = n
	return n
}

// slot returns where k's hash is in the table, or belongs.
func (in *interner) slot(k *kv.ObjectKey) uint64 {
	mask := uint64(len(in.table) - 1)
	for i := hashOf(&k.Hash, k.HashLen) >> in.shift; ; i = (i + 1) & mask {
		if n := in.table[i]; n == 0 || in.nodes[n].is(k) {
			return i
		}
	}
}

func (in *interner) add(parent uint32, k *kv.ObjectKey, slot uint64) uint32 {
	n := uint32(len(in.nodes))
	in.nodes = append(in.nodes, node{hash: k.Hash, parent: parent, size: k.HashLen})
	in.nodes[parent].next = n
	in.table[slot] = n
	if last := len(in.runs) - 1; last >= 0 && k.HashLen > 0 && parent == n-1 &&
		in.runs[last].first+in.runs[last].count == n && in.runs[last].size == k.HashLen {
		in.runs[last].count++
	} else {
		in.runs = append(in.runs, run{parent: parent, first: n, count: 1, size: k.HashLen})
	}
	if 2*len(in.nodes) > len(in.table) {
		in.grow()
	}
	return n
}

func (in *interner) grow() {
	in.table = make([]uint32, 2*len(in.table))
	in.shift--
	mask := uint64(len(in.table) - 1)
	for n := 1; n < len(in.nodes); n++ {
		i := hashOf(&in.nodes[n].hash, in.nodes[n].size) >> in.shift
		for in.table[i] != 0 {
			i = (i + 1) & mask
		}
		in.table[i] = uint32(n)
	}
}

// appendRuns appends the nodes part of a call and forgets the runs.
func (in *interner) appendRuns(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(in.runs[0].first))
	b = binary.AppendUvarint(b, uint64(len(in.runs)))
	for _, r := range in.runs {
		b = binary.AppendUvarint(b, uint64(r.parent))
		b = binary.AppendUvarint(b, uint64(r.count))
		b = append(b, r.size)
		for n := r.first; n < r.first+r.count; n++ {
			b = append(b, in.nodes[n].hash[:r.size]...)
		}
	}
	in.runs = in.runs[:0]
	return b
}

// is reports whether n is the node of k's hash. Bytes behind HashLen are zero in
// both.
func (n *node) is(k *kv.ObjectKey) bool {
	return sameHash(&n.hash, &k.Hash) && n.size == k.HashLen
}

// sameHash compares as four words, which the compiler does inline.
func sameHash(a, b *[kv.MaxHash]byte) bool {
	le := binary.LittleEndian
	return (le.Uint64(a[0:])^le.Uint64(b[0:]))|(le.Uint64(a[8:])^le.Uint64(b[8:]))|
		(le.Uint64(a[16:])^le.Uint64(b[16:]))|(le.Uint64(a[24:])^le.Uint64(b[24:])) == 0
}

// hashOf spreads a chunk hash over 64 bits, the best of them on top. Chunk
// hashes of 8 bytes may be small integers.
func hashOf(h *[kv.MaxHash]byte, size uint8) uint64 {
	const m = 0x9e3779b97f4a7c15
	le := binary.LittleEndian
	x := le.Uint64(h[0:])*m + le.Uint64(h[8:])
	x = (x^x>>32)*m + le.Uint64(h[16:])
	x = (x^x>>29)*m + le.Uint64(h[24:]) + uint64(size)
	return (x ^ x>>32) * m
}
