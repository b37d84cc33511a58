package sm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

// evictingStore is a mock of ten objects with an eviction block.
func evictingStore(policy string) string {
	return `{"type": "mock", "max_size_gb": 0.009765625, "mock_bandwidth_gb": 1024, "eviction": {"eviction_policy": "` + policy + `"}}`
}

// TestL2EvictionCadence: ten objects in a store of ten. Usage 1.0 is at the
// watermark of 0.8: two go after a second, and at 0.8 exactly one more of eight.
func TestL2EvictionCadence(t *testing.T) {
	for _, policy := range []string{"LRU", "ARC"} {
		r := newRig(t, 20, func(c *sm.Config) { c.L2Adapters = []string{evictingStore(policy)} })
		r.write(span(0, 5))
		r.sleep(10 * time.Millisecond)
		r.write(span(5, 10))
		r.sleep(10 * time.Millisecond)
		r.Clear(true)
		r.fetch(spec(keys(4), 1), false) // the tail of the older batch is used again
		r.FinishReadPrefetched(keys(4), 1)
		for i, want := range []int64{10, 8, 7, 7} {
			if got := r.L2Usage()[0].UsedBytes / objectBytes; got != want {
				t.Errorf("%s: after %d s: %d objects in the store; want %d", policy, i, got, want)
			}
			r.sleep(time.Second)
		}
		full := spec(span(0, 10), 1)
		full.Policy = kv.FetchFull
		r.expect(policy+": the older batch's tail went, but for what was read", r.fetch(full, false), "2...222222")
		if s := r.Stats(); s.L2EvictedKeys != 3 || s.L2EvictedBytes != 3*objectBytes || s.L2EvictionPasses != 2 {
			t.Errorf("%s: counted %d keys, %d bytes, %d passes; want 3, %d, 2", policy, s.L2EvictedKeys, s.L2EvictedBytes, s.L2EvictionPasses, 3*objectBytes)
		}
	}
}

// A store without an eviction block, or with noop, is left alone; so is one
// without a capacity.
func TestStoreThatEvictsNothing(t *testing.T) {
	for _, store := range []string{mockStore, evictingStore("noop")} {
		r := newRig(t, 20, func(c *sm.Config) { c.L2Adapters = []string{store} })
		r.write(span(0, 10))
		r.sleep(5 * time.Second)
		if s := r.Stats(); s.L2StoredKeys != 10 || s.L2EvictionPasses != 0 {
			t.Errorf("%s: %d stored, %d passes; want 10 and 0", store, s.L2StoredKeys, s.L2EvictionPasses)
		}
	}
}

// What a lookup has locked stays until it is unlocked, and the others go.
func TestL2EvictionLeavesWhatIsLocked(t *testing.T) {
	f := &stubStore{capacity: 4}
	r := newStubRig(t, f, `"eviction": {"eviction_policy": "LRU", "eviction_ratio": 0.5}`, nil)
	r.write(span(0, 4))
	r.clk.Settle()
	f.hold = true // loads do not complete
	r.Clear(true)
	if _, err := r.SubmitPrefetchTask(spec(keys(3), 1), "", false); err != nil {
		t.Fatal(err)
	}
	r.clk.Settle()
	if n := r.EvictL2Once(); n != 0 {
		t.Errorf("%d keys are known to be gone at once; want 0, as the store says of two only that one went", n)
	}
	r.expect("left of the two coldest, of which 3 is being loaded", f.keys(), "0 1 3")
	r.clk.Settle()
	if n := r.EvictL2Once(); n != 1 {
		t.Errorf("%d keys went; want 1", n)
	}
	f.hold = false
	f.env.Notify()
	r.clk.Settle()
	r.expect("bytes by salt", sprint(r.L2BytesBySalt()), "map[:3145728]")
}

// Salts are counted apart, and a salted key is another key.
func TestL2BytesBySalt(t *testing.T) {
	r := newRig(t, 20, func(c *sm.Config) { c.L2Adapters = []string{evictingStore("LRU")} })
	alice := span(0, 2)
	for i := range alice {
		alice[i].Scope, _ = kv.InternScope("", "alice")
	}
	r.write(span(0, 3))
	r.write(alice)
	r.sleep(500 * time.Millisecond)
	r.expect("stored", sprint(r.L2BytesBySalt()), "map[:3145728 alice:2097152]")
	if n, err := r.DeleteL2(0, alice); n != 2 || err != nil {
		t.Errorf("deleted %d, %v; want 2", n, err)
	}
	r.expect("after the delete", sprint(r.L2BytesBySalt()), "map[:3145728]")
	if _, err := r.DeleteL2(1, alice); err == nil || !strings.Contains(err.Error(), "No L2 adapter with id 1") {
		t.Errorf("delete from a store that is not there: %v", err)
	}
}

