package sm_test

import (
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
)

// TestRequestSurvivesAPanic: whichever call of a store panics, the prefetch has a
// result, from what the other stores and L1 have, no lock and no memory is left,
// and the next request is served.
func TestRequestSurvivesAPanic(t *testing.T) {
	for _, call := range []string{"SubmitLookup", "QueryLookup", "SubmitLoad", "QueryLoad", "Unlock"} {
		t.Run(call, func(t *testing.T) {
			f := &stubStore{capacity: 16, found: span(0, 4)}
			r := newStubRig(t, f, "", func(c *sm.Config) { c.L2Adapters = append(c.L2Adapters, mockStore) })
			r.write(span(2, 4)) // now in L1 and in the mock, too
			r.sleep(1e9)
			r.Clear(false)
			r.write(span(0, 1))
			r.sleep(1e9)
			f.panics = call
			want := map[string]string{"SubmitLookup": "1...", "QueryLookup": "1...", "SubmitLoad": "1...", "QueryLoad": "1...", "Unlock": "1222"}[call]
			r.expect("with a store that panics", r.fetch(spec(span(0, 4), 1), false), want)
			if !strings.Contains(r.log.String(), "L2 adapter stub, ") || !strings.Contains(r.log.String(), "panic: "+call) {
				t.Errorf("logged %q", r.log)
			}
			hits := len(strings.TrimRight(want, "."))
			r.FinishReadPrefetched(span(0, hits), 1)
			if s := r.Stats(); s.Staged != 0 || s.Resident != 1 || s.PendingPrefetches != 0 {
				t.Errorf("%d staged, %d resident, %d pending; want 0, 1, 0", s.Staged, s.Resident, s.PendingPrefetches)
			}
			f.panics = ""
			r.expect("the next request", r.fetch(spec(span(0, 4), 1), false), "1222")
		})
	}
	f := &stubStore{capacity: 16, found: span(0, 4), panics: "SubmitLookup"}
	r := newStubRig(t, f, "", func(c *sm.Config) { c.L2Adapters = append(c.L2Adapters, mockStore) })
	r.write(span(2, 4))
	r.sleep(1e9)
	r.Clear(false)
	r.expect("the other store serves", r.fetch(spec(span(2, 4), 1), false), "22")
}

// A store task that could not be submitted has failed: its object stays in L1,
// unlocked.
func TestStoreSurvivesAPanic(t *testing.T) {
	f := &stubStore{capacity: 16, panics: "SubmitStore"}
	r := newStubRig(t, f, "", func(c *sm.Config) { c.StorePolicy = sm.StoreSkipL1 })
	r.write(span(0, 2))
	r.clk.Settle()
	if s := r.Stats(); s.Resident != 2 || s.L2StoredKeys != 0 || !strings.Contains(r.log.String(), "L2 store task failed") {
		t.Errorf("%d resident, %d stored, logged %q; want 2, 0, and the failure", s.Resident, s.L2StoredKeys, r.log)
	}
	f.panics = ""
	r.write(span(2, 3))
	r.clk.Settle()
	r.expect("the next one", f.keys(), "2")
	r.Clear(false)
	if s := r.Stats(); s.Resident != 0 {
		t.Errorf("%d objects are held by a task that never ran", s.Resident)
	}
}

// A store task that failed is not repeated, and its object stays, unlocked.
func TestStoreFailure(t *testing.T) {
	f := &stubStore{capacity: 16, fails: true}
	r := newStubRig(t, f, "", func(c *sm.Config) { c.StorePolicy = sm.StoreSkipL1 })
	r.write(span(0, 2))
	r.clk.Settle()
	f.fails = false
	r.sleep(1e9)
	if s := r.Stats(); s.Resident != 2 || f.keys() != "" {
		t.Errorf("%d resident, in the store %q; want 2, and nothing: there is no second attempt", s.Resident, f.keys())
	}
	r.Clear(false)
	if s := r.Stats(); s.Resident != 0 {
		t.Errorf("%d objects keep the lock of a task that failed", s.Resident)
	}
}

// skip_l1 with two stores of which the last fails: the object goes, as it is in
// one of them. In LMCache only the last finisher's delete works.
func TestSkipL1WhenTheLastStoreFails(t *testing.T) {
	for _, failing := range []string{"last", "both"} {
		f := &stubStore{capacity: 16, fails: true}
		g := &stubStore{capacity: 16, fails: failing == "both"}
		cfg := sm.DefaultConfig()
		cfg.L1.SizeBytes, cfg.Eviction.Policy, cfg.StorePolicy = 16*objectBytes, "LRU", sm.StoreSkipL1
		cfg.L2Adapters = []string{`{"type": "fs"}`, `{"type": "fs_native"}`}
		clk := clock.NewVirtual(0)
		m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory, Adapters: l2.Registry{"fs": g.kind(), "fs_native": f.kind(), "mock": mock.Kind}})
		if err != nil {
			t.Fatal(err)
		}
		r := rig{m, clk, t}
		r.write(span(0, 2))
		clk.Settle()
		want := map[string]int64{"last": 0, "both": 2}[failing]
		if got := r.Stats().Resident; got != want {
			t.Errorf("%s failing: %d resident; want %d", failing, got, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
