package lct_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// synthetic returns a file of n records of 32 keys each, as a server writes
// them: for each chunk list a prefetch, a reservation, its end, a release.
func synthetic(t testing.TB, era lct.Era, n int) []byte {
	const keys = 32
	h := trace.Header{Level: trace.LevelStorage, SchemaVersion: era.SchemaVersion(), MonoStartNS: 86400500000000, WallStartNS: 1776470400250000000}
	b, err := lct.AppendHeader(nil, &h)
	if err != nil {
		t.Fatal(err)
	}
	layout := layoutOf(t, 2, 32, 256, 1024)
	ops := []trace.Op{trace.OpSubmitPrefetchTask, trace.OpReserveWrite, trace.OpFinishWrite, trace.OpFinishReadPrefetched}
	for i := range n {
		list := make([]kv.ObjectKey, keys)
		for k := range list {
			list[k] = key(t, i/len(ops)*keys+k, kv.PackRank(1, 0, 1, 0), 0, "")
		}
		op := ops[i%len(ops)]
		a := trace.Args{Keys: list, Layout: layout, Count: 1}
		if op == trace.OpSubmitPrefetchTask {
			a = trace.Args{Text: fmt.Sprint("req-", i), Spec: &kv.PrefetchSpec{Readers: 1,
				Groups: []kv.KeyGroup{{Keys: list, Layout: layout, Window: kv.FullAttention}}}}
		}
		rec := trace.Record{Op: op, Qualname: op.String(), MonoNS: int64(i) * 1e6, WallNS: h.WallStartNS + int64(i)*1e6}
		if b, _, err = lct.AppendRecord(b, era, &h, &rec, &a); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// BenchmarkReader decodes records of 32 keys with all arguments.
//
//	go test ./trace/lct -run '^$' -bench '^BenchmarkReader$' -count 10 | tee new.txt
//	go tool benchstat -col /era new.txt
func BenchmarkReader(b *testing.B) {
	for name, era := range map[string]lct.Era{"E1": lct.E1, "E6": lct.E6} {
		b.Run("era="+name, func(b *testing.B) {
			const records = 4000
			data := synthetic(b, era, records)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			var a trace.Args
			for b.Loop() {
				r, err := lct.NewReader(data, "bench", nil)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for r.Next() {
					if err := r.Args(&a); err != nil {
						b.Fatal(err)
					}
					n++
				}
				if n != records {
					b.Fatalf("%d records", n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
		})
	}
}

// BenchmarkSummarize checks every frame, and decodes no argument.
func BenchmarkSummarize(b *testing.B) {
	const records = 4000
	data := synthetic(b, lct.E6, records)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := lct.NewReader(data, "bench", nil)
		if err != nil {
			b.Fatal(err)
		}
		if s, err := r.Summarize(); err != nil || s.Records != records {
			b.Fatalf("got %+v, %v", s, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
}

// TestNoGarbage checks that reading allocates nothing in steady state but a
// request id that differs from the last.
func TestNoGarbage(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	for _, name := range []string{"real-0.4.6.lct", "real-0.5.5.lct", "real-0.5.6.lct", "real-0.5.7rc2.lct"} {
		// The same file twenty times over, less the headers.
		one := file(t, name)
		r, err := lct.Open(filepath.Join(vectors, name), nil)
		if err != nil || !r.Next() {
			t.Fatal(err)
		}
		records := one[r.Record().Offset:]
		data := append([]byte(nil), one...)
		for range 20 {
			data = append(data, records...)
		}
		if r, err = lct.NewReader(data, name, nil); err != nil {
			t.Fatal(err)
		}
		var a trace.Args
		ids := 0
		pass := func() {
			ids = 0
			for range 22 {
				if !r.Next() {
					t.Fatalf("%s: ended too early", name)
				}
				if err := r.Args(&a); err != nil {
					t.Fatal(err)
				}
				if a.Text != "" || r.Record().Op == trace.OpSubmitPrefetchTask {
					ids++
				}
			}
		}
		pass()
		pass()
		if got := testing.AllocsPerRun(10, pass); got > float64(ids)+2 {
			t.Errorf("%s: %v allocations for 22 records with %d request ids", name, got, ids)
		}
	}
}
