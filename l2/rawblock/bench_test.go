package rawblock

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

// BenchmarkTasks stores, looks up and loads 64 objects of 1 MiB a task, beside
// plain positioned writes and reads of the same bytes in one file.
//
//	go test ./l2/rawblock -run '^$' -bench Tasks -benchtime 20x
func BenchmarkTasks(b *testing.B) {
	const n, size = 64, 1 << 20
	const fields = `"slot_bytes": 1052672, "capacity_bytes": 134217728, "meta_total_bytes": 4194304`
	var objects []l2.Object
	for i := range n {
		objects = append(objects, l2test.Object(l2test.Key(b, i, "m", ""), size))
		buf, err := newBuffer(size) // aligned, as L1 is
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = unmap(buf) }()
		copy(buf, objects[i].Bytes)
		objects[i].Bytes = buf
	}
	keys := l2test.Keys(objects...)
	for _, c := range []struct{ how, more string }{{"direct", ``}, {"cached", `, "use_odirect": false`}, {"cached-copied", `, "use_odirect": false, "enable_zero_copy": false`}} {
		r := l2test.NewRig(b, false, opener(filepath.Join(b.TempDir(), "device"), fields+c.more), false)
		b.Run(fmt.Sprintf("how=%s/op=store", c.how), func(b *testing.B) {
			b.SetBytes(n * size)
			for range b.N {
				b.StopTimer()
				r.Delete(keys)
				b.StartTimer()
				r.MustStore(objects...)
			}
		})
		b.Run(fmt.Sprintf("how=%s/op=lookup", c.how), func(b *testing.B) {
			for range b.N {
				r.Lookup(keys...)
				r.Unlock(keys)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
		})
		b.Run(fmt.Sprintf("how=%s/op=load", c.how), func(b *testing.B) {
			b.SetBytes(n * size)
			for range b.N {
				if r.Load(objects...).Count() != n {
					b.Fatal("misses")
				}
			}
		})
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.Run("how=plain/op=store", func(b *testing.B) {
		b.SetBytes(n * size)
		for range b.N {
			for i := range objects {
				if _, err := f.WriteAt(objects[i].Bytes, int64(i*size)); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("how=plain/op=load", func(b *testing.B) {
		b.SetBytes(n * size)
		for range b.N {
			for i := range objects {
				if _, err := f.ReadAt(objects[i].Bytes, int64(i*size)); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
