package evict_test

import (
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

type leafRig struct {
	*pair
}

func newLeafRig(t *testing.T, n int) leafRig {
	r := leafRig{newPair(t, "LeafLRU")}
	for i := range n {
		k := kv.ObjectKey{HashLen: 4}
		k.Hash[2], k.Hash[3] = byte(i>>8), byte(i)
		r.add(k)
	}
	return r
}

func (r leafRig) write(ids ...int) {
	r.chained(ids)
	r.tell(r.policy.Reserved, r.model.reserved, ids)
	r.tell(r.policy.Created, r.model.created, ids)
}

func (r leafRig) lookUp(hits int, ids ...int) {
	r.chained(ids)
	r.tell(r.policy.Touched, r.model.touched, ids[:hits])
}

func (r leafRig) expect(what string, n int, locked, want []int) {
	r.t.Helper()
	r.compare(what)
	if got := r.victims(n, nil, func(id int) bool { return !slices.Contains(locked, id) }); !slices.Equal(got, want) {
		r.t.Errorf("%s: victims %v; want %v", what, got, want)
	}
}

// TestLeafLRU: 0 1 2 was written by one request and 3 4, behind 2, by another,
// later; 5 behind 1 by a third. 6 is alone, and older than all but 0 1 2.
func TestLeafLRU(t *testing.T) {
	r := newLeafRig(t, 10)
	r.write(0, 1, 2)
	r.write(6)
	r.lookUp(3, 0, 1, 2, 3, 4) // tells of 3 before it is here
	r.lookUp(2, 0, 1, 5)
	r.write(3, 4)
	r.write(5)
	r.expect("several children", 10, nil, []int{6, 4, 3, 2, 5, 1, 0})
	r.expect("a locked leaf", 10, []int{4}, []int{6, 5})
	r.expect("a locked leaf of one branch", 10, []int{5}, []int{6, 4, 3, 2})
	r.expect("a locked key in the middle", 10, []int{3}, []int{6, 4, 5})
	r.expect("few", 2, nil, []int{6, 4})

	// A child in flight is reserved, not created: it may not go and holds.
	r.lookUp(2, 0, 1, 7)
	r.tell(r.policy.Reserved, r.model.reserved, []int{7})
	r.expect("a child in flight", 10, []int{7}, []int{6, 4, 3, 2, 5})
	r.tell(r.policy.Removed, r.model.removed, []int{7})
	r.expect("the reservation was given up", 10, nil, []int{6, 4, 3, 2, 5, 1, 0})

	// 2 is taken away by force: 3 and 4 are cut off, and go by their own use.
	r.tell(r.policy.Removed, r.model.removed, []int{2})
	r.expect("a gap", 10, []int{4}, []int{6, 5, 1, 0})
	r.write(2)
	r.chained([]int{0, 1, 2, 3, 4})
	r.expect("the gap is filled", 10, []int{4}, []int{6, 5})
}

// TestLeafLRUCircle: a call in an order that contradicts another's makes no
// circle.
func TestLeafLRUCircle(t *testing.T) {
	r := newLeafRig(t, 4)
	r.write(0, 1, 2, 3)
	r.chained([]int{3, 0})
	r.chained([]int{2, 2, 0, 2})
	r.expect("circles refused", 4, nil, []int{3, 2, 1, 0})
}

// TestLeafLRUExpects: of keys that were looked up and never written only the
// last 16,384 stay linked, and nothing stays once they are forgotten.
func TestLeafLRUExpects(t *testing.T) {
	r := newLeafRig(t, 20_001)
	r.write(0)
	for i := 1; i <= 20_000; i++ {
		r.chained([]int{0, i})
	}
	if got := r.index.Len(); got != 16_385 {
		t.Errorf("%d keys are referred to; want 16385", got)
	}
	first, last := 20_000-16_384, 20_000-16_383
	for _, id := range []int{first, last} {
		r.tell(r.policy.Reserved, r.model.reserved, []int{id})
	}
	r.tell(r.policy.Touched, r.model.touched, []int{0})
	r.expect("the older one is not linked", 10, []int{first}, []int{last, 0})
	r.expect("the later one is", 10, []int{last}, []int{first})
}

// TestLeafLRULanes: a list with a chunk's ranks side by side has a chain for
// each of them.
func TestLeafLRULanes(t *testing.T) {
	p := newPair(t, "LeafLRU")
	var list []int
	for chunk := range 3 {
		for rank := range 4 {
			k := kv.ObjectKey{HashLen: 4, Rank: uint64(rank)}
			k.Hash[3] = byte(chunk)
			list = append(list, p.add(k))
		}
	}
	r := leafRig{p}
	r.write(list...)
	r.expect("the last chunk of rank 1 is locked", 12, []int{9}, []int{11, 10, 8, 7, 6, 4, 3, 2, 0})
}

var _ evict.Chainer = (*evict.LeafLRU)(nil)
