package l1_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

var salts = []string{"", "a", "b"}

func saltIDs(t *testing.T) (ids []kv.Salt) {
	for _, text := range salts {
		id, err := kv.InternSalt(text)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// salted gives key n the salt n % 3.
func salted(t *testing.T, ns ...int) []kv.ObjectKey {
	list := keys(ns...)
	for i, n := range ns {
		scope, err := kv.InternScope("m", salts[n%3])
		if err != nil {
			t.Fatal(err)
		}
		list[i].Scope = scope
	}
	return list
}

// TestRandomCallsOfEveryPolicy checks after every call that the accounts are
// right, by salt too, that no live lock's object went, and now and then that the
// policy knows what the tier has.
func TestRandomCallsOfEveryPolicy(t *testing.T) {
	ids := saltIDs(t)
	for _, policy := range evict.Names() {
		t.Run(policy, func(t *testing.T) {
			x := newTierOf(t, 20, policy)
			rng := rand.New(rand.NewPCG(6, 4))
			for step := range 8000 {
				ns := make([]int, 1+rng.IntN(4))
				for i := range ns {
					ns[i] = rng.IntN(30)
				}
				list := salted(t, ns...)
				tag, n := l1.Tag(rng.IntN(3)), 1+rng.IntN(3)
				var locked []kv.ObjectKey
				for _, k := range x.Snapshot().Keys {
					if k.ReadLocked {
						locked = append(locked, k.Key)
					}
				}
				var evicted l1.Evicted
				switch rng.IntN(12) {
				case 0, 1, 2:
					if _, err := x.Reserve(nil, list, x.layout, kv.WriteMode(rng.IntN(3)), tag, tag > 0 && rng.IntN(2) == 0); err != nil {
						t.Fatal(err)
					}
				case 3, 4:
					x.Finish(nil, nil, list, tag, n*int(tag))
				case 5:
					x.LockResident(list, n)
				case 6:
					x.Unlock(nil, list, n)
				case 7:
					x.Discard(list, tag)
				case 8:
					evicted = x.Evict(0.3)
				case 9:
					evicted = x.EvictSalts(ids[:n], 0.5)
					for _, k := range evicted.Keys {
						if !slices.Contains(ids[:n], k.Scope.SaltID()) {
							t.Fatalf("step %d: %v is of none of the salts", step, k)
						}
					}
				case 10:
					x.Chained(list)
					x.Touch(list)
				case 11:
					x.sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
				}
				for _, k := range evicted.Keys {
					if slices.Contains(locked, k) {
						t.Fatalf("step %d: %v was evicted under a lock", step, k)
					}
				}
				if err := x.Check(); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				if s := x.Snapshot(); policy != "noop" && step%20 == 0 {
					for _, k := range s.Keys {
						if k.Resident && !slices.Contains(s.Order, k.Key) {
							t.Fatalf("step %d: the policy does not know %+v", step, k)
						}
					}
				}
			}
			x.Clear(true)
			if err := x.Check(); err != nil {
				t.Fatal(err)
			}
			for n := range 30 { // loads that were on their way end
				x.Discard(salted(t, n), 1)
				x.Finish(nil, nil, salted(t, n), 2, 1)
			}
			if u := x.Usage(); u != (l1.Usage{CapacityBytes: u.CapacityBytes}) || len(x.UsageBySalt(nil)) > 0 {
				t.Errorf("after a forced clear: %+v, %v", u, x.UsageBySalt(nil))
			}
		})
	}
}

// TestLeafLRUKeepsPrefixes: requests of a tree of prompts look up, hold locks,
// write what is missing, or give it up; eviction runs in between. Whatever is
// there, its prefix is.
func TestLeafLRUKeepsPrefixes(t *testing.T) {
	x := newTierOf(t, 40, "LeafLRU")
	rng := rand.New(rand.NewPCG(8, 8))
	type request struct {
		hits, writes []kv.ObjectKey
	}
	var running []request
	evicted := 0
	for step := range 6000 {
		switch rng.IntN(5) {
		case 0, 1:
			var ns []int
			for n := 1 + rng.IntN(60); n > 0; n /= 2 {
				ns = append(ns, n)
			}
			slices.Reverse(ns)
			list := keys(ns...)
			found := x.LockResident(list, 1)
			x.Chained(list)
			hits := 0
			for hits < len(list) && found.Test(hits) {
				hits++
			}
			for i := hits; i < len(list); i++ {
				if found.Test(i) {
					x.Unlock(nil, list[i:i+1], 1)
				}
			}
			x.Touch(list[:hits])
			x.Chained(list[hits:])
			res, err := x.Reserve(nil, list[hits:], x.layout, kv.ModeNew, l1.Writer, false)
			if err != nil {
				t.Fatal(err)
			}
			r := request{hits: list[:hits]}
			for i, w := range res {
				if w.Code == l1.Success {
					r.writes = append(r.writes, list[hits+i])
				}
			}
			running = append(running, r)
		case 2:
			if len(running) > 0 {
				i := rng.IntN(len(running))
				r := running[i]
				running = slices.Delete(running, i, i+1)
				x.Unlock(nil, r.hits, 1)
				if rng.IntN(5) > 0 { // else its reservation expires
					x.Finish(nil, nil, r.writes, l1.Writer, 0)
				}
			}
		case 3:
			x.sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		case 4:
			evicted += len(x.Evict(0.3).Keys)
		}
		here := map[kv.ObjectKey]bool{}
		for _, k := range x.Snapshot().Keys {
			here[k.Key] = true
		}
		for n := 2; n <= 60; n++ {
			if here[keys(n)[0]] && !here[keys(n / 2)[0]] {
				t.Fatalf("step %d: %d is here, and %d, which it extends, is not", step, n, n/2)
			}
		}
	}
	if evicted < 1000 {
		t.Errorf("only %d keys were evicted", evicted)
	}
}
