package evict_test

import (
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// TestS3FIFO goes through the queues by hand: promotion after two hits, the
// tenth that small may have, ghosts, and going around in main.
func TestS3FIFO(t *testing.T) {
	x := new(kv.Index)
	p, err := evict.New("S3FIFO", x)
	if err != nil {
		t.Fatal(err)
	}
	f := p.(*evict.S3FIFO)
	var s []uint32
	for i := range 12 {
		s = append(s, slotOf(x, i))
	}
	expect := func(what string, small, main []uint32) {
		t.Helper()
		if l := f.Lists(); !slices.Equal(l["small"], small) || !slices.Equal(l["main"], main) {
			t.Errorf("%s: %v; want small %v, main %v", what, l, small, main)
		}
	}
	victims := func(n int, locked ...uint32) []uint32 {
		return f.Victims(nil, n, func(k uint32) bool { return !slices.Contains(locked, k) })
	}
	f.Reserved(s[:10])
	f.Created(s[:10]) // the tail is the oldest
	f.Touched(s[:9])
	f.Touched(s[:9])
	// 9 has no hits and goes; the scan stops there.
	if got := victims(1); !slices.Equal(got, []uint32{s[9]}) {
		t.Errorf("victims %v; want the one without hits", got)
	}
	f.Removed(s[9:10])
	f.Reserved(s[9:10]) // a ghost: into main
	expect("a ghost came back", []uint32{s[8], s[7], s[6], s[5], s[4], s[3], s[2], s[1], s[0]}, []uint32{s[9]})
	// Small gives up all but 1 of 10, hit twice each; at a tenth it is still
	// asked, and 0, the last, is promoted too. Then main: 9 is the first of no hits.
	if got := victims(1); !slices.Equal(got, []uint32{s[9]}) {
		t.Errorf("victims %v; want 9", got)
	}
	expect("all promoted", nil, []uint32{s[9], s[8], s[7], s[6], s[5], s[4], s[3], s[2], s[1], s[0]})
	f.Removed(s[9:10])
	f.Reserved(s[9:10]) // from main: no ghost
	expect("what went from main", s[9:10], []uint32{s[8], s[7], s[6], s[5], s[4], s[3], s[2], s[1], s[0]})
	// 1 of 10 is a tenth: small is asked, not main.
	f.Touched(s[8:9])
	if got := victims(2, s[7]); !slices.Equal(got, []uint32{s[9], s[6]}) {
		t.Errorf("victims %v; want 9 of small, then 6: 8 was hit, 7 is locked", got)
	}
	expect("8 went around", s[9:10], []uint32{s[7], s[6], s[5], s[4], s[3], s[2], s[1], s[0], s[8]})
}

// TestS3FIFOPatience: in a tier where all keys were hit three times a call of
// Victims moves a bounded number of them, and still finds its victims.
func TestS3FIFOPatience(t *testing.T) {
	p := newPair(t, "S3FIFO")
	var ids []int
	for i := range 3000 {
		k := kv.ObjectKey{HashLen: 4}
		k.Hash[2], k.Hash[3] = byte(i>>8), byte(i)
		ids = append(ids, p.add(k))
	}
	p.tell(p.policy.Reserved, p.model.reserved, ids)
	for range 3 {
		p.tell(p.policy.Touched, p.model.touched, ids)
	}
	for range 3 {
		victims := p.victims(5, nil, anyKey)
		if len(victims) != 5 {
			t.Fatalf("%d victims; want 5", len(victims))
		}
		p.tell(p.policy.Removed, p.model.removed, victims)
		p.compare("patience")
	}
}