// A store that was not empty at the start is evicted from, too.
func TestL2EvictionOfWhatWasThere(t *testing.T) {
	f := &stubStore{capacity: 4, found: span(0, 4)}
	r := newStubRig(t, f, `"eviction": {"eviction_policy": "LRU"}`, nil)
	if n := r.EvictL2Once(); n != 1 {
		t.Errorf("%d keys went; want 1", n)
	}
	r.expect("the oldest went", f.keys(), "1 2 3")
}

// TestEvictionSurvivesAPanic: in LMCache an exception in a cycle ends the
// thread, and the tier stays full.
func TestEvictionSurvivesAPanic(t *testing.T) {
	f := &stubStore{capacity: 4, found: span(0, 4), panics: "Delete"}
	r := newStubRig(t, f, `"eviction": {"eviction_policy": "LRU"}`, nil)
	r.sleep(time.Second)
	if got := f.keys(); got != "0 1 2 3" || !strings.Contains(r.log.String(), "L2 adapter stub, delete: panic: Delete") {
		t.Errorf("the store holds %q, logged %q; want all, and the panic", got, r.log.String())
	}
	f.panics = ""
	r.sleep(time.Second)
	r.expect("the next cycle runs, and begins with others", f.keys(), "0 2 3")
}

// Under IsolatedLRU a salt loses a share of its keys at the watermark of its
// quota, and all of them without one, whether the store has a capacity or not.
func TestL2Quotas(t *testing.T) {
	for _, capacity := range []int64{0, 100} {
		f := &stubStore{capacity: capacity}
		r := newStubRig(t, f, `"eviction": {"eviction_policy": "IsolatedLRU", "trigger_watermark": 0.8, "eviction_ratio": 0.5}`, func(c *sm.Config) {
			c.Quotas = []sm.Quota{{Salt: "alice", LimitBytes: 5 * objectBytes}, {Salt: "bob", LimitBytes: 5 * objectBytes}}
		})
		salted := func(salt string, list []kv.ObjectKey) []kv.ObjectKey {
			for i := range list {
				list[i].Scope, _ = kv.InternScope("", salt)
			}
			return list
		}
		r.write(salted("alice", span(0, 4)))
		r.write(salted("bob", span(0, 3)))
		r.write(salted("", span(0, 2)))
		r.clk.Settle()
		if n := r.EvictL2Once(); n != 4 {
			t.Errorf("capacity %d: %d keys went; want 2 of alice's 4, none of bob's 3, both of the salt without a quota", capacity, n)
		}
		r.expect("left", sprint(r.L2BytesBySalt()), "map[alice:2097152 bob:3145728]")
	}
}

// What somebody else put into the store becomes known when it is met: by a store
// task that had nothing to write, by one that failed in part, by a load.
func TestL2EvictionLearns(t *testing.T) {
	for name, meet := range map[string]func(r stubRig, f *stubStore){
		"store": func(r stubRig, _ *stubStore) { r.write(span(0, 4)) },
		"failed store": func(r stubRig, f *stubStore) {
			f.fails = true
			r.write(span(0, 6))
		},
		"load": func(r stubRig, _ *stubStore) {
			r.fetch(spec(span(0, 4), 1), false)
			r.FinishReadPrefetched(span(0, 4), 1)
		},
	} {
		f := &stubStore{capacity: 4}
		r := newStubRig(t, f, `"eviction": {"eviction_policy": "LRU", "eviction_ratio": 0.5}`, nil)
		f.order = span(0, 4)
		if n := r.EvictL2Once(); n != 0 {
			t.Errorf("%s: %d keys went that nobody knew of", name, n)
		}
		meet(r, f)
		r.clk.Settle()
		if n := r.EvictL2Once(); n != 2 {
			t.Errorf("%s: %d keys went; want half of four", name, n)
		}
		r.expect(name+": the chain lost its tail", f.keys(), "0 1")
		r.expect(name+": bytes", sprint(r.L2BytesBySalt()), "map[:2097152]")
		if len(f.locks) != 0 {
			t.Errorf("%s: lookups left locks: %v", name, f.locks)
		}
	}
}

// A store that is down for a while deletes nothing and finds nothing; when it is
// back it is evicted from as before.
func TestL2EvictionAfterAnOutage(t *testing.T) {
	f := &stubStore{capacity: 4, found: span(0, 4)}
	r := newStubRig(t, f, `"eviction": {"eviction_policy": "LRU", "eviction_ratio": 0.5}`, nil)
	f.down = true
	r.sleep(time.Minute)
	if s := r.Stats(); s.L2EvictedKeys != 0 {
		t.Errorf("%d keys went from a store that is down", s.L2EvictedKeys)
	}
	f.down = false
	r.sleep(time.Second)
	if s := r.Stats(); s.L2EvictedKeys != 2 || len(f.order) != 2 {
		t.Errorf("%d keys went, %d are left; want 2 and 2", s.L2EvictedKeys, len(f.order))
	}
}
