package sm_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/sm"
)

// The checks of section 12 of the reference that no other test here makes, read
// as release 0.5.6 behaves.
func TestChecks(t *testing.T) {
	const refused = "KEY_NOT_WRITABLE KEY_NOT_WRITABLE KEY_NOT_WRITABLE"
	t.Run("a key is written once", func(t *testing.T) {
		r := newRig(t, 8, nil)
		r.write(span(0, 3))
		r.expect("again", r.reserve(kv.ModeNew, span(0, 3)), refused)
		r.expect("update of unknown keys", r.reserve(kv.ModeUpdate, span(3, 6)), refused)
		if s := r.Stats(); s.RefusedKeys != 6 || s.Resident != 3 || s.Staged != 0 {
			t.Errorf("%d refused, %d resident, %d staged; want 6, 3, 0", s.RefusedKeys, s.Resident, s.Staged)
		}
	})
	t.Run("all reuses the buffer", func(t *testing.T) {
		r := newRig(t, 8, nil)
		first, _ := r.ReserveWrite(keys(0), layout, kv.ModeNew)
		r.FinishWrite(keys(0))
		again, _ := r.ReserveWrite(keys(0), layout, kv.ModeAll)
		if again[0].Object.Offset != first[0].Object.Offset || r.Stats().UsedBytes != objectBytes {
			t.Errorf("at %d, %d bytes used; want the buffer at %d", again[0].Object.Offset, r.Stats().UsedBytes, first[0].Object.Offset)
		}
		r.expect("write-locked", r.reserve(kv.ModeAll, keys(0)), "KEY_NOT_WRITABLE")
		r.expect("not readable meanwhile", r.fetch(spec(keys(0), 1), false), ".")
	})
	t.Run("a batch that does not fit takes nothing", func(t *testing.T) {
		r := newRig(t, 4, nil)
		r.write(keys(0))
		r.expect("batch", r.reserve(kv.ModeNew, span(1, 5)), "OUT_OF_MEMORY OUT_OF_MEMORY OUT_OF_MEMORY OUT_OF_MEMORY")
		if s := r.Stats(); s.UsedBytes != objectBytes || s.OOMKeys != 4 || s.OOMBytes != 4*objectBytes {
			t.Errorf("%d bytes used, %d keys of %d bytes out of memory; want one object, 4, four objects", s.UsedBytes, s.OOMKeys, s.OOMBytes)
		}
	})
	t.Run("a store's keys behind a gap", func(t *testing.T) {
		f := &stubStore{capacity: 16, found: keys(0, 1, 3)}
		r := newStubRig(t, f, "", nil)
		r.expect("prefix", r.fetch(spec(span(0, 4), 1), false), "22..")
		if s := r.Stats(); s.L2LoadedKeys != 2 || len(f.locks) != 0 {
			t.Errorf("%d keys loaded, locks left in the store: %v; want 2 and none", s.L2LoadedKeys, f.locks)
		}
	})
	t.Run("locks of several readers", func(t *testing.T) {
		for _, releases := range [][]int{{1, 1, 1, 1}, {4}, {3, 1}, {200}} {
			r := newRig(t, 4, func(c *sm.Config) { c.Eviction.Watermark, c.Eviction.Ratio = 0, 1 })
			r.write(keys(0))
			r.fetch(spec(keys(0), 4), false)
			for _, n := range releases {
				if gone := r.EvictOnce(); len(gone) != 0 {
					t.Errorf("%v: evicted under a lock", releases)
				}
				r.FinishReadPrefetched(keys(0), n)
			}
			if gone := r.EvictOnce(); len(gone) != 1 {
				t.Errorf("%v: not evictable after the last release", releases)
			}
		}
	})
	t.Run("LRU takes the tail of a batch", func(t *testing.T) {
		r := newRig(t, 10, nil)
		r.write(span(0, 10))
		if gone := r.EvictOnce(); !slices.Equal(gone, keys(9, 8)) {
			t.Errorf("evicted %v; want keys 9 and 8", gone)
		}
		if gone := r.EvictOnce(); !slices.Equal(gone, keys(7)) { // 8 of 10 is the watermark of 0.8
			t.Errorf("at the watermark exactly, evicted %v; want key 7", gone)
		}
		if gone := r.EvictOnce(); gone != nil {
			t.Errorf("below the watermark, evicted %v", gone)
		}
	})
	t.Run("locked keys at the cold end are skipped", func(t *testing.T) {
		r := newRig(t, 10, nil)
		r.write(span(0, 10))
		first := spec(keys(9), 1)
		if h, err := r.SubmitPrefetchTask(first, "", true); err != nil {
			t.Fatal(err)
		} else {
			r.result(h)
		}
		r.write(nil)
		// The hit made 9 the most recent; 8 is the coldest, locked next.
		if h, err := r.SubmitPrefetchTask(spec(keys(8), 1), "", true); err != nil {
			t.Fatal(err)
		} else {
			r.result(h)
		}
		if gone := r.EvictOnce(); !slices.Equal(gone, keys(7, 6)) {
			t.Errorf("evicted %v; want keys 7 and 6", gone)
		}
	})
	t.Run("the first store serves what both have", func(t *testing.T) {
		f, g := &stubStore{capacity: 16, found: keys(1, 2)}, &stubStore{capacity: 16, found: keys(0, 1, 2)}
		r := newTwoStubRig(t, f, g)
		r.expect("load", r.fetch(spec(span(0, 3), 1), false), "222")
		if f.loaded != 2 || g.loaded != 1 || len(f.locks)+len(g.locks) != 0 {
			t.Errorf("loaded %d and %d, locks %v %v; want 2 of the first, 1 of the second, no locks", f.loaded, g.loaded, f.locks, g.locks)
		}
	})
	t.Run("clear leaves what is locked", func(t *testing.T) {
		r := newRig(t, 8, nil)
		r.write(span(0, 4))
		r.fetch(spec(keys(0), 1), false)
		r.reserve(kv.ModeNew, keys(9))
		r.Clear(false)
		if s := r.Stats(); s.Resident != 1 || s.Staged != 1 {
			t.Errorf("%d resident, %d staged; want the read-locked and the reserved one", s.Resident, s.Staged)
		}
		r.Clear(true)
		if s := r.Stats(); s.UsedBytes != 0 {
			t.Errorf("%d bytes after a forced clear", s.UsedBytes)
		}
	})
	t.Run("a quota of zero", func(t *testing.T) {
		f := &stubStore{capacity: 100}
		r := newStubRig(t, f, `"eviction": {"eviction_policy": "IsolatedLRU"}`, func(c *sm.Config) {
			c.Quotas = []sm.Quota{{Salt: "", LimitBytes: 0}}
		})
		r.write(span(0, 4))
		r.sleep(time.Second)
		r.expect("the next tick takes all", f.keys(), "")
	})
	t.Run("an adapter without type", func(t *testing.T) {
		c := config(t, "--l1-size-gb 1 --eviction-policy LRU", true)
		c.L2Adapters = []string{mockStore, `{"max_size_gb": 1}`}
		if err := c.Validate(kinds); err == nil || err.Error() != "--l2-adapter #2: missing 'type' field" {
			t.Errorf("got %v; want the second flag named", err)
		}
	})
}

