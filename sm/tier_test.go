package sm_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// twoTiers makes L1s "a" and "b" of so many objects, each with a store, b's the
// first.
func twoTiers(a, b int64, more func(*sm.Config)) func(*sm.Config) {
	return func(c *sm.Config) {
		for _, t := range []struct {
			tag string
			n   int64
		}{{"a", a}, {"b", b}} {
			one := sm.L1Manager{Tag: t.tag, L1: c.L1, Eviction: c.Eviction}
			one.L1.SizeBytes = t.n * objectBytes
			c.L1Managers = append(c.L1Managers, one)
		}
		for _, tag := range []string{"b", "a"} {
			c.L2Adapters = append(c.L2Adapters, strings.Replace(mockStore, "{", `{"affinity_tag": "`+tag+`", `, 1))
		}
		if more != nil {
			more(c)
		}
	}
}

// where says how many of the objects are where: resident in all, and in the
// stores of a and b.
func (r rig) where() string {
	u := r.L2Usage()
	return fmt.Sprintf("L1 %d, stores %d %d", r.Stats().Resident, u[1].UsedBytes/objectBytes, u[0].UsedBytes/objectBytes)
}

func (r rig) reserve(mode kv.WriteMode, list []kv.ObjectKey) string {
	r.t.Helper()
	res, err := r.ReserveWrite(list, layout, mode)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []l1.Code
	for _, w := range res {
		all = append(all, w.Code)
		if (w.Code == l1.Success) != (len(w.Object.Bytes) == objectBytes) {
			r.t.Errorf("%v with %d bytes", w.Code, len(w.Object.Bytes))
		}
	}
	return codes(all)
}

// The script and its outcomes are those of release 0.5.6, whose finish_write
// and finish_read_prefetched need the owners of objects to be named.
func TestWritesOverflowToTheNextL1(t *testing.T) {
	r := newRig(t, 0, twoTiers(2, 3, func(c *sm.Config) { c.L2Adapters = nil }))
	r.write(span(0, 2))
	r.write(span(2, 4)) // a is full
	r.expect("resident in a, in b, and new", r.reserve(kv.ModeNew, keys(0, 2, 4)), "KEY_NOT_WRITABLE KEY_NOT_WRITABLE SUCCESS")
	r.expect("finish", codes(r.FinishWrite(keys(0, 2, 4))), "KEY_NOT_EXIST KEY_NOT_EXIST SUCCESS")
	r.expect("more than both have", r.reserve(kv.ModeNew, keys(5)), "OUT_OF_MEMORY")
	r.expect("fetch", r.fetch(spec(span(0, 5), 1), false), "11111")
	read := r.ReadPrefetched(span(0, 5))
	for i, o := range read.Objects() {
		if i == 4 { // its bytes were not written here
			break
		}
		if want := span(0, 5)[i].String(); string(o.Bytes[:len(want)]) != want {
			t.Errorf("object %d holds %q; want %q", i, o.Bytes[:len(want)], want)
		}
	}
	read.Exit(nil)
	r.expect("release", codes(r.FinishReadPrefetched(span(0, 6), 1)), strings.Repeat("SUCCESS ", 5)+"KEY_NOT_EXIST")
	r.expect("no lock is left", codes(r.FinishReadPrefetched(span(0, 5), 1)), strings.TrimSpace(strings.Repeat("KEY_IN_WRONG_STATE ", 5)))
	if s := r.Stats(); s.CapacityBytes != 5*objectBytes || s.UsedBytes != 5*objectBytes || s.OOMKeys != 1 {
		t.Errorf("%d of %d bytes used, %d keys out of memory; want both L1s full and 1", s.UsedBytes, s.CapacityBytes, s.OOMKeys)
	}
	r.Clear(false)
	if s := r.Stats(); s.UsedBytes != 0 {
		t.Errorf("%d bytes stay after a clear", s.UsedBytes)
	}
}

// Of several L1s the one that has the key is overwritten.
func TestOverwriteInItsL1(t *testing.T) {
	r := newRig(t, 0, twoTiers(1, 2, func(c *sm.Config) { c.L2Adapters = nil }))
	r.write(keys(0))
	r.write(keys(1))
	r.expect("update", r.reserve(kv.ModeUpdate, keys(0, 1, 2)), "SUCCESS SUCCESS KEY_NOT_WRITABLE")
	r.expect("finish", codes(r.FinishWrite(keys(0, 1))), "SUCCESS SUCCESS")
	r.expect("all", r.reserve(kv.ModeAll, keys(2, 1)), "SUCCESS SUCCESS")
	r.expect("finish", codes(r.FinishWrite(keys(1, 2))), "SUCCESS SUCCESS")
	if s := r.Stats(); s.Resident != 3 || s.Staged != 0 {
		t.Errorf("%d resident, %d staged; want 3 and 0", s.Resident, s.Staged)
	}
}

