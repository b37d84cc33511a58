package replay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

type numbered int

func (numbered) Codes() []l1.Code { return nil }
func (numbered) Exit(error)       {}

func list(ids ...byte) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, len(ids))
	for i, id := range ids {
		keys[i] = kv.ObjectKey{Hash: [kv.MaxHash]byte{id}, HashLen: 4}
	}
	return keys
}

// The queue does what a map from key list to a first-in first-out list does.
func TestReadQueueAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	lists := [][]kv.ObjectKey{{}}
	for i := range byte(200) {
		lists = append(lists, list(i), list(i, i+1), list(i+1, i)) // order and length matter
	}
	for _, collide := range []bool{false, true} {
		var q readQueue
		hash := func(keys []kv.ObjectKey) uint64 {
			if collide {
				return 7
			}
			return q.hash(keys)
		}
		model := map[string][]numbered{}
		n := numbered(0)
		for range 20_000 {
			keys := lists[rng.IntN(len(lists))]
			name := fmt.Sprint(keys)
			if rng.IntN(2) == 0 {
				q.push(hash(keys), keys, n)
				model[name] = append(model[name], n)
				n++
				continue
			}
			got := q.pop(hash(keys), keys)
			if len(model[name]) == 0 {
				if got != nil {
					t.Fatalf("collide=%v: pop = %v; want none", collide, got)
				}
				continue
			}
			if want := model[name][0]; got != want {
				t.Fatalf("collide=%v: pop = %v; want %v", collide, got, want)
			}
			model[name] = model[name][1:]
			if collide && q.open > 100 { // chains of one hash are walked: keep the test fast
				q.drain(func(keys []kv.ObjectKey, r Read) {
					name := fmt.Sprint(keys)
					model[name] = model[name][1:]
				})
			}
		}
		var want, got []numbered
		for _, l := range model {
			want = append(want, l...)
		}
		slices.Sort(want)
		q.drain(func(_ []kv.ObjectKey, r Read) { got = append(got, r.(numbered)) })
		if !slices.Equal(got, want) {
			t.Errorf("collide=%v: drain gives %v; want %v", collide, got, want)
		}
		if r := q.pop(hash(lists[1]), lists[1]); r != nil {
			t.Errorf("collide=%v: pop after drain = %v; want none", collide, r)
		}
	}
}

func TestReadQueueHashUsesWholeKey(t *testing.T) {
	base := kv.ObjectKey{Hash: [kv.MaxHash]byte{1}, HashLen: 4, Rank: 5, Scope: 6, Group: 7}
	keys := []kv.ObjectKey{base}
	for _, change := range []func(k *kv.ObjectKey){
		func(k *kv.ObjectKey) { k.Hash[3]++ }, func(k *kv.ObjectKey) { k.HashLen++ }, func(k *kv.ObjectKey) { k.Rank++ },
		func(k *kv.ObjectKey) { k.Scope++ }, func(k *kv.ObjectKey) { k.Group++ },
	} {
		k := base
		change(&k)
		keys = append(keys, k)
	}
	var q readQueue
	seen := map[uint64]kv.ObjectKey{}
	for _, k := range keys {
		h := q.hash([]kv.ObjectKey{k})
		if other, ok := seen[h]; ok {
			t.Errorf("%v and %v have the same hash", k, other)
		}
		seen[h] = k
	}
}
