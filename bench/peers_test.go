package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	rtrace "runtime/trace"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
)

// lockedFile is the recorder that one would write first: a lock, a buffer, the
// same facts in the same frame header.
type lockedFile struct {
	mu    sync.Mutex
	out   *bufio.Writer
	frame []byte
	start time.Time
}

func (f *lockedFile) call(op trace.Op, keys []kv.ObjectKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	b := f.frame[:0]
	b = binary.LittleEndian.AppendUint32(b, uint32(len(keys)*kv.MaxHash))
	b = binary.LittleEndian.AppendUint32(b, uint32(op))
	b = binary.LittleEndian.AppendUint64(b, uint64(now.Sub(f.start)))
	b = binary.LittleEndian.AppendUint64(b, uint64(now.UnixNano()))
	for i := range keys {
		b = append(b, keys[i].Hash[:]...)
	}
	f.frame = b
	_, _ = f.out.Write(b) // to io.Discard
}

// BenchmarkPeer records a call with what else there is: runtime/trace with one
// log message or region a call, zerolog with the hashes as hex, a lock and a
// buffer. All write to nowhere. Ours is trace.BenchmarkTracedCall.
//
//	go test ./bench -run '^$' -bench '^BenchmarkPeer$' -count 6
func BenchmarkPeer(b *testing.B) {
	ctx := context.Background()
	logger := zerolog.New(io.Discard).With().Timestamp().Logger()
	qualname := trace.OpFinishWrite.String()
	for _, n := range []int{1, 32} {
		keys := keyList(n, 0)
		file := lockedFile{out: bufio.NewWriterSize(io.Discard, 64<<10), start: time.Now()}
		text := string(make([]byte, n*kv.MaxHash))
		peers := []struct {
			name   string
			traced bool
			call   func()
		}{
			{"mutex+bufio", false, func() { file.call(trace.OpFinishWrite, keys) }},
			{"zerolog", false, func() {
				e := logger.Log().Str("op", qualname)
				for i := range keys {
					e = e.Hex("key", keys[i].Hash[:])
				}
				e.Send()
			}},
			{"runtime-trace-log", true, func() { rtrace.Log(ctx, qualname, text) }},
			{"runtime-trace-region", true, func() { rtrace.StartRegion(ctx, qualname).End() }},
		}
		for _, p := range peers {
			for _, producers := range []int{1, 2} {
				b.Run(fmt.Sprintf("peer=%s/keys=%d/producers=%d", p.name, n, producers), func(b *testing.B) {
					if p.traced {
						if err := rtrace.Start(io.Discard); err != nil {
							b.Fatal(err)
						}
						defer rtrace.Stop()
					}
					b.ReportAllocs()
					b.ResetTimer()
					var wg sync.WaitGroup
					for range producers {
						wg.Go(func() {
							for range b.N / producers {
								p.call()
							}
						})
					}
					wg.Wait()
					b.StopTimer()
				})
			}
		}
	}
}
