package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

// BenchmarkStore and BenchmarkLoad move objects between memory and a server on
// this machine: way=adapter through the adapter, way=plain with a loop of PUTs
// or GETs of the same client on as many goroutines, which is the floor.
//
//	make tools && go test ./l2/s3 -run '^$' -bench . -benchtime 10x
func BenchmarkStore(b *testing.B) { benchmark(b, true) }

func BenchmarkLoad(b *testing.B) { benchmark(b, false) }

const benchThreads = 16

func benchmark(b *testing.B, store bool) {
	g := newGateway(b)
	for _, size := range []int{64 << 10, 1 << 20, 8 << 20} {
		n := min(256, 256<<20/size/2)
		objects := many(b, n, size)
		for _, way := range []string{"plain", "adapter"} {
			b.Run(fmt.Sprintf("size=%d/way=%s", size, way), func(b *testing.B) {
				bucket := g.bucket(b)
				r := l2test.NewRig(b, false, g.open(bucket, map[string]any{"s3_num_io_threads": benchThreads}), false)
				client := g.client(b)
				if !store {
					r.MustStore(objects...)
				}
				empty := func() {
					b.StopTimer()
					if got := r.Delete(l2test.Keys(objects...)); got != n {
						b.Fatalf("deleted %d", got)
					}
					b.StartTimer()
				}
				b.SetBytes(int64(n * size))
				b.ReportAllocs()
				for b.Loop() {
					switch {
					case store && way == "plain":
						each(b, objects, func(o l2.Object) error {
							_, err := client.PutObject(b.Context(), bucket, o.Key.String(), bytes.NewReader(o.Bytes), int64(size), "", "",
								minio.PutObjectOptions{DisableContentSha256: true})
							return err
						})
						empty()
					case store:
						b.StopTimer()
						r.Lookup(l2test.Keys(objects...)...) // as a storage manager does before it stores
						b.StartTimer()
						if res := r.Store(objects...); res.Err != nil || res.Keys != n {
							b.Fatalf("store: %+v", res)
						}
						empty()
					case way == "plain":
						each(b, objects, func(o l2.Object) error {
							body, _, _, err := client.GetObject(b.Context(), bucket, o.Key.String(), minio.GetObjectOptions{})
							if err != nil {
								return err
							}
							defer body.Close()
							_, err = io.ReadFull(body, o.Bytes)
							return err
						})
					default:
						if loaded := r.Load(objects...); loaded.Count() != n {
							b.Fatalf("loaded %v", loaded)
						}
					}
				}
			})
		}
	}
}

// each calls f for every object on benchThreads goroutines.
func each(b *testing.B, objects []l2.Object, f func(l2.Object) error) {
	var wg sync.WaitGroup
	next := make(chan l2.Object)
	for range benchThreads {
		wg.Go(func() {
			for o := range next {
				if err := f(o); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, o := range objects {
		next <- o
	}
	close(next)
	wg.Wait()
}