// What is written to an L1 goes to its stores, and a load goes to the L1 of the
// store that it comes from.
func TestStoresServeTheirL1(t *testing.T) {
	r := newRig(t, 0, twoTiers(2, 4, nil))
	r.write(keys(0, 1))
	r.write(keys(2, 3))
	r.sleep(500 * time.Millisecond)
	r.expect("stored", r.where(), "L1 4, stores 2 2")
	r.Clear(true)
	r.expect("loaded", r.fetch(spec(span(0, 4), 1), false), "2222")
	r.expect("release", codes(r.FinishReadPrefetched(span(0, 4), 1)), "SUCCESS SUCCESS SUCCESS SUCCESS")
	r.expect("temporary objects went", r.where(), "L1 0, stores 2 2")
	r.write(keys(7))
	r.sleep(500 * time.Millisecond)
	r.expect("two of a's into one place", r.fetch(spec(keys(0, 1), 1), false), "..")
	if s := r.Stats(); s.Staged != 0 || s.Resident != 1 {
		t.Errorf("%d staged, %d resident; want 0 and 1", s.Staged, s.Resident)
	}
}

// Each L1 evicts for itself, at its own watermark.
func TestEachL1Evicts(t *testing.T) {
	r := newRig(t, 0, twoTiers(4, 10, func(c *sm.Config) {
		c.L2Adapters = nil
		c.L1Managers[0].Eviction.Ratio = 0.5
	}))
	r.write(span(0, 4))
	r.write(span(4, 10))
	r.sleep(time.Second)
	if s := r.Stats(); s.EvictedKeys != 2 || s.Resident != 8 {
		t.Errorf("%d evicted, %d resident; want half of a's four, and none of b, which is at 0.6", s.EvictedKeys, s.Resident)
	}
	r.expect("a's tail went", r.fetch(spec(span(0, 10), 1), false), "11........")
}

// Random calls on two L1s with stores: the accounting holds after every call,
// and no lock is left at the end.
func TestRandomCallsOnTwoL1s(t *testing.T) {
	for seed := range uint64(4) {
		r := newRig(t, 0, twoTiers(5, 9, func(c *sm.Config) {
			if seed%2 == 1 {
				c.PrefetchPolicy = sm.PrefetchRetain
			}
		}))
		rng := rand.New(rand.NewPCG(seed, 9))
		type taken struct {
			handle sm.PrefetchHandle
			keys   []kv.ObjectKey
		}
		var open []taken
		for step := range 600 {
			first := rng.IntN(20)
			list := span(first, first+1+rng.IntN(4))
			switch rng.IntN(6) {
			case 0, 1:
				res, err := r.ReserveWrite(list, layout, kv.WriteMode(rng.IntN(3)))
				if err != nil {
					t.Fatal(err)
				}
				var mine []kv.ObjectKey
				for i := range res {
					if res[i].Code == l1.Success {
						mine = append(mine, list[i])
					}
				}
				for i, c := range r.FinishWrite(mine) {
					if c != l1.Success {
						t.Fatalf("seed %d step %d: finish of reserved key %d: %v", seed, step, i, c)
					}
				}
			case 2, 3:
				h, err := r.SubmitPrefetchTask(spec(list, 1), "", rng.IntN(4) == 0)
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, taken{h, list})
			case 4:
				r.sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
			case 5:
				r.EvictOnce()
			}
			kept := open[:0]
			for _, o := range open {
				res, ok := r.QueryPrefetchStatus(o.handle)
				if !ok {
					kept = append(kept, o)
					continue
				}
				hits := o.keys[:res.Rows[0].Hits.LeadingOnes()]
				read := r.ReadPrefetched(hits)
				if len(read.Objects()) != len(hits) {
					t.Fatalf("seed %d step %d: hits are not readable: %v", seed, step, read.Codes())
				}
				read.Exit(nil)
				for i, c := range r.FinishReadPrefetched(hits, 1) {
					if c != l1.Success {
						t.Fatalf("seed %d step %d: release of hit %d: %v", seed, step, i, c)
					}
				}
			}
			open = kept
			if err := r.Check(); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
		r.sleep(time.Minute)
		for _, o := range open {
			res, ok := r.QueryPrefetchStatus(o.handle)
			if !ok {
				t.Fatalf("seed %d: prefetch %d has no result", seed, o.handle.ID)
			}
			r.FinishReadPrefetched(o.keys[:res.Rows[0].Hits.LeadingOnes()], 1)
		}
		r.Clear(false)
		if s := r.Stats(); s.UsedBytes != 0 || s.L2HitKeys == 0 || s.L1HitKeys == 0 || s.OOMKeys == 0 {
			t.Errorf("seed %d: objects are left, or the run did not meet everything: %+v", seed, s)
		}
	}
}

