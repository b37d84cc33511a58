package replay_test

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/logfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// cycle is a conversation's turn: one record of every operation, all due at
// once.
func cycle(t testing.TB, keys int) *source {
	src, layout, k := storageSource(), makeLayout(t), makeKeys(t, 0, keys)
	spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: k, Layout: layout, Window: kv.FullAttention}}}
	src.add(trace.OpSubmitPrefetchTask, 0, trace.Args{Spec: spec, Text: "req"})
	src.add(trace.OpReadPrefetchedEnter, 0, trace.Args{Keys: k})
	src.add(trace.OpReadPrefetchedExit, 0, trace.Args{Keys: k})
	src.add(trace.OpFinishReadPrefetched, 0, trace.Args{Keys: k, Count: 1})
	src.add(trace.OpReserveWrite, 0, trace.Args{Keys: k, Layout: layout})
	src.add(trace.OpFinishWrite, 0, trace.Args{Keys: k})
	return src
}

// idle answers at once, and allocates nothing.
type idle struct {
	writes []l1.WriteResult
	codes  []l1.Code
	res    sm.PrefetchResult
}

func (m *idle) ReserveWrite([]kv.ObjectKey, kv.Layout, kv.WriteMode) ([]l1.WriteResult, error) {
	return m.writes, nil
}
func (m *idle) FinishWrite([]kv.ObjectKey) []l1.Code { return m.codes }
func (m *idle) SubmitPrefetchTask(*kv.PrefetchSpec, string, bool) (sm.PrefetchHandle, error) {
	return sm.PrefetchHandle{}, nil
}
func (m *idle) QueryPrefetchStatus(sm.PrefetchHandle) (*sm.PrefetchResult, bool) { return &m.res, true }
func (m *idle) ReadPrefetched([]kv.ObjectKey) replay.Read                        { return m }
func (m *idle) FinishReadPrefetched([]kv.ObjectKey, int) []l1.Code               { return m.codes }
func (m *idle) Clear(bool)                                                       {}
func (m *idle) Touch([]kv.ObjectKey)                                             {}
func (m *idle) DeleteL1([]kv.ObjectKey, bool) (deleted, skipped int)             { return 0, 0 }
func (m *idle) Stats() sm.Stats                                                  { return sm.Stats{} }
func (m *idle) Codes() []l1.Code                                                 { return m.codes }
func (m *idle) Exit(error)                                                       {}

func cycleManager(t testing.TB, keys int) (*source, replay.Manager) {
	m := &idle{res: sm.PrefetchResult{Rows: []sm.PrefetchRow{{L1: bitmap(keys, 0), L2: bitmap(keys)}}}}
	for range keys {
		m.writes = append(m.writes, l1.WriteResult{Code: l1.Success})
		m.codes = append(m.codes, l1.Success)
	}
	return cycle(t, keys), m
}

// The allocations of two replays differ only by what a record costs.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	const short, long = 30_000, 60_000 // both past the change from exact values to a histogram
	run := func(cycles int) uint64 {
		src, m := cycleManager(t, 8)
		src.repeat = cycles
		opt := replay.Options{Source: src, Manager: m, Log: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelWarn}))}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		res, err := replay.Run(t.Context(), opt)
		runtime.ReadMemStats(&after)
		if err != nil || res.Records.Replayed != int64(cycles*6) {
			t.Fatalf("%+v, %v; want %d replayed", res.Records, err, cycles*6)
		}
		return after.Mallocs - before.Mallocs
	}
	a, b := run(short), run(long)
	// The runtime allocates a little of its own, and a longer run may meet more
	// distinct latencies in the histogram's listing. One in a hundred records
	// would be 1800.
	if diff := int64(b) - int64(a); diff > 200 {
		t.Errorf("%d records more cost %d allocations more; want none", (long-short)*6, diff)
	}
}

// BenchmarkRecord measures what a record costs outside of the storage manager:
// the manager here only answers. One iteration is a record of every operation.
//
//	go test ./replay -run '^$' -bench '^BenchmarkRecord$' -count 5
func BenchmarkRecord(b *testing.B) {
	for _, bm := range []struct {
		name string
		keys int
	}{{"keys=1", 1}, {"keys=16", 16}, {"keys=64", 64}} {
		b.Run(bm.name, func(b *testing.B) {
			src, m := cycleManager(b, bm.keys)
			src.repeat = b.N
			b.ReportAllocs()
			b.ResetTimer()
			begin := time.Now()
			if _, err := replay.Run(b.Context(), replay.Options{Source: src, Manager: m}); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(time.Since(begin).Nanoseconds())/float64(b.N*6), "ns/record")
		})
	}
}

// BenchmarkPacing replays records 1 ms apart.
//
//	go test ./replay -run '^$' -bench '^BenchmarkPacing$' -benchtime 3000x
func BenchmarkPacing(b *testing.B) {
	src := storageSource()
	for i := range b.N {
		src.add(trace.OpFinishWrite, float64(i+1), trace.Args{})
	}
	res, err := replay.Run(b.Context(), replay.Options{Source: src, Manager: &idle{}, Clock: clock.Real{}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(res.Lag.P50MS*1e6, "p50-late-ns")
	b.ReportMetric(res.Lag.P99MS*1e6, "p99-late-ns")
}

// BenchmarkPacingWithLog replays records 20 µs apart, whose lines go to a pipe
// that somebody reads: not logged, written by the replay itself, or by a stream.
// With 100,000 records:
//
//	go test ./replay -run '^$' -bench '^BenchmarkPacingWithLog$' -benchtime 100000x
func BenchmarkPacingWithLog(b *testing.B) {
	for _, way := range []string{"none", "call", "stream"} {
		b.Run("log="+way, func(b *testing.B) {
			src := storageSource()
			for i := range b.N {
				src.add(trace.OpFinishWrite, float64(i+1)/50, trace.Args{})
			}
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			lines := make(chan int)
			go func() {
				n := 0
				for text := bufio.NewScanner(r); text.Scan(); {
					n++
				}
				lines <- n
			}()
			opt := replay.Options{Source: src, Manager: &idle{}, Clock: clock.Real{}, Total: int64(b.N)}
			var out io.Writer = w
			var stream *logfmt.Stream
			if way == "stream" {
				stream = logfmt.NewStream(w)
				out = stream
			}
			if way != "none" {
				opt.Log = slog.New(logfmt.New(out, logfmt.Options{}))
			}
			b.ResetTimer()
			res, err := replay.Run(b.Context(), opt)
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			if stream != nil {
				if err := stream.Close(); err != nil {
					b.Fatal(err)
				}
			}
			w.Close()
			if n := <-lines; way != "none" && n < b.N {
				b.Errorf("%d lines; want %d", n, b.N)
			}
			r.Close()
			b.ReportMetric(res.Lag.P50MS*1e6, "p50-late-ns")
			b.ReportMetric(res.Lag.P99MS*1e6, "p99-late-ns")
			b.ReportMetric(res.Lag.MaxMS*1e6, "max-late-ns")
		})
	}
}
