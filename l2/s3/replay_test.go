package s3_test

import (
	"fmt"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/l2/s3"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// Recordings of LMCache replayed on a real server: on virtual time every count
// is that of the store in memory; on the machine's the objects are in the bucket
// afterwards, and a second replay finds them.
func TestReplay(t *testing.T) {
	g := newGateway(t)
	for _, name := range []string{"l2-default", "l2-retain", "grid-l2", "skip-l1", "staged-and-loaded"} {
		t.Run(name, func(t *testing.T) {
			bucket := g.bucket(t)
			onS3 := string(g.config(bucket, nil))
			want := replayOf(t, name, clock.NewVirtual(0), `{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 100000}`, sm.RealMemory)
			if got := replayOf(t, name, clock.NewVirtual(0), onS3, sm.RealMemory); got != want {
				t.Errorf("on virtual time:\n got %+v\nwant %+v", got, want)
			}
			if got := int64(len(g.objects(t, bucket))); got != want.L2StoredKeys || got == 0 {
				t.Errorf("%d objects in the bucket; want %d", got, want.L2StoredKeys)
			}
			again := g.bucket(t)
			first := replayOf(t, name, clock.Real{}, string(g.config(again, nil)), sm.ScratchMemory)
			if got := int64(len(g.objects(t, again))); got < first.L2StoredKeys || got == 0 { // Close waits for what was still being stored
				t.Errorf("%d objects in the bucket; want at least the %d that were stored", got, first.L2StoredKeys)
			}
			before := len(g.objects(t, again))
			second := replayOf(t, name, clock.Real{}, string(g.config(again, nil)), sm.ScratchMemory)
			if got := int64(len(g.objects(t, again))); second.L2StoredKeys > got-int64(before) {
				t.Errorf("the second replay stored %d objects, and there are %d more", second.L2StoredKeys, got-int64(before))
			}
		})
	}
}

func replayOf(t *testing.T, name string, clk clock.Clock, adapter string, memory sm.Memory) sm.Stats {
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
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: memory, Adapters: l2.Registry{"s3": s3.Kind, "mock": mock.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := replay.Run(t.Context(), replay.Options{Source: src, Path: path, Manager: replay.StorageManager(m), Clock: clk}); err != nil {
		t.Fatal(err)
	}
	return m.Stats()
}
