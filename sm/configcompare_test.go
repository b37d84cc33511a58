package sm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/sm"
)

// Every release's JSON agrees with the flags that made it, whatever the host
// and the process id, and disagrees with each other set of flags.
func TestCompareConfigWithEveryRelease(t *testing.T) {
	all := vectors(t)
	for _, recorded := range all {
		got := sm.CompareConfig(recorded.JSON, recorded.Digest, config(t, recorded.Flags, true))
		if want := "match (" + recorded.Digest[:8] + ")"; !got.Match || got.Row != want || len(got.Differences)+len(got.Unknown) != 0 {
			t.Errorf("%s %s: got %+v; want %s", recorded.Release, recorded.Flags, got, want)
		}
		for _, other := range all {
			if other.Flags == recorded.Flags {
				continue
			}
			c := config(t, other.Flags, true)
			got := sm.CompareConfig(recorded.JSON, recorded.Digest, c)
			want := fmt.Sprintf("MISMATCH (rec=%s, run=%s)", recorded.Digest[:8], c.Digest()[:8])
			if got.Match || got.Row != want || len(got.Differences) == 0 {
				t.Errorf("%s recorded with %s, run with %s: got %+v; want %s", recorded.Release, recorded.Flags, other.Flags, got, want)
			}
		}
	}
}

func TestCompareConfigNamesWhatDiffers(t *testing.T) {
	const object = `<lmcache.v1.distributed.l2_adapters.fs_l2_adapter.FSL2AdapterConfig object at 0x7fcab99f4ed0>`
	digest := strings.Repeat("ab", 32)
	base := config(t, "--l1-size-gb 200 --eviction-policy LRU", true)
	with := func(change func(*sm.Config)) sm.Config { c := base; change(&c); return c }
	edit := func(old, new string) string {
		edited := strings.Replace(base.JSON(), old, new, 1)
		if edited == base.JSON() {
			t.Fatalf("%s is not in %s", old, edited)
		}
		return edited
	}
	mock := func(text string) sm.Config { return with(func(c *sm.Config) { c.L2Adapters = []string{text} }) }
	for _, tt := range []struct {
		name, recorded string
		run            sm.Config
		differences    []string
		unknown        []string
	}{
		{"size", base.JSON(), with(func(c *sm.Config) { c.L1.SizeBytes = 107374182400 }),
			[]string{"l1_manager_config.memory_config.size_in_bytes: recorded 214748364800, this run 107374182400"}, nil},
		{"two settings, sorted", base.JSON(), with(func(c *sm.Config) { c.StorePolicy, c.Eviction.Policy = "skip_l1", "noop" }),
			[]string{`eviction_config.eviction_policy: recorded "LRU", this run "noop"`, `store_policy: recorded "default", this run "skip_l1"`}, nil},
		{"lazy and initial size do not count", base.JSON(), with(func(c *sm.Config) { c.L1.UseLazy, c.L1.InitSizeBytes = false, 1 }), nil, nil},
		{"an integer is its float", edit(`"trigger_watermark": 0.8`, `"trigger_watermark": 8e-1`), base, nil, nil},
		{"not recorded, run with another", edit(`, "prefetch_max_in_flight": 8`, ``), with(func(c *sm.Config) { c.PrefetchMaxInFlight = 9 }),
			[]string{"prefetch_max_in_flight: recorded 8 (by default), this run 9"}, nil},
		{"recorded a setting without a counterpart", edit(`"align_bytes": 4096`, `"align_bytes": 4096, "use_hugepages": true`), base,
			[]string{"l1_manager_config.memory_config.use_hugepages: recorded true, this run false"}, nil},
		{"recorded an object where ours has nothing", edit(`"memory_config"`, `"gds_l1_config": {"backend": "auto"}, "memory_config"`), base,
			[]string{`l1_manager_config.gds_l1_config.backend: recorded "auto", this run not set`}, nil},
		{"a setting of the future", edit(`"store_policy"`, `"new_setting": [1], "store_policy"`), base, nil,
			[]string{"new_setting[0]: recorded 1, which this build does not know"}},
		{"an adapter as text", edit(`[]`, `["`+object+`"]`), mock(`{"type":"mock"}`), nil,
			[]string{"l2_adapter_config.adapters[0]: recorded as an object of class FSL2AdapterConfig, its settings are not known"}},
		{"an adapter as text, none here", edit(`[]`, `["`+object+`"]`), base,
			[]string{"l2_adapter_config.adapters: recorded 1 (FSL2AdapterConfig), this run none"},
			[]string{"l2_adapter_config.adapters[0]: recorded as an object of class FSL2AdapterConfig, its settings are not known"}},
		{"our adapters, equal", mock(`{"type":"mock","max_size_gb":1}`).JSON(), mock(`{"max_size_gb":1.0, "type":"mock", "shared":false}`), nil, nil},
		{"our adapters, not equal", mock(`{"type":"mock","max_size_gb":1}`).JSON(), mock(`{"type":"mock","max_size_gb":2,"x":null}`),
			[]string{"l2_adapter_config.adapters[0].max_size_gb: recorded 1, this run 2", "l2_adapter_config.adapters[0].x: recorded not set, this run null"}, nil},
		{"damaged", base.JSON()[:40], base, []string{"configuration: the digests differ; the recorded settings are not known"},
			[]string{"recorded configuration: not valid JSON: Expecting value: line 1 column 41 (char 40)"}},
		{"no object", `[]`, base, []string{"configuration: the digests differ; the recorded settings are not known"},
			[]string{"recorded configuration: expected a JSON object, got list"}},
		{"repr", `{"repr": "StorageManagerConfig(...)"}`, base, []string{"configuration: the digests differ; the recorded settings are not known"},
			[]string{"recorded configuration: recorded as text that tells no settings"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := sm.CompareConfig(tt.recorded, digest, tt.run)
			if !slices.Equal(got.Differences, tt.differences) || !slices.Equal(got.Unknown, tt.unknown) {
				t.Errorf("got  %q and unknown %q;\nwant %q and unknown %q", got.Differences, got.Unknown, tt.differences, tt.unknown)
			}
			if got.Match != (len(tt.differences) == 0) || got.Match != strings.HasPrefix(got.Row, "match (abababab)") {
				t.Errorf("got match %v, row %q", got.Match, got.Row)
			}
		})
	}
}

