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
	chunks  []*[nodeChunk]node // of the nodes, by number; 0 is no node
	count   uint32             // of nodes, with 0
	table   []uint32           // open addressing, a power of two; 0 = free; at most half full
	shift   uint               // 64 - log2(len(table))
	runs    []run              // new since the last call of appendRuns
	touched uint32             // of no meaning: see expect
}

// An entry of the table is a node's number and some bits of its hash, so that a
// collision is nearly always seen without a look at the node, which would be
// another cache miss. Numbers fit: a block has at most 2^25 nodes, and a call
// that begins within that adds at most 2^20.
const (
	nodeBits  = 26
	nodeMask  = 1<<nodeBits - 1
	nodeChunk = 1 << 12
)

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
	if in.chunks == nil {
		in.chunks = append(in.chunks, new([nodeChunk]node))
	}
	in.chunks[0][0] = node{}
	in.count = 1
	in.runs = in.runs[:0]
}

// len returns the number of nodes.
func (in *interner) len() int { return int(in.count) - 1 }

func (in *interner) node(n uint32) *node { return &in.chunks[n/nodeChunk][n%nodeChunk] }

// follow returns the node of k's hash behind cur, adding it if the hash is new.
// cur 0 begins a segment: then any node will do. It returns 0 if the hash is
// known with another parent.
func (in *interner) follow(cur uint32, k *kv.ObjectKey) uint32 {
	at := in.node(cur)
	n := at.next
	if n != 0 && in.node(n).is(k) {
		return n // the link of node 0 holds the segment that began last
	}
	slot, tag := in.slot(k)
	if n = in.table[slot] & nodeMask; n == 0 {
		return in.add(cur, k, slot, tag)
	}
	if cur != 0 && in.node(n).parent != cur {
		return 0
	}
	at.next = n
	return n
}

// known follows the links from cur along keys as long as they hold and the keys
// have first's context. It returns how many keys that is, and the last one's node.
func (in *interner) known(cur uint32, first *kv.ObjectKey, keys []kv.ObjectKey) (n int, last uint32) {
	rank, scope, group := first.Rank, first.Scope, first.Group
	next := in.node(cur).next
	for i := range keys {
		k, at := &keys[i], in.node(next)
		if next == 0 || !at.is(k) || k.Rank != rank || k.Scope != scope || k.Group != group {
			return i, cur
		}
		cur, next = next, at.next
	}
	return len(keys), cur
}

// expect has the table's words for every width-th of the keys brought into the
// cache, all at once instead of one after the other. What follows a new hash is
// nearly always new too: a chunk hash names all that is before it.
func (in *interner) expect(keys []kv.ObjectKey, width int) {
	for i := 0; i < len(keys); i += width {
		in.touched |= in.table[hashOf(&keys[i].Hash, keys[i].HashLen)>>in.shift]
	}
}

// slot returns where k's hash is in the table, or belongs, and its bits there.
func (in *interner) slot(k *kv.ObjectKey) (at uint64, tag uint32) {
	mask := uint64(len(in.table) - 1)
	h := hashOf(&k.Hash, k.HashLen)
	tag = uint32(h) << nodeBits
	for i := h >> in.shift; ; i = (i + 1) & mask {
		if e := in.table[i]; e == 0 || e&^nodeMask == tag && in.node(e&nodeMask).is(k) {
			return i, tag
		}
	}
}

func (in *interner) add(parent uint32, k *kv.ObjectKey, slot uint64, tag uint32) uint32 {
	n := in.count
	in.count++
	if int(n/nodeChunk) == len(in.chunks) {
		in.chunks = append(in.chunks, new([nodeChunk]node))
	}
	*in.node(n) = node{hash: k.Hash, parent: parent, size: k.HashLen}
	in.node(parent).next = n
	in.table[slot] = n | tag
	if last := len(in.runs) - 1; last >= 0 && k.HashLen > 0 && parent == n-1 &&
		in.runs[last].first+in.runs[last].count == n && in.runs[last].size == k.HashLen {
		in.runs[last].count++
	} else {
		in.runs = append(in.runs, run{parent: parent, first: n, count: 1, size: k.HashLen})
	}
	if 2*int(in.count) > len(in.table) {
		in.grow()
	}
	return n
}

func (in *interner) grow() {
	in.table = make([]uint32, 2*len(in.table))
	in.shift--
	mask := uint64(len(in.table) - 1)
	for n := uint32(1); n < in.count; n++ {
		at := in.node(n)
		h := hashOf(&at.hash, at.size)
		i := h >> in.shift
		for in.table[i] != 0 {
			i = (i + 1) & mask
		}
		in.table[i] = n | uint32(h)<<nodeBits
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
			b = append(b, in.node(n).hash[:r.size]...)
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