func TestParseL1Managers(t *testing.T) {
	def := sm.DefaultConfig()
	def.Eviction.Policy = "LRU"
	for _, tt := range []struct{ text, want string }{
		{`{"type":"DRAM","tag":"a","size_gb":1}`, ""},
		{`{"type":"DRAM","tag":"a","size_gb":0.001,"eviction":{"trigger_watermark":0.5},"write_ttl_seconds":5,"use_lazy":false,"shm_name":"","use_hugepages":false,"init_size_gb":3}`, ""},
		{`{x`, "Invalid JSON for --l1-manager #1: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"},
		{`[1]`, "--l1-manager #1: --l1-manager requires type DRAM, DEVDAX or GDS, got None"},
		{`{"type":"dram"}`, "--l1-manager #1: --l1-manager requires type DRAM, DEVDAX or GDS, got 'dram'"},
		{`{"type":"DEVDAX"}`, "--l1-manager #1: L1 of type DEVDAX is not supported in this build"},
		{`{"type":"GDS"}`, "--l1-manager #1: L1 of type GDS is not supported in this build"},
		{`{"type":"DRAM","bogus":1,"path":2}`, "--l1-manager #1: Unknown L1 fields: ['bogus', 'path'] (known: align_bytes, eviction, init_size_gb, read_ttl_seconds, shm_name, size_gb, tag, type, use_hugepages, use_lazy, write_ttl_seconds)"},
		{`{"type":"DRAM","size_gb":1}`, "--l1-manager #1: tag must be a non-empty string, got None"},
		{`{"type":"DRAM","tag":"a"}`, "--l1-manager #1: size_gb must be a finite positive number, got None"},
		{`{"type":"DRAM","tag":"a","size_gb":0}`, "--l1-manager #1: size_gb must be a finite positive number, got 0"},
		{`{"type":"DRAM","tag":"a","size_gb":1e300}`, "--l1-manager #1: size_gb must be a finite positive number, got 1e300"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"align_bytes":0.5}`, "--l1-manager #1: align_bytes must be an integer, got 0.5"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"use_hugepages":true}`, "--l1-manager #1: use_hugepages true is not supported in this build"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"eviction":{"bogus":1}}`, "--l1-manager #1: eviction must contain policy, watermark and ratio settings only: eviction_policy, trigger_watermark, eviction_ratio"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"eviction":{"eviction_policy":"FIFO"}}`, "--l1-manager #1: eviction.eviction_policy: invalid value: \"FIFO\" (allowed: " + strings.Join(sm.EvictionPolicies, ", ") + ")"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"eviction":{"eviction_ratio":-1}}`, "--l1-manager #1: eviction.eviction_ratio: invalid value: -1 (allowed: 0 or more, finite)"},
		{`{"type":"DRAM","tag":"a","size_gb":1,"read_ttl_seconds":-1}`, "--l1-manager #1: read_ttl_seconds: invalid value: -1 (allowed: 0 to 2305843009)"},
	} {
		c := def
		var err error
		if c.L1Managers, err = sm.ParseL1Managers([]string{tt.text}, sm.L1Manager{L1: def.L1, Eviction: def.Eviction}); err == nil {
			err = c.Validate(kinds)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.text, got, tt.want)
		}
	}
	if _, err := sm.ParseL1Managers([]string{`{"type":"DRAM","tag":"a","size_gb":1}`, `{"type":"DRAM","tag":"a","size_gb":2}`}, sm.L1Manager{}); err == nil || err.Error() != "--l1-manager #2: L1 tags must be unique: 'a'" {
		t.Errorf("two L1s of one tag: %v", err)
	}
}

// An L1 alone is the same configuration whichever way it is said.
func TestOneL1IsOneConfiguration(t *testing.T) {
	plain := config(t, "--l1-size-gb 2 --eviction-policy LRU", true)
	tagged := config(t, `--l1-manager {"type":"DRAM","tag":"_default","size_gb":2} --eviction-policy LRU`, true)
	if plain.Digest() != tagged.Digest() {
		t.Errorf("digests differ:\n%s\n%s", plain.JSON(), tagged.JSON())
	}
	two := config(t, `--l1-manager {"type":"DRAM","tag":"a","size_gb":2} --l1-manager {"type":"DRAM","tag":"b","size_gb":4,"eviction":{"eviction_policy":"ARC"}} --eviction-policy LRU`, true)
	if c := sm.CompareConfig(two.JSON(), two.Digest(), two); !c.Match || len(c.Unknown) > 0 {
		t.Errorf("two L1s against themselves: %+v", c)
	}
	other := two
	other.L1Managers = append([]sm.L1Manager(nil), two.L1Managers...)
	other.L1Managers[1].Eviction.Policy = "noop"
	if c := sm.CompareConfig(two.JSON(), two.Digest(), other); fmt.Sprint(c.Differences) != `[l1_manager_configs[1].eviction.eviction_policy: recorded "ARC", this run "noop"]` {
		t.Errorf("the second L1's policy differs: %q", c.Differences)
	}
	if c := sm.CompareConfig(two.JSON(), two.Digest(), plain); c.Match || c.Differences[len(c.Differences)-1] != "l1_manager_configs: recorded 2 L1 managers, this run 1" {
		t.Errorf("two L1s against one: %q", c.Differences)
	}
}
