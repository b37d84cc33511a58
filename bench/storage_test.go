package bench

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

const batch = 16 // keys a call

// populated returns a manager that holds so many objects, keys 0 to objects-1,
// with room for half as many more. Their order in the policy is shuffled: it has
// nothing to do with where they lie in any table. A cycle of eviction takes a
// share of ratio. perObject is the bytes of heap that an object costs, without
// the scratch memory that all share.
func populated(b *testing.B, objects int, ratio float64) (m *sm.Manager, layout kv.Layout, perObject float64) {
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
	const atOnce = 250 // divides the sizes in use
	keys := make([]kv.ObjectKey, atOnce)
	var first uint64 // heap with the first keys
	for at := 0; at < objects; at += atOnce {
		for i := range keys {
			setKey(&keys[i], uint64(at+i))
		}
		write(b, m, layout, keys)
		if at == 0 {
			first = heapBytes()
		}
	}
	const stride = 7_368_787 // a prime: steps of it meet every key once, in no order
	at := uint64(0)
	for range objects / atOnce {
		for i := range keys {
			setKey(&keys[i], at)
			at = (at + stride) % uint64(objects)
		}
		hit(b, m, layout, keys) // moves them to the end
	}
	if got := m.Stats().Resident; got != int64(objects) {
		b.Fatalf("%d objects; want %d", got, objects)
	}
	return m, layout, float64(heapBytes()-first) / float64(objects-atOnce)
}

func write(b *testing.B, m *sm.Manager, layout kv.Layout, keys []kv.ObjectKey) {
	res, err := m.ReserveWrite(keys, layout, kv.ModeNew)
	if err != nil {
		b.Error(err)
		return
	}
	for i := range res {
		if res[i].Code != l1.Success {
			b.Errorf("reserve: %v", res[i].Code)
			return
		}
	}
	m.FinishWrite(keys)
}

// prefetch asks for keys and returns how many are hits.
func prefetch(b *testing.B, m *sm.Manager, layout kv.Layout, keys []kv.ObjectKey) int {
	spec := kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys, Layout: layout, Window: kv.FullAttention}}}
	h, err := m.SubmitPrefetchTask(&spec, "", true)
	if err != nil {
		b.Error(err)
		return -1
	}
	res, ok := m.QueryPrefetchStatus(h)
	if !ok {
		b.Error("no result")
		return -1
	}
	return res.L1Hits
}

// hit prefetches keys, all of which are there, and releases them.
func hit(b *testing.B, m *sm.Manager, layout kv.Layout, keys []kv.ObjectKey) {
	if got := prefetch(b, m, layout, keys); got != len(keys) {
		b.Errorf("%d hits; want %d", got, len(keys))
		return
	}
	m.FinishReadPrefetched(keys, 1)
}

// BenchmarkWrite reserves and finishes 16 keys, then evicts 16, at a steady
// number of objects in shuffled order of use. ns/write, ns/evict and ns/both are
// the median call's, mean-ns/both the mean of all. B/object is what the collector
// counts for the whole manager; GC-mark-ns is the processor time that a forced
// collection marks for, GC-wall-ns how long it takes with its sweep.
//
//	go test ./bench -run '^$' -bench '^BenchmarkWrite$' -benchtime 20000x
func BenchmarkWrite(b *testing.B) {
	for _, objects := range []int{1_000_000, 10_000_000} {
		var m *sm.Manager
		var layout kv.Layout
		var perObject float64
		next := uint64(1) << 40
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) {
			if m == nil {
				m, layout, perObject = populated(b, objects, float64(batch)/float64(objects))
			}
			keys := make([]kv.ObjectKey, batch)
			var writing, evicting, both []time.Duration
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
				end := time.Now()
				writing, evicting, both = append(writing, written.Sub(start)), append(evicting, end.Sub(written)), append(both, end.Sub(start))
			}
			sum := time.Duration(0)
			for _, d := range both {
				sum += d
			}
			b.ReportMetric(median(writing), "ns/write")
			b.ReportMetric(median(evicting), "ns/evict")
			b.ReportMetric(median(both), "ns/both")
			b.ReportMetric(float64(sum.Nanoseconds())/float64(b.N), "mean-ns/both")
			b.ReportMetric(perObject, "B/object")
			mark, wall := collection()
			b.ReportMetric(mark, "GC-mark-ns")
			b.ReportMetric(wall, "GC-wall-ns")
			b.ReportMetric(0, "ns/op")
			runtime.KeepAlive(m)
		})
		m = nil
	}
}

