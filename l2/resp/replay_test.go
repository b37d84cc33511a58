package resp_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/l2/resp"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// Recordings of LMCache replayed on a real server: on virtual time every count
// is that of the store in memory, on one server and on a cluster; in real time
// the server holds what was stored.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	nodes := newCluster(t)
	text := func(config map[string]any) string {
		b, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	clustered := valkeyConfig(nodes, "cluster_mode", true)
	for _, name := range []string{"l2-default", "l2-retain", "grid-l2", "skip-l1", "staged-and-loaded"} {
		t.Run(name, func(t *testing.T) {
			want := replayOf(t, name, clock.NewVirtual(0), `{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 100000}`)
			if want.L2StoredKeys == 0 {
				t.Fatal("the recording stores nothing")
			}
			for _, n := range append(nodes, s) {
				n.do("FLUSHALL")
			}
			for _, config := range []map[string]any{s.config(), clustered} {
				if got := replayOf(t, name, clock.NewVirtual(0), text(config)); got != want {
					t.Errorf("%v on virtual time:\n got %+v\nwant %+v", config["type"], got, want)
				}
			}
			if got := size(t, s); got != want.L2StoredKeys {
				t.Errorf("%d objects on the server; want %d", got, want.L2StoredKeys)
			}
			if got := size(t, nodes...); got != want.L2StoredKeys {
				t.Errorf("%d objects in the cluster; want %d", got, want.L2StoredKeys)
			}
			s.do("FLUSHALL")
			live := replayOf(t, name, clock.Real{}, text(s.config()))
			if got := size(t, s); live.L2StoredKeys == 0 || got < live.L2StoredKeys { // Close lets the rest be stored
				t.Errorf("in real time %d objects on the server; want %d or more", got, live.L2StoredKeys)
			}
		})
	}
}

// size counts the objects of servers.
func size(t *testing.T, servers ...*server) (n int64) {
	t.Helper()
	for _, s := range servers {
		k, err := strconv.ParseInt(s.do("DBSIZE"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	return n
}

func replayOf(t *testing.T, name string, clk clock.Clock, adapter string) sm.Stats {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 1200<<10, "LRU"
	cfg.L2Adapters = []string{adapter}
	switch name {
	case "l2-retain":
		cfg.PrefetchPolicy = "retain"
	case "skip-l1":
		cfg.StorePolicy = sm.StoreSkipL1
	}
	path := fmt.Sprintf("../../testdata/parity/%s.lct", name)
	src, err := tracefile.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m, err := sm.New(cfg, sm.Options{Clock: clk, Adapters: l2.Registry{"resp": resp.Kind, "valkey": resp.Valkey, "mock": mock.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := replay.Run(t.Context(), replay.Options{Source: src, Path: path, Manager: replay.StorageManager(m), Clock: clk}); err != nil {
		t.Fatal(err)
	}
	if v, ok := clk.(*clock.Virtual); ok { // some cycles of eviction
		if err := v.SleepUntil(t.Context(), v.Now()+int64(3*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return m.Stats()
}

// An L2 eviction policy hears of what is stored and chooses what goes.
func TestEvictionFromTheStore(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	config, err := json.Marshal(s.config("max_capacity_gb", 0.0009765625, // 1 MiB
		"eviction", map[string]any{"eviction_policy": "LRU", "trigger_watermark": 0.5, "eviction_ratio": 0.5}))
	if err != nil {
		t.Fatal(err)
	}
	got := replayOf(t, "l2-default", clock.NewVirtual(0), string(config))
	if n := size(t, s); n >= got.L2StoredKeys || n == 0 {
		t.Errorf("%d of %d stored objects are left; want some, not all", n, got.L2StoredKeys)
	}
}
