package trace

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"
)

// TestRecordAndRead records random calls of every operation to a file and reads
// them back.
func TestRecordAndRead(t *testing.T) {
	const calls = 5000
	path := filepath.Join(t.TempDir(), "t.lct")
	r, err := Create(path, Options{RingDir: t.TempDir(), Overflow: OverflowBlock, RingBytes: 1 << 16, ConfigJSON: "{}"})
	if err != nil {
		t.Fatal(err)
	}
	g := newCallGen(1)
	want := make([]Args, calls)
	for i := range want {
		op := Op(1 + i%(int(numOps)-1))
		a := g.call(op)
		r.Call(op, a)
		want[i] = plain(a)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := OpenNative(path, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var a Args
	i := 0
	for ; src.Next(); i++ {
		rec := src.Record()
		if op := Op(1 + i%(int(numOps)-1)); rec.Seq != uint64(i) || rec.Op != op {
			t.Fatalf("record %d: got %v, number %d; want %v", i, rec.Op, rec.Seq, op)
		}
		if err := src.Args(&a); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if got := plain(&a); !reflect.DeepEqual(got, want[i]) {
			t.Fatalf("record %d, %v:\ngot  %+v %+v\nwant %+v %+v", i, rec.Op, got, got.Spec, want[i], want[i].Spec)
		}
	}
	if err := src.Err(); err != nil || i != calls {
		t.Fatalf("read %d records, %v; want %d", i, err, calls)
	}
}

// BenchmarkSustained records with two producers and the drain into a file, and
// loses nothing. DESIGN: at least 8 M calls/s of one key, 1 M of 32.
//
//	go test ./trace -run '^$' -bench '^BenchmarkSustained$' -benchtime 2000000x
func BenchmarkSustained(b *testing.B) {
	for _, keys := range []int{1, 32} {
		for _, out := range []struct{ name, dir string }{{"shm", "/dev/shm"}, {"tmp", os.TempDir()}} {
			b.Run(fmt.Sprintf("keys=%d/out=%s", keys, out.name), func(b *testing.B) {
				dir, err := os.MkdirTemp(out.dir, "lmcache-bench-*")
				if err != nil {
					b.Skipf("no folder %s to write to: %v", out.dir, err)
				}
				defer os.RemoveAll(dir)
				r, err := Create(filepath.Join(dir, "t.lct"), Options{Overflow: OverflowBlock})
				if err != nil {
					b.Fatal(err)
				}
				a := benchCall(keys)
				start := time.Now()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for range b.N / 2 {
							r.Call(OpFinishWrite, a)
						}
					})
				}
				wg.Wait()
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				if got := r.Stats(); got.Dropped > 0 {
					b.Fatalf("%+v", got)
				}
				b.ReportMetric(float64(b.N)/time.Since(start).Seconds()/1e6, "Mcalls/s")
			})
		}
	}
}
