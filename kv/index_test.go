package kv_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

func testKey(n uint32, rank uint64) kv.ObjectKey {
	var h [4]byte
	binary.BigEndian.PutUint32(h[:], n)
	k, err := kv.NewObjectKey(h[:], 0, rank, 0)
	if err != nil {
		panic(err)
	}
	return k
}

// TestIndexAgainstMap drives an Index and a map of reference counts with the
// same seeded calls.
func TestIndexAgainstMap(t *testing.T) {
	type ref struct {
		slot uint32
		n    int
	}
	var x kv.Index
	model, slots := map[kv.ObjectKey]*ref{}, map[uint32]kv.ObjectKey{}
	rng := rand.New(rand.NewPCG(1, 2))
	for step := range 200_000 {
		k := testKey(uint32(rng.IntN(3000)), uint64(rng.IntN(3)))
		m := model[k]
		switch rng.IntN(4) {
		case 0:
			slot := x.Acquire(&k)
			if m == nil {
				if other, taken := slots[slot]; taken {
					t.Fatalf("step %d: slot %d given to %v, it is %v's", step, slot, k, other)
				}
				m = &ref{slot: slot}
				model[k], slots[slot] = m, k
			}
			if m.n++; slot != m.slot {
				t.Fatalf("step %d: Acquire gives slot %d; want %d", step, slot, m.slot)
			}
		case 1:
			if m == nil {
				continue
			}
			x.Retain(m.slot)
			m.n++
		default:
			if m == nil {
				continue
			}
			x.Release(m.slot)
			if m.n--; m.n == 0 {
				delete(model, k)
				delete(slots, m.slot)
			}
		}
		if got := x.Find(&k); (got != 0) != (model[k] != nil) || got != 0 && (got != model[k].slot || x.Key(got) != k) {
			t.Fatalf("step %d: Find gives slot %d; the model has %+v", step, got, model[k])
		}
		if step%50 == 0 { // more keys than go in one block, of which some stand twice
			list := make([]kv.ObjectKey, rng.IntN(80))
			for i := range list {
				list[i] = testKey(uint32(rng.IntN(3000)), uint64(rng.IntN(3)))
			}
			for i, got := range x.AppendSlots(nil, list, kv.AppendHashes(nil, list)) {
				if want := x.Find(&list[i]); got != want {
					t.Fatalf("step %d: AppendSlots gives slot %d for key %d of %d; want %d", step, got, i, len(list), want)
				}
			}
		}
		if x.Len() != len(model) {
			t.Fatalf("step %d: Len is %d; want %d", step, x.Len(), len(model))
		}
	}
	for k, m := range model {
		if got := x.Find(&k); got != m.slot {
			t.Errorf("Find(%v) gives slot %d; want %d", k, got, m.slot)
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run("keys="+map[int]string{10_000: "10k", 1_000_000: "1M"}[n], func(b *testing.B) {
			var x kv.Index
			for i := range n {
				k := testKey(uint32(i), 0)
				x.Acquire(&k)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			for b.Loop() {
				k := testKey(uint32(rng.IntN(n)), 0)
				if x.Find(&k) == 0 {
					b.Fatal("a key is missing")
				}
			}
		})
	}
}