// The deviations of section 11 that no other test here or in l1 shows: what the
// released program does wrong does not happen.
func TestDeviations(t *testing.T) {
	t.Run("3: what was never finished is not read", func(t *testing.T) {
		r := newRig(t, 8, nil)
		r.reserve(kv.ModeNew, keys(0))
		r.sleep(601 * time.Second)
		r.expect("fetch", r.fetch(spec(keys(0), 1), false), ".")
	})
	t.Run("2: and comes back by eviction", func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.reserve(kv.ModeNew, keys(0))
		r.sleep(602 * time.Second)
		if s := r.Stats(); s.UsedBytes != 0 || s.EvictedKeys != 1 {
			t.Errorf("%d bytes used, %d evicted; want 0 and 1", s.UsedBytes, s.EvictedKeys)
		}
	})
	t.Run("4: a load that failed is not stored", func(t *testing.T) {
		f, g := &stubStore{capacity: 16, found: keys(0, 1), panics: "QueryLoad"}, &stubStore{capacity: 16}
		r := newTwoStubRig(t, f, g)
		r.expect("load", r.fetch(spec(keys(0, 1), 1), false), "..")
		r.sleep(time.Second)
		if s := r.Stats(); g.keys() != "" || s.UsedBytes != 0 {
			t.Errorf("the other store got %q, %d bytes of L1 used; want nothing", g.keys(), s.UsedBytes)
		}
	})
	t.Run("9: no bytes, no shape", func(t *testing.T) {
		r := newRig(t, 8, nil)
		empty, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{0, 4}}, DTypes: layout.Desc().DTypes})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []kv.Layout{0, empty} {
			if _, err := r.ReserveWrite(keys(0), l, kv.ModeNew); err == nil || !strings.Contains(err.Error(), "size must be greater than 0") {
				t.Errorf("layout %v: %v", l.Desc(), err)
			}
		}
		if res, err := r.ReserveWrite(nil, 0, kv.ModeNew); len(res) != 0 || err != nil {
			t.Errorf("no keys: %v, %v", res, err)
		}
	})
	t.Run("13: results that nobody asks for", func(t *testing.T) {
		cfg := config(t, "--l1-size-gb 1 --eviction-policy LRU --l1-read-ttl-seconds 2305843009", true)
		m, err := sm.New(cfg, sm.Options{Clock: clock.NewVirtual(0), Memory: sm.ScratchMemory})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		const kept = 1 << 18
		one := spec(keys(0), 1)
		first, _ := m.SubmitPrefetchTask(one, "", false)
		second, _ := m.SubmitPrefetchTask(one, "", false)
		for range kept - 1 {
			if _, err := m.SubmitPrefetchTask(one, "", false); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := m.QueryPrefetchStatus(first); ok {
			t.Errorf("more than %d results are kept", kept)
		}
		if _, ok := m.QueryPrefetchStatus(second); !ok {
			t.Errorf("fewer than %d results are kept", kept)
		}
	})
}

