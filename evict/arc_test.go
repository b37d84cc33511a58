package evict_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

func newARC(t *testing.T) (*evict.ARC, *kv.Index) {
	t.Helper()
	x := new(kv.Index)
	p, err := evict.New("ARC", x)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*evict.ARC), x
}

func all(uint32) bool { return true }

// TestARCGhostHits: keys that the policy chose come back, and the target of T1
// moves; keys that were removed by others leave no trace.
func TestARCGhostHits(t *testing.T) {
	a, x := newARC(t)
	var s []uint32
	for i := range 8 {
		s = append(s, slotOf(x, i))
	}
	write := func(slots ...uint32) { a.Reserved(slots); a.Created(slots) }
	write(s[0], s[1], s[2], s[3])
	a.Touched(s[:2]) // 0 and 1 are in T2
	expect := func(what string, want map[string][]uint32, target float64) {
		t.Helper()
		got := a.Lists()
		for name, list := range want {
			if !slices.Equal(got[name], list) {
				t.Errorf("%s: %s is %v; want %v", what, name, got[name], list)
			}
		}
		if size, _ := a.Target(); size != target {
			t.Errorf("%s: target %v; want %v", what, size, target)
		}
	}
	expect("written and touched", map[string][]uint32{"t1": {s[3], s[2]}, "t2": {s[1], s[0]}}, 0)

	if got := a.Victims(nil, 3, all); !slices.Equal(got, []uint32{s[3], s[2], s[1]}) {
		t.Errorf("victims %v; want T1 first, then T2", got)
	}
	a.Removed([]uint32{s[3], s[1], s[0]}) // 0 was not chosen
	expect("removed", map[string][]uint32{"t1": {s[2]}, "t2": nil, "b1": {s[3]}, "b2": {s[1]}}, 0)

	write(s[3])
	expect("hit in B1", map[string][]uint32{"t1": {s[2], s[3]}, "b1": nil}, 1)
	write(s[1])
	expect("hit in B2", map[string][]uint32{"t1": {s[2], s[3], s[1]}, "b2": nil}, 0)
	a.Created([]uint32{s[3]}) // created without a reservation: seen again
	expect("seen again", map[string][]uint32{"t1": {s[2], s[1]}, "t2": {s[3]}}, 0)
}

// TestARCInvariants drives ARC at random and checks its bounds: a key is in one
// list at most, T1 and B1 together hold no more than the capacity, all lists no
// more than twice that, and forgotten keys are released.
func TestARCInvariants(t *testing.T) {
	a, x := newARC(t)
	var s []uint32
	for i := range 60 {
		s = append(s, slotOf(x, i))
	}
	tracked := map[uint32]bool{}
	rng := rand.New(rand.NewPCG(5, 5))
	for step := range 20_000 {
		var batch []uint32
		for range 1 + rng.IntN(4) {
			batch = append(batch, s[rng.IntN(len(s))])
		}
		switch rng.IntN(6) {
		case 0, 1:
			a.Reserved(batch)
			for _, k := range batch {
				tracked[k] = true
			}
		case 2:
			batch = slices.DeleteFunc(batch, func(k uint32) bool { return !tracked[k] })
			a.Created(batch)
		case 3:
			a.Touched(batch)
		case 4:
			a.Removed(batch)
			for _, k := range batch {
				delete(tracked, k)
			}
		case 5:
			victims := a.Victims(nil, 1+rng.IntN(5), func(k uint32) bool { return k%3 != 0 })
			for _, k := range victims {
				if k%3 == 0 || !tracked[k] {
					t.Fatalf("step %d: victim %d is locked, or not tracked", step, k)
				}
				delete(tracked, k)
			}
			a.Removed(victims)
		}
		l := a.Lists()
		_, capacity := a.Target()
		seen := map[uint32]bool{}
		for name, list := range l {
			for _, k := range list {
				if seen[k] || (name[0] == 't') != tracked[k] {
					t.Fatalf("step %d: key %d stands twice, or in %s and is tracked: %t", step, k, name, tracked[k])
				}
				seen[k] = true
			}
		}
		if len(l["t1"])+len(l["b1"]) > max(capacity, len(l["t1"])) || len(seen) > 2*capacity || a.Len() != len(tracked) {
			t.Fatalf("step %d: capacity %d, lists %v", step, capacity, l)
		}
	}
	a.Removed(s)
	for _, k := range s {
		x.Release(k)
	}
	if l := a.Lists(); x.Len() != len(l["b1"])+len(l["b2"]) {
		t.Errorf("%d keys are referred to; want those remembered, %v", x.Len(), l)
	}
}
