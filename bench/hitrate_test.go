package bench

import (
	"fmt"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/sm"
)

// BenchmarkHitRate says how many percent of the chunks that an hour of chat
// traffic looks up are hits, under every policy in an L1 of three sizes. It runs
// on virtual time; nothing is below L1.
//
//	go test ./bench -run '^$' -bench '^BenchmarkHitRate$' -benchtime 1x
func BenchmarkHitRate(b *testing.B) {
	for _, gib := range []int64{256, 1024, 4096} {
		for _, policy := range sm.EvictionPolicies {
			b.Run(fmt.Sprintf("l1=%dGiB/policy=%s", gib, policy), func(b *testing.B) {
				for b.Loop() {
					hits, evicted := hitRate(b, gib<<30, policy)
					b.ReportMetric(hits, "hit-%")
					b.ReportMetric(float64(evicted), "evicted-keys")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func hitRate(tb testing.TB, bytes int64, policy string) (percent float64, evicted int64) {
	spec, err := workload.ParseSpec(conversation)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := spec.Open(workload.SourceOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = bytes, policy
	clk := clock.NewVirtual(0)
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory})
	if err != nil {
		tb.Fatal(err)
	}
	defer m.Close()
	r, err := workload.Run(tb.Context(), w, workload.Options{Manager: workload.Storage(m), Clock: clk})
	if err != nil {
		tb.Fatal(err)
	}
	return 100 * float64(r.HitChunks) / float64(r.Chunks), r.Storage.EvictedKeys
}
