package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// The workloads in the repository.
const (
	conversation = "mooncake:../testdata/workloads/mooncake-fast25/conversation_trace.jsonl.gz"
	agentic      = "agentic:../testdata/workloads/agentic-coding/sessions_20.compact.jsonl.gz"
)

// record runs a workload on virtual time and records it into a file, with or
// without outcomes, which it returns.
func record(tb testing.TB, spec string, opt workload.Options, outcomes bool) string {
	tb.Helper()
	parsed, err := workload.ParseSpec(spec)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := parsed.Open(workload.SourceOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes = 256 << 30
	cfg.Eviction.Policy = "LRU"
	clk := clock.NewVirtual(1e18)
	path := filepath.Join(tb.TempDir(), "t.lct")
	r, err := trace.Create(path, trace.Options{Clock: clk, Overflow: trace.OverflowBlock, ConfigJSON: cfg.JSON(), NoOutcomes: !outcomes})
	if err != nil {
		tb.Fatal(err)
	}
	m, err := sm.New(cfg, sm.Options{Clock: clk, Tracer: r, Memory: sm.ScratchMemory})
	if err != nil {
		tb.Fatal(err)
	}
	opt.Manager, opt.Clock = workload.Storage(m), clk
	if _, err := workload.Run(tb.Context(), w, opt); err != nil {
		tb.Fatal(err)
	}
	if err := m.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := r.Close(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// contents counts the records of a file and the different chunk hashes in them.
func contents(tb testing.TB, path string) (records, hashes int) {
	src, err := trace.OpenNative(path, func(s string) { tb.Error(s) })
	if err != nil {
		tb.Fatal(err)
	}
	defer src.Close()
	seen := map[[kv.MaxHash]byte]struct{}{}
	note := func(keys []kv.ObjectKey) {
		for i := range keys {
			seen[keys[i].Hash] = struct{}{}
		}
	}
	var a trace.Args
	for src.Next() {
		if err := src.Args(&a); err != nil {
			tb.Fatal(err)
		}
		records++
		note(a.Keys)
		if a.Spec != nil {
			for i := range a.Spec.Groups {
				note(a.Spec.Groups[i].Keys)
			}
		}
	}
	if src.Err() != nil {
		tb.Fatal(src.Err())
	}
	return records, len(seen)
}

func fileSize(tb testing.TB, path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Size()
}

// BenchmarkSize says how many bytes a call takes on disk, and its outcome with
// the bitmap. The floor, of calls only, is 32 for each different hash and 40 for
// each record; the time is that of the simulation.
//
//	go test ./bench -run '^$' -bench '^BenchmarkSize$' -benchtime 1x
func BenchmarkSize(b *testing.B) {
	for _, w := range []struct{ name, spec string }{{"conversation", conversation}, {"agentic", agentic}} {
		b.Run("workload="+w.name, func(b *testing.B) {
			var path string
			for b.Loop() {
				path = record(b, w.spec, workload.Options{}, false)
			}
			records, hashes := contents(b, path)
			size := float64(fileSize(b, path))
			b.ReportMetric(size/float64(records), "B/record")
			b.ReportMetric(float64(hashes*32+records*40)/float64(records), "floor-B/record")
			with := float64(fileSize(b, record(b, w.spec, workload.Options{}, true)))
			b.ReportMetric((with-size)/float64(records), "outcome-B/record")
			b.ReportMetric(float64(records), "records")
		})
	}
	for _, n := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("lists=repeated/keys=%d", n), func(b *testing.B) {
			sizeAfter := func(calls int) int64 {
				path := filepath.Join(b.TempDir(), "t.lct")
				r, err := trace.Create(path, trace.Options{Overflow: trace.OverflowBlock})
				if err != nil {
					b.Fatal(err)
				}
				a := trace.Args{Keys: keyList(n, 0)}
				for range calls {
					r.Call(trace.OpFinishWrite, &a)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				return fileSize(b, path)
			}
			for b.Loop() {
				const calls = 10_000
				perCall := float64(sizeAfter(2*calls)-sizeAfter(calls)) / calls
				b.ReportMetric(perCall-32, "payload-B/record")
			}
		})
	}
}

var scope = func() kv.Scope {
	s, err := kv.InternScope("meta-llama/Llama-3.1-8B-Instruct", "")
	if err != nil {
		panic(err)
	}
	return s
}()

// keyList returns n keys of one rank, numbered from first.
func keyList(n, first int) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, n)
	for i := range keys {
		setKey(&keys[i], uint64(first+i))
	}
	return keys
}

// setKey makes k the key of a number: a hash that looks like one.
func setKey(k *kv.ObjectKey, n uint64) {
	*k = kv.ObjectKey{Scope: scope, Rank: kv.PackRank(1, 0, 1, 0), HashLen: kv.MaxHash}
	for i := range 4 {
		n += 0x9e3779b97f4a7c15 // splitmix64
		z := (n ^ n>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		for j := range 8 {
			k.Hash[i*8+j] = byte(z >> (8 * j))
		}
	}
}
