package bench

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// large adds the sizes that need gigabytes and most of a minute.
var large = flag.Bool("large", false, "also measure a storage manager with 10 M objects")

const batch = 16 // keys a call

// populated returns a manager that holds so many objects, whose order in the
// policy is shuffled, with room for half as many more. A cycle of eviction takes
// a share of ratio.
func populated(b *testing.B, objects int, ratio float64) (m *sm.Manager, layout kv.Layout) {
	b.Helper()
	dtype, ok := kv.ParseDType("bfloat16")
	if !ok {
		b.Fatal("no bfloat16")
	}
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{2, 1, 64, 256}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		b.Fatal(err)
	}
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes = int64(objects) * 3 / 2 * layout.Bytes()
	cfg.Eviction = sm.EvictionConfig{Policy: "LRU", Watermark: 0.01, Ratio: ratio}
	m, err = sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory, ManualEviction: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	keys := make([]kv.ObjectKey, batch)
	for at := 0; at < objects; at += batch {
		for i := range keys {
			setKey(&keys[i], uint64(at+i))
		}
		write(b, m, layout, keys)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	spec := kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys, Layout: layout, Window: kv.FullAttention}}}
	for range objects / batch * 2 { // a hit moves a key to the end
		for i := range keys {
			setKey(&keys[i], uint64(rng.IntN(objects)))
		}
		h, err := m.SubmitPrefetchTask(&spec, "", true)
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := m.QueryPrefetchStatus(h); !ok {
			b.Fatal("no result")
		}
		m.FinishReadPrefetched(keys, 1)
	}
	if got := m.Stats().Resident; got != int64(objects) {
		b.Fatalf("%d objects; want %d", got, objects)
	}
	return m, layout
}

func write(b *testing.B, m *sm.Manager, layout kv.Layout, keys []kv.ObjectKey) {
	res, err := m.ReserveWrite(keys, layout, kv.ModeNew)
	if err != nil {
		b.Fatal(err)
	}
	for i := range res {
		if res[i].Code != l1.Success {
			b.Fatalf("reserve: %v", res[i].Code)
		}
	}
	m.FinishWrite(keys)
}

// BenchmarkWrite reserves and finishes 16 keys, then evicts 16, at a steady
// number of objects in shuffled order of use.
//
//	go test ./bench -run '^$' -bench '^BenchmarkWrite$' -benchtime 20000x -large
func BenchmarkWrite(b *testing.B) {
	sizes := []int{1_000_000}
	if *large {
		sizes = append(sizes, 10_000_000)
	}
	for _, objects := range sizes {
		var m *sm.Manager
		var layout kv.Layout
		next := uint64(1) << 40
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) {
			if m == nil {
				m, layout = populated(b, objects, float64(batch)/float64(objects))
			}
			keys := make([]kv.ObjectKey, batch)
			var writing, evicting time.Duration
			b.ReportAllocs()
			for b.Loop() {
				for i := range keys {
					setKey(&keys[i], next)
					next++
				}
				start := time.Now()
				write(b, m, layout, keys)
				written := time.Now()
				if got := len(m.EvictOnce()); got < batch-1 || got > batch+1 {
					b.Fatalf("evicted %d", got)
				}
				writing, evicting = writing+written.Sub(start), evicting+time.Since(written)
			}
			b.ReportMetric(float64(writing.Nanoseconds())/float64(b.N), "ns/write")
			b.ReportMetric(float64(evicting.Nanoseconds())/float64(b.N), "ns/evict")
			b.ReportMetric(float64((writing+evicting).Nanoseconds())/float64(b.N), "ns/both")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkEviction measures calls, each a reserve and finish of one key, every
// 20 µs while a cycle evicts 20 % of 1 M objects, and as many without. An
// iteration is one cycle; the percentiles are the median cycle's, so that one
// stall of the machine does not decide.
//
//	go test ./bench -run '^$' -bench '^BenchmarkEviction$' -benchtime 5x
func BenchmarkEviction(b *testing.B) {
	const objects, ratio = 1_000_000, 0.2
	m, layout := populated(b, objects, ratio)
	next := uint64(1) << 40
	keys := make([]kv.ObjectKey, 1)
	waits := map[string]*waits{"quiet": {}, "evicting": {}}
	var cycle time.Duration
	calls := 0
	call := func(into []time.Duration) []time.Duration {
		setKey(&keys[0], next)
		next++
		start := time.Now()
		write(b, m, layout, keys)
		took := time.Since(start)
		for time.Since(start) < 20*time.Microsecond {
		}
		return append(into, took)
	}
	b.ResetTimer()
	for range b.N {
		var ended atomic.Bool
		evicted := make(chan int)
		go func() {
			start := time.Now()
			n := len(m.EvictOnce())
			cycle += time.Since(start)
			ended.Store(true)
			evicted <- n
		}()
		var quiet, busy []time.Duration
		for !ended.Load() {
			busy = call(busy)
		}
		n := <-evicted
		if n < objects/6 {
			b.Fatalf("evicted %d", n)
		}
		for range len(busy) {
			quiet = call(quiet)
		}
		b.StopTimer()
		calls += len(busy)
		waits["quiet"].cycle(quiet)
		waits["evicting"].cycle(busy)
		refill := make([]kv.ObjectKey, batch)
		for range (n - 2*len(busy)) / batch {
			for i := range refill {
				setKey(&refill[i], next)
				next++
			}
			write(b, m, layout, refill)
		}
		b.StartTimer()
	}
	for name, w := range waits {
		b.ReportMetric(median(w.p9999), "p99.99-"+name+"-ns")
		b.ReportMetric(median(w.max), "max-"+name+"-ns")
	}
	b.ReportMetric(cycle.Seconds()*1e3/float64(b.N), "ms/cycle")
	b.ReportMetric(float64(calls)/float64(b.N), "calls/cycle")
	b.ReportMetric(0, "ns/op")
}

// waits has what calls waited at the worst, one of each a cycle.
type waits struct{ p9999, max []time.Duration }

func (w *waits) cycle(list []time.Duration) {
	slices.Sort(list)
	w.p9999 = append(w.p9999, list[len(list)*9999/10_000])
	w.max = append(w.max, list[len(list)-1])
}

func median(list []time.Duration) float64 {
	slices.Sort(list)
	return float64(list[len(list)/2])
}
