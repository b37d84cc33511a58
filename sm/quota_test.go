package sm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

func saltedKeys(t *testing.T, salt string, ns ...int) []kv.ObjectKey {
	t.Helper()
	list := keys(ns...)
	scope, err := kv.InternScope("m", salt)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].Scope = scope
	}
	return list
}

// resident lists what is there as SALT:NUMBERS, of the salts "", a, b and c.
func (r rig) resident() string {
	there := map[string][]string{}
	for n := range 40 {
		for _, salt := range []string{"", "a", "b", "c"} {
			key := saltedKeys(r.t, salt, n)
			if strings.Contains(r.fetch(spec(key, 1), true), "1") {
				there[salt] = append(there[salt], fmt.Sprint(n))
				r.FinishReadPrefetched(key, 1)
			}
		}
	}
	var out []string
	for salt, ns := range there {
		out = append(out, salt+":"+strings.Join(ns, ","))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestQuotasOnL1: 20 objects; a has a quota of 5, b of 0, and the others share
// the 15 that are left. The watermark is 0.8, the ratio 0.5.
func TestQuotasOnL1(t *testing.T) {
	isolated := func(c *sm.Config) {
		c.Eviction.Policy, c.Eviction.Ratio = sm.IsolatedLRU, 0.5
		c.Quotas = []sm.Quota{{Salt: "a", LimitBytes: 5 * objectBytes}, {Salt: "b"}}
	}
	for _, c := range []struct {
		what  string
		write map[string][]int
		quota map[string]int64 // set afterwards, in objects; below 0 deletes
		want  string
	}{
		{"below", map[string][]int{"a": {0, 1, 2}, "c": {0, 1, 2, 3, 4, 5}, "": {6, 7, 8, 9, 10}}, nil, ":6,7,8,9,10 a:0,1,2 c:0,1,2,3,4,5"},
		{"a at its watermark", map[string][]int{"a": {0, 1, 2, 3}, "c": {0, 1}}, nil, "a:0,1 c:0,1"},
		{"b may have nothing", map[string][]int{"a": {0, 1}, "b": {0, 1}}, nil, "a:0,1"},
		{"the rest shares", map[string][]int{"a": {0, 1, 2}, "": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, nil, ":0,1,2,3,4,5 a:0,1,2"},
		{"a quota that comes later", map[string][]int{"c": {0, 1, 2, 3}}, map[string]int64{"c": 4}, "c:0,1"},
		{"a quota that goes", map[string][]int{"b": {0, 1, 2, 3}}, map[string]int64{"b": -1}, "b:0,1,2,3"},
		{"too many quotas, tier full", map[string][]int{"a": {0, 1}, "c": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}}, map[string]int64{"a": 40, "c": 30},
			"a:0,1 c:0,1,2,3,4,5,6"},
	} {
		r := newRig(t, 20, isolated)
		for salt, ns := range c.write {
			r.write(saltedKeys(t, salt, ns...))
		}
		for text, objects := range c.quota {
			salt, err := kv.InternSalt(text)
			if err != nil {
				t.Fatal(err)
			}
			if objects < 0 {
				r.Quotas().Delete(salt)
			} else if err := r.Quotas().Set(salt, objects*objectBytes); err != nil {
				t.Fatal(err)
			}
		}
		r.sleep(time.Second)
		evicted := r.Stats().EvictedKeys
		if got := r.resident(); got != c.want {
			t.Errorf("%s: %s, %d evicted; want %s", c.what, got, evicted, c.want)
		}
	}
}

// TestQuotaSpares: what a reader holds stays beyond its salt's quota until it
// lets go, and the thread of eviction lives on.
func TestQuotaSpares(t *testing.T) {
	r := newRig(t, 8, func(c *sm.Config) {
		c.Eviction.Policy, c.Quotas = sm.IsolatedLRU, []sm.Quota{{Salt: "b"}}
	})
	list := saltedKeys(t, "b", 0, 1, 2)
	r.write(list)
	if got := r.fetch(spec(list[:1], 1), true); got != "1" {
		t.Fatalf("hits %q", got)
	}
	r.sleep(2 * time.Second)
	if s := r.Stats(); s.Resident != 1 || s.EvictedKeys != 2 || s.EvictedBytes != 2*objectBytes {
		t.Errorf("%d resident, %d evicted, %d bytes; want the locked one, 2", s.Resident, s.EvictedKeys, s.EvictedBytes)
	}
	r.FinishReadPrefetched(list[:1], 1)
	r.sleep(time.Second)
	if s := r.Stats(); s.Resident != 0 {
		t.Errorf("%d resident; want none", s.Resident)
	}
}

// TestLeafLRULearns: what a lookup tells of a chain counts although its keys
// come in several calls: written by two requests, and loaded from a store.
func TestLeafLRULearns(t *testing.T) {
	leaf := func(c *sm.Config) { c.Eviction.Policy, c.Eviction.Ratio, c.Eviction.Watermark = "LeafLRU", 0.4, 0 }
	t.Run("written", func(t *testing.T) {
		r := newRig(t, 12, leaf)
		r.write(span(0, 3))
		r.expect("lookup", r.fetch(spec(span(0, 6), 1), false), "111...")
		r.FinishReadPrefetched(span(0, 3), 1)
		r.write(keys(10, 11))
		r.write(span(3, 6)) // LRU would have 2, 1, 0 go first
		r.evicts(11, 10, 5)
	})
	t.Run("loaded", func(t *testing.T) {
		r := newRig(t, 12, withStores(1, func(c *sm.Config) { leaf(c); c.PrefetchPolicy, c.Eviction.Policy = "retain", "LeafLRU" }))
		r.write(span(0, 6))
		r.sleep(500 * time.Millisecond)
		r.Clear(false)
		r.write(span(0, 2))
		r.write(keys(10, 11))
		r.expect("the rest is loaded", r.fetch(spec(span(0, 6), 1), false), "112222")
		r.FinishReadPrefetched(span(0, 6), 1)
		r.fetch(spec(keys(4), 1), false) // alone, most recently
		r.FinishReadPrefetched(keys(4), 1)
		r.evicts(11, 10, 5)
	})
}

// TestLeafLRUOnStore: a store hears of chains before it gets the keys. Here a
// prompt comes in two parts, of which LRU lets the first go first.
func TestLeafLRUOnStore(t *testing.T) {
	for policy, want := range map[string]string{"LRU": "2 3 4 5", "LeafLRU": "0 1 2 3"} {
		f := &stubStore{capacity: 6}
		r := newStubRig(t, f, `"eviction": {"eviction_policy": "`+policy+`", "eviction_ratio": 0.4}`, nil)
		r.expect("nothing is there", r.fetch(spec(span(0, 6), 1), false), "......")
		for _, list := range [][]kv.ObjectKey{span(0, 2), span(2, 6)} {
			r.write(list)
			r.clk.Settle()
		}
		if n := r.EvictL2Once(); n != 2 {
			t.Errorf("%s: %d keys went; want 2", policy, n)
		}
		r.expect(policy, f.keys(), want)
	}
}

// evicts checks which keys one cycle takes.
func (r rig) evicts(ns ...int) {
	r.t.Helper()
	if got, want := r.EvictOnce(), keys(ns...); !slices.Equal(got, want) {
		r.t.Errorf("evicted %v; want %v", got, want)
	}
}

func TestParseQuota(t *testing.T) {
	for text, want := range map[string]sm.Quota{
		"a=1":             {Salt: "a", LimitBytes: 1 << 30},
		"_default=0.5":    {LimitBytes: 1 << 29},
		"x=y=0":           {Salt: "x=y"},
		"tenant one=1e-9": {Salt: "tenant one", LimitBytes: 1},
	} {
		if got, err := sm.ParseQuota(text); got != want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a", "=1", "a=", "a=x", "a=nan", "a=inf", "a=-1", "a=9e9", "a/b=1", "a@=1", strings.Repeat("x", 129) + "=1"} {
		if q, err := sm.ParseQuota(text); err == nil || !strings.HasPrefix(err.Error(), "--quota: invalid value: '"+text+"' (allowed: ") {
			t.Errorf("%q: %+v, %v; want an error that names it", text, q, err)
		}
	}
}

// TestQuotasInConfig: quotas are recorded when there are any, and compared.
func TestQuotasInConfig(t *testing.T) {
	with, without := sm.DefaultConfig(), sm.DefaultConfig()
	with.Quotas = []sm.Quota{{Salt: "b", LimitBytes: 7}, {LimitBytes: 5}}
	if want := `"quotas": {"_default": 5, "b": 7}`; !strings.Contains(with.JSON(), want) || strings.Contains(without.JSON(), "quotas") {
		t.Errorf("recorded %s; want %s", with.JSON(), want)
	}
	for _, c := range []struct {
		recorded, run sm.Config
		want          []string
	}{
		{with, with, nil},
		{without, with, []string{"quotas._default: recorded not set, this run 5", "quotas.b: recorded not set, this run 7"}},
		{with, without, []string{"quotas._default: recorded 5, this run not set", "quotas.b: recorded 7, this run not set"}},
	} {
		got := sm.CompareConfig(c.recorded.JSON(), c.recorded.Digest(), c.run)
		if !slices.Equal(got.Differences, c.want) || len(got.Unknown) > 0 {
			t.Errorf("differences %q, unknown %q; want %q", got.Differences, got.Unknown, c.want)
		}
	}
}
