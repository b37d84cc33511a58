package bench

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

// BenchmarkPolicyCost fills an L1 of 200,000 objects with prompts of 256 chunks,
// written 16 at a time, looks old ones up, and evicts a fifth, until every object
// has been replaced three times. It says what a resident object costs in memory
// beside its bytes (key, hash, locks, policy and allocator), and what a write of
// 16 keys and an evicted key cost in time. An iteration is all of that.
//
//	go test ./bench -run '^$' -bench '^BenchmarkPolicyCost$' -benchtime 1x
func BenchmarkPolicyCost(b *testing.B) {
	for _, policy := range sm.EvictionPolicies {
		if policy == "noop" { // nothing leaves
			continue
		}
		b.Run("policy="+policy, func(b *testing.B) {
			for b.Loop() {
				policyCost(b, policy)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func policyCost(b *testing.B, policy string) {
	const objects, prompt, rounds, ratio = 200_000, 256, 4, 0.2
	dtype, _ := kv.ParseDType("uint8")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{4096}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		b.Fatal(err)
	}
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes = objects * layout.Bytes()
	cfg.Eviction = sm.EvictionConfig{Policy: policy, Watermark: 0, Ratio: ratio}
	m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory, ManualEviction: true})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	keys := make([]kv.ObjectKey, prompt)
	var writing, evicting time.Duration
	writes, evicted, most := 0, 0, int64(0)
	fillPrompt(keys, rounds*objects)
	write(b, m, layout, keys) // gets the memory that all objects share
	before := heap()
	for p := range rounds * objects / prompt {
		fillPrompt(keys, p)
		for chunk := range slices.Chunk(keys, batch) {
			resident := m.Stats().Resident
			most = max(most, resident)
			if resident+batch > objects*49/50 {
				start := time.Now()
				evicted += len(m.EvictOnce())
				evicting += time.Since(start)
			}
			start := time.Now()
			write(b, m, layout, chunk)
			writing += time.Since(start)
			writes++
		}
		if p%4 == 0 { // what was written a while ago is asked for again
			fillPrompt(keys, p*7/8)
			spec := kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys, Layout: layout, Window: kv.FullAttention}}}
			h, err := m.SubmitPrefetchTask(&spec, "", true)
			if err != nil {
				b.Fatal(err)
			}
			res, ok := m.QueryPrefetchStatus(h)
			if !ok {
				b.Fatal("no result")
			}
			if res.L1Hits > 0 {
				m.FinishReadPrefetched(keys[:res.L1Hits], 1)
			}
		}
	}
	b.ReportMetric(float64(heap()-before)/float64(most), "B/object")
	b.ReportMetric(float64(writing.Nanoseconds())/float64(writes), "ns/write")
	b.ReportMetric(float64(evicting.Nanoseconds())/float64(evicted), "ns/evicted")
	runtime.KeepAlive(m)
}

// fillPrompt makes keys the chunks of prompt p.
func fillPrompt(keys []kv.ObjectKey, p int) {
	for i := range keys {
		setKey(&keys[i], uint64(p*len(keys)+i))
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