// heapBytes returns the bytes of the objects that are alive.
func heapBytes() uint64 {
	runtime.GC()
	runtime.GC() // finalizers and pools of the first
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// collection returns the median of what five forced collections take: processor
// time of marking, and time until they return.
func collection() (mark, wall float64) {
	samples := []metrics.Sample{{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/dedicated:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"}}
	marked := func() (s float64) {
		metrics.Read(samples)
		for i := range samples {
			s += samples[i].Value.Float64()
		}
		return s
	}
	var marks, walls []time.Duration
	for range 5 {
		before, start := marked(), time.Now()
		runtime.GC()
		walls = append(walls, time.Since(start))
		marks = append(marks, time.Duration((marked()-before)*1e9))
	}
	return median(marks), median(walls)
}

// BenchmarkCall measures one call of 16 keys at a time with 100,000 objects, as
// the figures of LMCache 0.5.6 that make bench shows beside it were measured.
//
//	go test ./bench -run '^$' -bench '^BenchmarkCall$' -benchtime 20000x
func BenchmarkCall(b *testing.B) {
	const objects = 100_000
	m, layout, _ := populated(b, objects, 0.2)
	keys := make([]kv.ObjectKey, batch)
	at, next := uint64(0), uint64(1)<<40
	there := func() {
		for i := range keys {
			at = (at + 7_368_787) % objects
			setKey(&keys[i], at)
		}
	}
	fresh := func() {
		for i := range keys {
			setKey(&keys[i], next)
			next++
		}
	}
	for _, c := range []struct {
		name              string
		keys, call, after func()
	}{
		{"write", fresh, func() { write(b, m, layout, keys) }, func() {
			for i, code := range m.ReadPrefetched(keys).Codes() { // it is there
				if code != l1.KeyNotReadable {
					b.Fatalf("key %d: %v", i, code)
				}
			}
			if m.Stats().Resident > objects*14/10 {
				m.Clear(false)
				for from := uint64(0); from < objects; from += batch {
					for i := range keys {
						setKey(&keys[i], from+uint64(i))
					}
					write(b, m, layout, keys)
				}
			}
		}},
		{"hits", there, func() {
			if prefetch(b, m, layout, keys) != batch {
				b.Fatal("not all are hits")
			}
		}, func() { m.FinishReadPrefetched(keys, 1) }},
		{"misses", fresh, func() {
			if prefetch(b, m, layout, keys) != 0 {
				b.Fatal("a hit")
			}
		}, func() {}},
		{"release", func() {
			there()
			prefetch(b, m, layout, keys)
		}, func() {
			if m.FinishReadPrefetched(keys, 1)[batch-1] != l1.Success {
				b.Fatal("not released")
			}
		}, func() {}},
	} {
		b.Run("op="+c.name, func(b *testing.B) {
			var took time.Duration
			for b.Loop() {
				c.keys()
				start := time.Now()
				c.call()
				took += time.Since(start)
				c.after()
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/call")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkCallers measures callers at work at once on 1 M objects: with
// op=hits each prefetches 16 keys and releases them, with op=write it writes 16
// new keys and deletes as many by an eviction, with op=both it does the first
// four times and the second once. ns/op is per call of any of them, as is
// cpu-ns/op, the processor time: two callers with two cores to themselves are
// twice as fast as one if that stays what it was and none waits for the other.
//
//	go test ./bench -run '^$' -bench '^BenchmarkCallers$' -benchtime 60000x
func BenchmarkCallers(b *testing.B) {
	const objects = 1_000_000
	m, layout, _ := populated(b, objects, float64(batch)/objects)
	var next atomic.Uint64
	next.Store(1 << 40)
	for _, op := range []string{"hits", "write", "both"} {
		for _, callers := range []int{1, 2} {
			b.Run(fmt.Sprintf("op=%s/callers=%d", op, callers), func(b *testing.B) {
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ResetTimer()
				before := processorTime()
				var wg sync.WaitGroup
				for c := range callers {
					wg.Go(func() {
						keys := make([]kv.ObjectKey, batch)
						at := uint64(c) * objects / 2
						for n := 0; left.Add(-1) >= 0; n++ {
							if op == "hits" || op == "both" && n%5 > 0 {
								for i := range keys { // some keys of the hot end, which no eviction here comes to
									at = (at + 7_368_787) % objects
									setKey(&keys[i], at)
								}
								prefetch(b, m, layout, keys)
								m.FinishReadPrefetched(keys, 1)
								continue
							}
							for i := range keys {
								setKey(&keys[i], next.Add(1))
							}
							write(b, m, layout, keys)
							m.EvictOnce()
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// processorTime returns what the process has used, in ns.
func processorTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return t.Nano()
}

// BenchmarkEviction measures calls, each a reserve and finish of one key, every
// 20 µs while a cycle evicts 20 % of the objects, and as many without. An
// iteration is one cycle; the percentiles are the median cycle's, so that one
// stall of the machine does not decide.
//
//	go test ./bench -run '^$' -bench '^BenchmarkEviction$' -benchtime 5x
func BenchmarkEviction(b *testing.B) {
	for _, objects := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("objects=%d", objects), func(b *testing.B) { benchmarkEviction(b, objects) })
	}
}

func benchmarkEviction(b *testing.B, objects int) {
	m, layout, _ := populated(b, objects, 0.2)
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
	b.ReportMetric(float64(cycle.Nanoseconds())/float64(b.N), "ns/cycle")
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

func median[T time.Duration | float64](list []T) float64 {
	slices.Sort(list)
	return float64(list[len(list)/2])
}
