package sm_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
)

// vector is one row of config-digests.json: what a release records for flags.
type vector struct {
	Release, Flags string
	Command        string
	PinnedMemory   bool   `json:"pinned_memory"`
	JSON           string `json:"sm_config_json"`
	Digest         string `json:"sm_config_digest"`
}

func vectors(t testing.TB) []vector {
	data, err := os.ReadFile("testdata/config-digests.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []vector
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 24 {
		t.Fatalf("got %d vectors; want 24", len(list))
	}
	return list
}

// config builds what the flags of a vector say, on a host with or without
// pinned memory.
func config(t testing.TB, flags string, pinned bool) (c sm.Config) {
	c = sm.DefaultConfig()
	float := func(s string) float64 {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	size := func(flag, s string) int64 {
		n, err := sm.SizeBytes(flag, float(s))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	words := strings.Fields(flags)
	var managers []string
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch flag := words[i]; flag {
		case "--no-l1-use-lazy":
			c.L1.UseLazy = false
			continue
		case "--enable-extra-logging":
			c.ExtraLogging = true
			continue
		case "--l1-size-gb":
			c.L1.SizeBytes = size(flag, value)
		case "--l1-init-size-gb":
			c.L1.InitSizeBytes = size(flag, value)
		case "--l1-align-bytes":
			c.L1.AlignBytes = int64(float(value))
		case "--l1-write-ttl-seconds":
			c.L1.WriteTTLSeconds = int64(float(value))
		case "--l1-read-ttl-seconds":
			c.L1.ReadTTLSeconds = int64(float(value))
		case "--eviction-policy":
			c.Eviction.Policy = value
		case "--eviction-trigger-watermark":
			c.Eviction.Watermark = float(value)
		case "--eviction-ratio":
			c.Eviction.Ratio = float(value)
		case "--l2-store-policy":
			c.StorePolicy = value
		case "--l2-prefetch-policy":
			c.PrefetchPolicy = value
		case "--l2-prefetch-max-in-flight":
			c.PrefetchMaxInFlight = int(float(value))
		case "--extra-logging-interval":
			c.ExtraLoggingInterval = float(value)
		case "--periodic-notifier-interval-ms":
			c.NotifierIntervalMS = int(float(value))
		case "--l1-manager":
			managers = append(managers, strings.Trim(value, "'"))
		default:
			t.Fatalf("flag %s", flag)
		}
		i++
	}
	c.L1.UseLazy = c.L1.UseLazy && pinned
	if managers != nil {
		var err error
		if c.L1Managers, err = sm.ParseL1Managers(managers, sm.L1Manager{L1: c.L1, Eviction: c.Eviction}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// isE1 reports a release whose JSON form is ours.
func isE1(release string) bool { return release <= "0.4.6" }

func TestConfigJSONOfE1(t *testing.T) {
	n := 0
	for _, v := range vectors(t) {
		if !isE1(v.Release) {
			continue
		}
		n++
		// 0.4.5 records the flag on any host, 0.4.6 what the host can do.
		c := config(t, v.Flags, v.PinnedMemory)
		if got := c.JSON(); got != v.JSON {
			t.Errorf("%s %s:\n got %s\nwant %s", v.Release, v.Flags, got, v.JSON)
		}
		if got := c.Digest(); got != v.Digest {
			t.Errorf("%s %s: got digest %s; want %s", v.Release, v.Flags, got, v.Digest)
		}
	}
	if n != 9 {
		t.Errorf("compared %d vectors; want 9", n)
	}
}

// The digest of the user documentation's flags, which its sample shows.
func TestConfigDigestOfTheDocumentation(t *testing.T) {
	c := config(t, "--l1-size-gb 200 --eviction-policy LRU", true)
	if n := len(c.JSON()); n != 419 {
		t.Errorf("got %d bytes; want 419", n)
	}
	if got, want := c.Digest(), "0f685d8a68ee4e1fab94abd7815faccca9db9024c24ed82bea8aa0dc2c5e4b97"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestConfigJSONKeepsWhatE1LacksOnlyWhenSet(t *testing.T) {
	c := config(t, "--l1-size-gb 10 --eviction-policy LRU --enable-extra-logging --extra-logging-interval 30 --periodic-notifier-interval-ms 20", true)
	for _, want := range []string{`"extra_logging_enabled": true, "extra_logging_interval": 30.0`, `"periodic_notifier_interval_ms": 20`} {
		if !strings.Contains(c.JSON(), want) {
			t.Errorf("%s not in %s", want, c.JSON())
		}
	}
}

func TestConfigJSONOfAdapters(t *testing.T) {
	c := config(t, "--l1-size-gb 1 --eviction-policy LRU", true)
	c.L2Adapters = []string{
		`{"type":"mock", "max_size_gb": 1e1, "mock_bandwidth_gb":2, "é":"<\u0001"}`,
		`{"type":"resp","password":"hunter2","nested":{"auth_token":"t"},"username":""}`,
	}
	want := `"adapters": [{"max_size_gb": 10.0, "mock_bandwidth_gb": 2, "type": "mock", "\u00e9": "<\u0001"}, ` +
		`{"nested": {"auth_token": "***"}, "password": "***", "type": "resp", "username": ""}]`
	if got := c.JSON(); !strings.Contains(got, want) {
		t.Errorf("got %s; want in it %s", got, want)
	}
}

func TestSizeBytes(t *testing.T) {
	for _, tt := range []struct {
		gb   float64
		want int64
		ok   bool
	}{
		{200, 214748364800, true},
		{10.3, 11059540787, true},
		{0.05, 53687091, true},
		{0, 0, true},
		{math.Copysign(0, -1), 0, true},
		{1 << 32, 1 << 62, true},
		{1 << 33, 0, false},
		{-1e-9, 0, false},
		{1e300, 0, false},
		{math.Inf(1), 0, false},
		{math.NaN(), 0, false},
	} {
		got, err := sm.SizeBytes("--l1-size-gb", tt.gb)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("SizeBytes(%v) = %d, %v; want %d, ok %v", tt.gb, got, err, tt.want, tt.ok)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "--l1-size-gb: invalid value: ") {
			t.Errorf("error %q does not begin with the flag and the value", err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*sm.Config)
		want   string // "" for valid
	}{
		{"defaults", func(c *sm.Config) {}, ""},
		{"zero size", func(c *sm.Config) { c.L1.SizeBytes = 0 }, ""},
		{"noop", func(c *sm.Config) { c.Eviction.Policy = "noop" }, ""},
		{"negative size", func(c *sm.Config) { c.L1.SizeBytes = -1 }, "--l1-size-gb: invalid value: -1 bytes (allowed: 0 or more, below 2^33 (8 EiB))"},
		{"alignment", func(c *sm.Config) { c.L1.AlignBytes = 4095 }, "--l1-align-bytes: invalid value: 4095 (allowed: a power of two from 1 to 1073741824)"},
		{"ttl", func(c *sm.Config) { c.L1.ReadTTLSeconds = -1 }, "--l1-read-ttl-seconds: invalid value: -1 (allowed: 0 to 2305843009)"},
		{"ttl overflow", func(c *sm.Config) { c.L1.WriteTTLSeconds = math.MaxInt64 }, "--l1-write-ttl-seconds: invalid value: 9223372036854775807 (allowed: 0 to 2305843009)"},
		{"no policy", func(c *sm.Config) { c.Eviction.Policy = "" }, `--eviction-policy: invalid value: "" (allowed: LRU, ARC, IsolatedLRU, noop, S3FIFO, LeafLRU)`},
		{"isolated", func(c *sm.Config) { c.Eviction.Policy = "IsolatedLRU" }, ""},
		{"ours", func(c *sm.Config) { c.Eviction.Policy = "LeafLRU" }, ""},
		{"quotas", func(c *sm.Config) {
			c.Eviction.Policy, c.Quotas = "IsolatedLRU", []sm.Quota{{"", 1}, {"a", 0}}
		}, ""},
		{"quota that nothing heeds", func(c *sm.Config) { c.Quotas = []sm.Quota{{"a", 3 << 29}} },
			"--quota: invalid value: 'a=1.5' (allowed: with --eviction-policy IsolatedLRU, or with an --l2-adapter whose eviction_policy is IsolatedLRU)"},
		{"quota twice", func(c *sm.Config) {
			c.Eviction.Policy, c.Quotas = "IsolatedLRU", []sm.Quota{{"", 1}, {"", 2}}
		}, "--quota: invalid value: _default (allowed: each salt once)"},
		{"negative quota", func(c *sm.Config) { c.Eviction.Policy, c.Quotas = "IsolatedLRU", []sm.Quota{{"b", -1}} },
			"--quota: invalid value: b=-1 bytes (allowed: SALT=GB, _default for the empty salt; GB 0 or more, below 2^33 (8 EiB))"},
		{"watermark", func(c *sm.Config) { c.Eviction.Watermark = -1 }, "--eviction-trigger-watermark: invalid value: -1 (allowed: 0 or more, finite)"},
		{"watermark NaN", func(c *sm.Config) { c.Eviction.Watermark = math.NaN() }, "--eviction-trigger-watermark: invalid value: NaN (allowed: 0 or more, finite)"},
		{"ratio", func(c *sm.Config) { c.Eviction.Ratio = -0.1 }, "--eviction-ratio: invalid value: -0.1 (allowed: 0 or more, finite)"},
		{"store policy", func(c *sm.Config) { c.StorePolicy = "x" }, `--l2-store-policy: invalid value: "x" (allowed: default, skip_l1)`},
		{"in flight", func(c *sm.Config) { c.PrefetchMaxInFlight = -2 }, "--l2-prefetch-max-in-flight: invalid value: -2 (allowed: 1 to 2147483647)"},
		{"adapter", func(c *sm.Config) { c.L2Adapters = []string{"[]"} }, "--l2-adapter #1: expected a JSON object, got list"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config(t, "--l1-size-gb 1 --eviction-policy LRU", true)
			tt.change(&c)
			got := ""
			if err := c.Validate(kinds); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

// kinds are the adapters of the tests.
var kinds = l2.Registry{"mock": mock.Kind}

func TestAdapters(t *testing.T) {
	const known = "aerospike, bigtable, dax, fault_inject, fs, fs_native, hf3fs, hfbucket, mock, mooncake_store, native_plugin, nixl_native, p2p, plugin, raw_block, resp, s3, sagemaker-hyperpod, valkey"
	for _, tt := range []struct{ text, want string }{
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":2.5}`, ""},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":2.5,"other":[1]}`, ""},
		{`{x`, "Invalid JSON for --l2-adapter #1: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"},
		{"{\"a\": 1,\n \"b\" 2}", "Invalid JSON for --l2-adapter #1: Expecting ':' delimiter: line 2 column 6 (char 14)"},
		{`{`, "Invalid JSON for --l2-adapter #1: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"},
		{`{} {}`, "Invalid JSON for --l2-adapter #1: Extra data: line 1 column 4 (char 3)"},
		{`nope`, "Invalid JSON for --l2-adapter #1: invalid character 'o' in literal null (expecting 'u'): line 1 column 2 (char 1)"},
		{`{"a":`, "Invalid JSON for --l2-adapter #1: Expecting value: line 1 column 6 (char 5)"},
		{``, "Invalid JSON for --l2-adapter #1: Expecting value: line 1 column 1 (char 0)"},
		{`[1]`, "--l2-adapter #1: expected a JSON object, got list"},
		{`null`, "--l2-adapter #1: expected a JSON object, got NoneType"},
		{`1.0`, "--l2-adapter #1: expected a JSON object, got float"},
		{`{}`, "--l2-adapter #1: missing 'type' field"},
		{`{"type":"nope"}`, "--l2-adapter #1: unknown adapter type 'nope'. Known: " + known},
		{`{"type":7}`, "--l2-adapter #1: unknown adapter type 7. Known: " + known},
		{`{"type":"resp"}`, "--l2-adapter #1: adapter type 'resp' is not supported in this build"},
		{`{"type":"gcs"}`, "--l2-adapter #1: adapter type 'gcs' is not supported in this build"},
		{`{"type":"mock"}`, "--l2-adapter #1 ('mock'): max_size_gb must be a positive number"},
		{`{"type":"mock","max_size_gb":0,"mock_bandwidth_gb":1}`, "--l2-adapter #1 ('mock'): max_size_gb must be a positive number"},
		{`{"type":"mock","max_size_gb":"1","mock_bandwidth_gb":1}`, "--l2-adapter #1 ('mock'): max_size_gb must be a positive number"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1e999}`, "--l2-adapter #1 ('mock'): mock_bandwidth_gb must be a positive number"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"FIFO"}}`,
			"--l2-adapter #1 ('mock'): eviction.eviction_policy must be 'LRU', 'ARC', 'IsolatedLRU', 'noop', 'S3FIFO', or 'LeafLRU', got 'FIFO'"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"noop","eviction_ratio":-2}}`,
			"--l2-adapter #1 ('mock'): eviction.eviction_ratio must be a number 0 or more, finite, got -2"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"eviction":{"eviction_policy":"LRU"}}`,
			""},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"serde":3}`, "--l2-adapter #1 ('mock'): 'serde' must be a dict, got int"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"serde":{}}`, "--l2-adapter #1 ('mock'): 'serde' dict must include a 'type' field"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"serde":{"type":"fp8"}}`, "--l2-adapter #1 ('mock'): serde type 'fp8' is not supported in this build"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"serde":{"type":"zip"}}`, "--l2-adapter #1 ('mock'): Unknown serde type 'zip'. Registered: aesgcm, fp8, turboquant"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"affinity_tag":"x"}`, "--l2-adapter #1 ('mock'): Unknown L1 affinity_tag: 'x' (allowed: '_default')"},
		{`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":1,"shared":1}`, "--l2-adapter #1 ('mock'): shared must be true or false, got 1"},
	} {
		_, err := sm.Config{L2Adapters: []string{tt.text}}.Adapters(kinds)
		got := ""
		if err != nil {
			got = err.Error()
			var adapterError *sm.AdapterError
			if !errors.As(err, &adapterError) {
				t.Errorf("%s: got a %T; want an *AdapterError", tt.text, err)
			}
		}
		if got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

func TestAdapterSettings(t *testing.T) {
	list, err := sm.Config{L2Adapters: []string{
		`{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":2,"shared":true,"persist_enabled":false,"eviction":{"eviction_policy":"noop","trigger_watermark":0.5}}`,
	}}.Adapters(kinds)
	if err != nil {
		t.Fatal(err)
	}
	a := list[0]
	if want := (sm.EvictionConfig{Policy: "noop", Watermark: 0.5, Ratio: 0.2}); *a.Eviction != want {
		t.Errorf("got eviction %+v; want %+v", *a.Eviction, want)
	}
	if a.Fields["mock_bandwidth_gb"] != json.Number("2") || a.PersistEnabled || !a.Shared || a.Type != "mock" {
		t.Errorf("got %+v", a)
	}
}
