package trace

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkTail measures the tail of a traced call while a recorder writes to a
// file, one call every 5 µs, beside that of two bare clock readings. Blocks of
// 20,000 samples of either take turns, so that both meet the same machine; an
// iteration is one block of each.
//
//	go test ./trace -run '^$' -bench '^BenchmarkTail$' -benchtime 10x
func BenchmarkTail(b *testing.B) {
	const (
		block   = 20_000
		spacing = 5 * time.Microsecond
	)
	r, err := Create(filepath.Join(b.TempDir(), "t.lct"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	a := benchCall(1)
	start := time.Now()
	var floor, call []time.Duration
	measure := func(into []time.Duration, f func()) []time.Duration {
		into = slices.Grow(into, block)
		due := time.Since(start)
		for range block {
			for due += spacing; time.Since(start) < due; {
			}
			before := time.Since(start)
			f()
			into = append(into, time.Since(start)-before)
		}
		return into
	}
	for b.Loop() {
		floor = measure(floor, func() {})
		call = measure(call, func() { r.Call(OpFinishWrite, a) })
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	if got := r.Stats(); got.Dropped > 0 {
		b.Fatalf("%+v", got)
	}
	slices.Sort(floor)
	slices.Sort(call)
	for name, per10k := range map[string]int{"p50": 5000, "p99": 9900, "p99.9": 9990, "p99.99": 9999} {
		at := len(call) * per10k / 10_000
		b.ReportMetric(float64(call[at]), name+"-call-ns")
		b.ReportMetric(float64(floor[at]), name+"-floor-ns")
	}
	b.ReportMetric(float64(call[len(call)-1]), "max-call-ns")
	b.ReportMetric(float64(floor[len(floor)-1]), "max-floor-ns")
	b.ReportMetric(0, "ns/op")
}
