package resp_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/resp"
)

// BenchmarkTransfer moves 64 MiB a round to and from a real server: by this
// adapter, and as the floor by the plain client, from as many goroutines, in
// pipelines of the same bytes.
//
//	go test ./l2/resp -run '^$' -bench Transfer -benchtime 20x
func BenchmarkTransfer(b *testing.B) {
	const total, workers, pipeline = 64 << 20, 8, 4 << 20
	for _, size := range []int{64 << 10, 1 << 20, 8 << 20} {
		s := newServer(b, redisPrograms)
		objects := make([]l2.Object, total/size)
		for i := range objects {
			objects[i] = object(i, size)
		}
		bench := func(op, by string, prepare, run func() error) {
			b.Run(fmt.Sprintf("op=%s/size=%dKiB/by=%s", op, size>>10, by), func(b *testing.B) {
				b.SetBytes(total)
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					err := prepare()
					b.StartTimer()
					if err == nil {
						err = run()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(objects)*b.N)/b.Elapsed().Seconds(), "objects/s")
			})
		}
		flush := func() error { s.do("FLUSHALL"); return nil }
		nothing := func() error { return nil }

		r := mustOpen(b, resp.Kind, s.config("num_workers", workers))
		bench("store", "adapter", flush, func() error { return r.store(objects).Err })
		bench("load", "adapter", nothing, func() error {
			if got := r.SubmitLoad(objects); got == 0 {
				return nil
			} else {
				r.wait("load", func() bool {
					bits, ok := r.QueryLoad(got)
					if ok && bits.Count() != len(objects) {
						b.Fatalf("%d of %d objects", bits.Count(), len(objects))
					}
					return ok
				})
			}
			return nil
		})

		c := redis.NewClient(&redis.Options{Addr: s.addr, PoolSize: workers})
		b.Cleanup(func() { _ = c.Close() })
		parts := func(send func(p redis.Pipeliner, o l2.Object)) error {
			ctx := context.Background()
			work := make(chan []l2.Object, len(objects))
			for rest := objects; len(rest) > 0; {
				n := min(len(rest), max(1, pipeline/size))
				work <- rest[:n]
				rest = rest[n:]
			}
			close(work)
			var wg sync.WaitGroup
			errs := make(chan error, workers)
			for range workers {
				wg.Go(func() {
					for part := range work {
						p := c.Pipeline()
						for _, o := range part {
							send(p, o)
						}
						if _, err := p.Exec(ctx); err != nil {
							errs <- err
							return
						}
					}
				})
			}
			wg.Wait()
			close(errs)
			return <-errs
		}
		bench("store", "client", flush, func() error {
			return parts(func(p redis.Pipeliner, o l2.Object) {
				p.Set(context.Background(), o.Key.String(), o.Bytes, 0)
			})
		})
		bench("load", "client", nothing, func() error {
			return parts(func(p redis.Pipeliner, o l2.Object) { p.Get(context.Background(), o.Key.String()) })
		})
	}
}

// BenchmarkLookup asks for 256 keys a round, half of them there.
//
//	go test ./l2/resp -run '^$' -bench Lookup
func BenchmarkLookup(b *testing.B) {
	s := newServer(b, redisPrograms)
	r := mustOpen(b, resp.Kind, s.config())
	var there []l2.Object
	var ns []int
	for n := range 256 {
		if n%2 == 0 {
			there = append(there, object(n, 100))
		}
		ns = append(ns, n)
	}
	if res := r.store(there); res.Err != nil {
		b.Fatal(res.Err)
	}
	all := keys(ns...)
	b.ReportAllocs()
	for b.Loop() {
		r.lookup(all...)
		r.Unlock(all)
	}
	b.ReportMetric(float64(256*b.N)/b.Elapsed().Seconds(), "keys/s")
}
