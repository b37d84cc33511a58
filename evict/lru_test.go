package evict_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

func slotOf(x *kv.Index, n int) uint32 {
	k := kv.ObjectKey{HashLen: 4}
	binary.BigEndian.PutUint32(k.Hash[:], uint32(n))
	return x.Acquire(&k)
}

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		tracked int
		ratio   float64
		want    int
	}{
		{3, 0.2, 1}, {10, 0.2, 2}, {7, 1, 7}, {100, 0.29, 28}, {100, 0.57, 56}, {7, 1.5, 7}, {7, -1, 0}, {7, 0, 0}, {0, 1, 0}, {1, 1e-9, 1},
	} {
		if got := evict.Target(c.tracked, c.ratio); got != c.want {
			t.Errorf("Target(%d, %v) = %d; want %d", c.tracked, c.ratio, got, c.want)
		}
	}
}

// TestLRUOrder pins that the last key of a batch is its oldest.
func TestLRUOrder(t *testing.T) {
	var x kv.Index
	p, err := evict.New("LRU", &x)
	if err != nil {
		t.Fatal(err)
	}
	var s []uint32
	for i := range 10 {
		s = append(s, slotOf(&x, i))
	}
	p.Reserved(s)
	p.Created(s)
	if got, want := p.Victims(nil, 2, func(uint32) bool { return true }), []uint32{s[9], s[8]}; !slices.Equal(got, want) {
		t.Errorf("victims %v; want %v", got, want)
	}
	p.Touched([]uint32{s[0], s[1], s[9]})
	want := []uint32{s[8], s[7], s[6], s[5], s[4], s[3], s[2], s[9], s[1], s[0]}
	if got := p.Order(nil); !slices.Equal(got, want) {
		t.Errorf("order %v; want %v", got, want)
	}
	locked := map[uint32]bool{s[8]: true, s[6]: true}
	if got, want := p.Victims(nil, 3, func(s uint32) bool { return !locked[s] }), []uint32{s[7], s[5], s[4]}; !slices.Equal(got, want) {
		t.Errorf("victims around locked keys %v; want %v", got, want)
	}
}

// TestLRUScan: a search in steps finds what one sweep finds, past keys that may
// not go, and goes on when the key where it is moves or leaves.
func TestLRUScan(t *testing.T) {
	var x kv.Index
	p, err := evict.New("LRU", &x)
	if err != nil {
		t.Fatal(err)
	}
	l := p.(evict.Scanner)
	var s []uint32 // coldest first
	for i := range 20 {
		s = append(s, slotOf(&x, i))
		l.Created(s[i:])
	}
	even := func(slot uint32) bool { return slices.Index(s, slot)%2 == 0 }
	l.Rewind()
	var got []uint32
	steps, more := 0, true
	for ; more; steps++ {
		got, more = l.Scan(got, 100, 3, even)
	}
	if want := l.Victims(nil, 100, even); !slices.Equal(got, want) || steps != 7 {
		t.Errorf("in %d steps of 3: %v; want %v in 7", steps, got, want)
	}
	l.Rewind()
	if got := l.Peek(nil, 3); !slices.Equal(got, []uint32{s[0], s[1], s[2]}) {
		t.Errorf("peek = %v; want the first three of %v", got, s)
	}
	if got, more := l.Scan(nil, 2, 100, even); !slices.Equal(got, []uint32{s[0], s[2]}) || !more {
		t.Errorf("two: %v, %v", got, more)
	}
	l.Touched([]uint32{s[3]}) // where the search is
	l.Removed([]uint32{s[4]})
	if got, _ := l.Scan(nil, 2, 100, even); !slices.Equal(got, []uint32{s[6], s[8]}) {
		t.Errorf("after a touch and a removal: %v; want %v", got, []uint32{s[6], s[8]})
	}
	l.Removed(s)
	if got, more := l.Scan(nil, 2, 100, even); len(got) > 0 || more {
		t.Errorf("of nothing: %v, %v", got, more)
	}
}

// TestLRUAgainstSlice drives the LRU and a slice in the same order.
func TestLRUAgainstSlice(t *testing.T) {
	var x kv.Index
	p, err := evict.New("LRU", &x)
	if err != nil {
		t.Fatal(err)
	}
	var all, model []uint32
	for i := range 40 {
		all = append(all, slotOf(&x, i))
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for step := range 20_000 {
		batch := make([]uint32, rng.IntN(6))
		for i := range batch {
			batch[i] = all[rng.IntN(len(all))]
		}
		op := rng.IntN(4)
		for i := len(batch) - 1; i >= 0; i-- {
			s := batch[i]
			at := slices.Index(model, s)
			if at >= 0 && op != 3 {
				model = append(slices.Delete(model, at, at+1), s)
			} else if at >= 0 {
				model = slices.Delete(model, at, at+1)
			} else if op < 2 {
				model = append(model, s)
			}
		}
		[]func([]uint32){p.Reserved, p.Created, p.Touched, p.Removed}[op](batch)
		if got := p.Order(nil); !slices.Equal(got, model) || p.Len() != len(model) {
			t.Fatalf("step %d: order %v, length %d; want %v", step, got, p.Len(), model)
		}
	}
	p.Removed(all)
	for _, s := range all {
		x.Release(s)
	}
	if x.Len() != 0 {
		t.Errorf("%d keys are still referred to after the policy forgot them", x.Len())
	}
}

func TestNewUnknown(t *testing.T) {
	if _, err := evict.New("FIFO", new(kv.Index)); err == nil || err.Error() != `unsupported eviction policy: "FIFO", known: ARC, IsolatedLRU, LRU, LeafLRU, S3FIFO, noop` {
		t.Errorf("got %v", err)
	}
}

func TestNoop(t *testing.T) {
	p, err := evict.New("noop", new(kv.Index))
	if err != nil {
		t.Fatal(err)
	}
	p.Created([]uint32{1, 2})
	if got := p.Victims(nil, 5, func(uint32) bool { return true }); len(got) != 0 || p.Len() != 0 {
		t.Errorf("noop gives victims %v, tracks %d", got, p.Len())
	}
}
