package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

// BenchmarkTasks stores, looks up and loads 64 objects a task, beside plain
// writes and reads of the same bytes by one goroutine. The page cache has them.
//
//	go test ./l2/fs -run '^$' -bench Tasks -benchtime 20x
func BenchmarkTasks(b *testing.B) {
	const n = 64
	round := 0
	for _, size := range []int{64 << 10, 1 << 20} {
		var objects []l2.Object
		for i := range n {
			objects = append(objects, l2test.Object(l2test.Key(b, i, "m", ""), size))
		}
		into, keys := l2test.Blank(objects...), l2test.Keys(objects...)
		name := func(how, what string) string { return fmt.Sprintf("how=%s/op=%s/bytes=%d", how, what, size) }
		for _, c := range []struct{ how, more string }{{"fs", ``}, {"fs-direct", `, "use_odirect": true`}} {
			r := l2test.NewRig(b, false, opener(false, b.TempDir(), c.more), false)
			b.Run(name(c.how, "store"), func(b *testing.B) {
				b.SetBytes(int64(n * size))
				for range b.N {
					b.StopTimer() // new files: ext4 is slow to make what was removed a moment ago
					for j := range objects {
						objects[j].Key = l2test.Key(b, j, fmt.Sprint(round), "")
					}
					round++
					b.StartTimer()
					r.MustStore(objects...)
				}
				keys = l2test.Keys(objects...)
				for j := range into {
					into[j].Key = keys[j]
				}
			})
			b.Run(name(c.how, "lookup"), func(b *testing.B) {
				for range b.N {
					r.Unlock(keys)
					r.Lookup(keys...)
				}
				r.Unlock(keys)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
			})
			b.Run(name(c.how, "load"), func(b *testing.B) {
				b.SetBytes(int64(n * size))
				for range b.N {
					if r.Load(into...).Count() != n {
						b.Fatal("misses")
					}
				}
			})
		}
		folder, files := b.TempDir(), 0
		path := func(i int) string { return filepath.Join(folder, fmt.Sprint(i)) }
		b.Run(name("plain", "store"), func(b *testing.B) {
			b.SetBytes(int64(n * size))
			files = 0
			for range b.N {
				for i := range n {
					files++
					if err := os.WriteFile(path(files), objects[i].Bytes, 0o666); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(name("plain", "load"), func(b *testing.B) {
			b.SetBytes(int64(n * size))
			for range b.N {
				for i := range n {
					f, err := os.Open(path(files - i))
					if err != nil {
						b.Fatal(err)
					}
					if _, err := f.ReadAt(into[i].Bytes, 0); err != nil {
						b.Fatal(err)
					}
					f.Close()
				}
			}
		})
	}
}
