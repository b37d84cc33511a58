package sm_test

import (
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

// The outcomes are those of the release candidate 0.5.7rc2, with keys 0 and 1 in
// L1 and all four in the store.
func TestMemoryTags(t *testing.T) {
	dram, local, remote := kv.MemoryTag{Segment: "dram", Residency: "local"}, kv.MemoryTag{Segment: "storage", Residency: "local"}, kv.MemoryTag{Segment: "storage", Residency: "remote"}
	tags := func(list ...kv.MemoryTag) []kv.MemoryTag { return append([]kv.MemoryTag{}, list...) }
	for _, tt := range []struct {
		name   string
		l1, l2 []kv.MemoryTag
		policy kv.FetchPolicy
		want   string
		stay   int64 // objects in L1 after the release
	}{
		{"all", nil, nil, kv.FetchPrefix, "1122", 2},
		{"what there is", tags(dram), tags(local), kv.FetchPrefix, "1122", 2},
		{"among others", tags(remote, dram), tags(remote, local), kv.FetchPrefix, "1122", 2},
		{"no store", nil, tags(), kv.FetchPrefix, "11..", 2},
		{"another store", nil, tags(remote), kv.FetchPrefix, "11..", 2},
		{"no L1: its keys are not loaded over what is there", tags(), nil, kv.FetchPrefix, "....", 2},
		{"no L1, full", tags(), nil, kv.FetchFull, "..22", 2},
		{"another L1", tags(local), nil, kv.FetchFull, "..22", 2},
		{"nothing", tags(), tags(), kv.FetchPrefix, "....", 2},
	} {
		for _, several := range []bool{false, true} {
			r := newRig(t, 8, withStores(1, func(c *sm.Config) {
				if several {
					c.L1Managers = []sm.L1Manager{{Tag: "_default", L1: c.L1, Eviction: c.Eviction}, {Tag: "other", L1: c.L1, Eviction: c.Eviction}}
				}
			}))
			r.write(span(0, 4))
			r.sleep(time.Second)
			r.Clear(false)
			r.write(keys(0, 1))
			r.sleep(time.Second)
			s := spec(span(0, 4), 1)
			s.L1Tags, s.L2Tags, s.Policy = tt.l1, tt.l2, tt.policy
			got := r.fetch(s, false)
			r.expect(tt.name, got, tt.want)
			for i, c := range got {
				if c != '.' {
					r.FinishReadPrefetched(span(i, i+1), 1)
				}
			}
			r.expect(tt.name+": no lock is left", codes(r.FinishReadPrefetched(keys(0, 1), 1)), "KEY_IN_WRONG_STATE KEY_IN_WRONG_STATE")
			if st := r.Stats(); st.Resident != tt.stay || st.Staged != 0 {
				t.Errorf("%s: %d resident, %d staged; want %d and 0", tt.name, st.Resident, st.Staged, tt.stay)
			}
		}
	}
}