func TestCompareConfigWithoutDigestOrJSON(t *testing.T) {
	base := config(t, "--l1-size-gb 200 --eviction-policy LRU", true)
	if got := sm.CompareConfig("", "", base); got.Row != "" || len(got.Differences) != 0 {
		t.Errorf("nothing recorded: got %+v; want no row", got)
	}
	if got := sm.CompareConfig("", base.Digest(), base); got.Row != "match (0f685d8a)" {
		t.Errorf("the digest alone: got %+v", got)
	}
}

// The comparison reads a file's bytes: it must take any, and what it accepts
// as equal must be so in both directions of writing it.
func FuzzCompareConfig(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.JSON)
	}
	f.Add(`{"l2_adapter_config": {"adapters": ["<a.B object at 0x1>", {"type": "mock"}, 1]}}`)
	f.Add(`{"l1_manager_config": {"eviction": 1}, "l1_manager_configs": [1, 2]}`)
	f.Add(`{"store_policy": {"a": []}, "prefetch_max_in_flight": 1e999999}`)
	run := sm.DefaultConfig()
	run.Eviction.Policy = "LRU"
	f.Fuzz(func(t *testing.T, text string) {
		sum := sha256.Sum256([]byte(text))
		digest := hex.EncodeToString(sum[:])
		got := sm.CompareConfig(text, digest, run)
		if got.Match != (len(got.Differences) == 0) {
			t.Errorf("match %v with differences %q", got.Match, got.Differences)
		}
		if !strings.Contains(got.Row, digest[:8]) {
			t.Errorf("row %q does not show the digest", got.Row)
		}
	})
}
