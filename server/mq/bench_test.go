package mq_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/server/wire"
)

// BenchmarkRequests has one client send requests one at a time, and with 64 in
// flight. The service does nothing, so this is what the front-end costs, and the
// client, on the same processors: cpu-µs is the processor time of both.
//
//	go test ./server/mq -run '^$' -bench '^BenchmarkRequests$' -count 6
func BenchmarkRequests(b *testing.B) {
	lookup := func(tokens int) func(*client) [][]byte {
		k := key("bench")
		k.Tokens, k.End = make([]uint32, tokens), tokens
		for i := range k.Tokens {
			k.Tokens[i] = uint32(i * 7919 % 128256)
		}
		return func(c *client) [][]byte { return c.Keyed(c.next(), wire.OpLookup, k, 1) }
	}
	for _, r := range []struct {
		name string
		make func(*client) [][]byte
	}{
		{"noop", func(c *client) [][]byte { return c.Plain(c.next(), wire.OpNoop) }},
		{"ping", func(c *client) [][]byte { return c.Ping(c.next(), 7, true) }},
		{"lookup512", lookup(512)},
		{"lookup8192", lookup(8192)},
	} {
		for _, inFlight := range []int{1, 64} {
			b.Run(fmt.Sprintf("op=%s/inflight=%d", r.name, inFlight), func(b *testing.B) {
				c := dial(b, start(b, &silent{}, mq.Options{}))
				ctx := context.Background()
				for range inFlight {
					if err := c.Post(r.make(c)...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					if _, err := c.Recv(ctx); err != nil {
						b.Fatal(err)
					}
					if err := c.Post(r.make(c)...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
				b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// silent is a fake that notes nothing.
type silent struct{ fake }

func (*silent) Lookup(*wire.Key) error { return nil }

// cpuTime returns the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