// A prefetch and a writer stage the same key. In release 0.5.6 a write that
// finishes after the load was admitted is dropped with success: it goes with the
// load's last reader, and no store ever gets it.
func TestWriterMeetsLoadOfTheSameKey(t *testing.T) {
	for _, first := range []string{"load", "writer"} {
		f, g := &stubStore{capacity: 16, found: keys(0)}, &stubStore{capacity: 16}
		r := newTwoStubRig(t, f, g)
		f.hold = true
		h, err := r.SubmitPrefetchTask(spec(keys(0), 1), "", false)
		if err != nil {
			t.Fatal(err)
		}
		r.clk.Settle()
		r.expect("the writer's own reservation", r.reserve(kv.ModeNew, keys(0)), "SUCCESS")
		admit := func() {
			f.hold = false
			f.env.Notify()
			r.clk.Settle()
		}
		if first == "load" {
			admit()
		}
		r.expect("finish", codes(r.FinishWrite(keys(0))), "SUCCESS")
		admit()
		r.expect("the load", r.result(h), "2")
		r.expect("its reader leaves", codes(r.FinishReadPrefetched(keys(0), 1)), "SUCCESS")
		r.clk.Settle()
		if s := r.Stats(); s.Resident != 1 || s.Staged != 0 || g.keys() != "0" {
			t.Errorf("%s first: %d resident, %d staged, the second store has %q; want the write in L1 and in the store", first, s.Resident, s.Staged, g.keys())
		}
	}
}

// Two tenants' keys of one hash are two objects, in L1, in every store, and for
// locks.
func TestSaltsSeparate(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	alice, bob := span(0, 2), span(0, 2)
	for i := range alice {
		alice[i].Scope, _ = kv.InternScope("m", "alice")
		bob[i].Scope, _ = kv.InternScope("m", "bob")
	}
	r.write(alice)
	r.expect("another tenant's", r.fetch(spec(bob, 1), false), "..")
	r.expect("no tenant's", r.fetch(spec(span(0, 2), 1), false), "..")
	r.write(bob)
	r.sleep(time.Second)
	if s := r.Stats(); s.Resident != 4 || s.L2StoredKeys != 4 {
		t.Errorf("%d resident, %d stored; want 4 and 4", s.Resident, s.L2StoredKeys)
	}
	r.expect("hits", r.fetch(spec(alice, 1), false), "11")
	r.expect("bob has no lock", codes(r.FinishReadPrefetched(bob, 1)), "KEY_IN_WRONG_STATE KEY_IN_WRONG_STATE")
	r.expect("alice has", codes(r.FinishReadPrefetched(alice, 1)), "SUCCESS SUCCESS")
	r.Clear(true)
	r.fetch(spec(bob, 1), false)
	read := r.ReadPrefetched(bob)
	for i, o := range read.Objects() {
		if want := bob[i].String(); string(o.Bytes[:len(want)]) != want {
			t.Errorf("bob reads %q; want %q", o.Bytes[:len(want)], want)
		}
	}
	read.Exit(nil)
}

// newTwoStubRig is a manager of 16 objects over two stubs.
func newTwoStubRig(t *testing.T, f, g *stubStore) stubRig {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 16*objectBytes, "LRU"
	cfg.L2Adapters = []string{`{"type": "fs"}`, `{"type": "fs_native"}`}
	clk, log := clock.NewVirtual(0), &strings.Builder{}
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory, Log: logTo(log), Adapters: l2.Registry{"fs": f.kind(), "fs_native": g.kind()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return stubRig{rig{m, clk, t}, log}
}
