package trace

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// benchRecorder returns a recorder whose ring is a shared mapping, as in
// production, of the default size. Nothing drains it.
func benchRecorder(b *testing.B) *Recorder {
	opt, err := Options{}.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	data, all := ringLayout(opt.RingBytes, 1<<20)
	shared, err := mmapio.CreateShared("", fmt.Sprintf("lmcache-bench-%d", time.Now().UnixNano()), int64(all), int64(all))
	if err != nil {
		b.Fatal(err)
	}
	if err := shared.Remove(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { shared.Close() })
	r := newRecorder(shared.Bytes(), data, nil, opt)
	r.header(opt)
	r.on.Store(true)
	return r
}

func benchCall(keys int) *Args {
	a := &Args{Keys: make([]kv.ObjectKey, keys)}
	scope, err := kv.InternScope("meta-llama/Llama-3.1-8B-Instruct", "")
	if err != nil {
		panic(err)
	}
	for i := range a.Keys {
		a.Keys[i] = kv.ObjectKey{Scope: scope, Rank: 1 << 24, HashLen: 32}
		for j := range a.Keys[i].Hash {
			a.Keys[i].Hash[j] = byte(i * j)
		}
	}
	return a
}

// discard is a file that takes calls and keeps nothing.
type discard struct{}

func (discard) Call(Op, uint64, int64, int64, *Args) error              { return nil }
func (discard) Drops(uint64) error                                      { return nil }
func (discard) Outcome(Op, uint64, int64, int64, int64, *Outcome) error { return nil }
func (discard) LostOutcomes(uint64)                                     {}
func (discard) Flush()                                                  {}
func (discard) Close() error                                            { return nil }

// inBursts calls call in as many goroutines, n times in all, in bursts of half
// a ring's calls; reset, which makes room, is not timed.
func inBursts(b *testing.B, producers, frame int, call func(producer int), reset func()) {
	burst := defaultRingBytes / 2 / frame / producers
	b.SetBytes(int64(frame))
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; {
		n := min(burst*producers, left)
		left -= n
		if producers == 1 {
			for range n {
				call(0)
			}
		} else {
			var wg sync.WaitGroup
			for p := range producers {
				wg.Go(func() {
					for range n / producers {
						call(p)
					}
				})
			}
			wg.Wait()
		}
		b.StopTimer()
		reset()
		b.StartTimer()
	}
}

// BenchmarkTracedCall measures what a traced call pays. The floor is one reading
// of the clock and a copy of the frame's bytes to memory of the ring's size that
// was zeroed as the ring is. Bursts fit the ring; nothing drains meanwhile,
// except in mode=sustained, where the drain runs into a file that discards.
//
//	go test ./trace -run '^$' -bench BenchmarkTracedCall -benchtime 2000000x -count 6
func BenchmarkTracedCall(b *testing.B) {
	b.Run("recording=off/mode=floor", func(b *testing.B) {
		x := 0
		for i := 0; i < b.N; i++ {
			x += hooked(nil, i)
		}
		benchSink = x
	})
	b.Run("recording=off/mode=hook", func(b *testing.B) {
		r, _ := heapRecorder(Options{})
		x := 0
		for i := 0; i < b.N; i++ {
			x += hookedTraced(r, i)
		}
		benchSink = x
	})
	for _, keys := range []int{1, 16, 32, 256} {
		a := benchCall(keys)
		frame := ringFrameBytes + 8 + ringRunBytes + keys*kv.MaxHash
		for _, producers := range []int{1, 2} {
			name := fmt.Sprintf("recording=on/keys=%d/producers=%d/", keys, producers)
			b.Run(name+"mode=floor", func(b *testing.B) {
				res, err := mmapio.Reserve(defaultRingBytes)
				if err != nil {
					b.Fatal(err)
				}
				defer res.Close()
				mem := res.Bytes()
				clear(mem)
				src := make([]byte, frame)
				start := time.Now()
				share := len(mem) / producers
				type cursor struct {
					off int
					_   [120]byte
				}
				cursors := make([]cursor, producers)
				inBursts(b, producers, frame, func(p int) {
					c := &cursors[p]
					off := p*share + c.off
					putRingWord(mem, off, uint64(time.Since(start)))
					copy(mem[off+8:off+frame], src)
					if c.off += frame; c.off+frame > share {
						c.off = 0
					}
				}, func() { clear(mem) })
			})
			b.Run(name+"mode=call", func(b *testing.B) {
				r := benchRecorder(b)
				c := ringReader{ring: r.ring}
				inBursts(b, producers, frame, func(int) { r.Call(OpFinishWrite, a) }, func() { drainAll(b, &c) })
				if dropped := r.ring.dropped.Load(); dropped > 0 {
					b.Fatalf("%d dropped", dropped)
				}
			})
			b.Run(name+"mode=sustained", func(b *testing.B) {
				r := benchRecorder(b)
				r.block = true
				r.begin(discard{}, &Header{WallStartNS: time.Now().UnixNano()})
				b.SetBytes(int64(frame))
				b.ResetTimer()
				var wg sync.WaitGroup
				for range producers {
					wg.Go(func() {
						for range b.N / producers {
							r.Call(OpFinishWrite, a)
						}
					})
				}
				wg.Wait()
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if got := r.Stats(); got.Dropped > 0 || got.Recorded != uint64(b.N/producers*producers) {
					b.Fatalf("%+v", got)
				}
			})
		}
	}
}

var benchSink int

//go:noinline
func hooked(_ *Recorder, i int) int { return i ^ 1 }

//go:noinline
func hookedTraced(r *Recorder, i int) int {
	if r.On() {
		r.Call(OpFinishWrite, &Args{Count: int64(i)})
	}
	return i ^ 1
}

func drainAll(b *testing.B, c *ringReader) {
	for {
		ok, err := c.next()
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			c.release()
			return
		}
	}
}

// BenchmarkDrain measures the drain alone: from a full ring to a file that
// discards. The floor copies the frames and zeroes where they were.
func BenchmarkDrain(b *testing.B) {
	for _, keys := range []int{1, 32} {
		a := benchCall(keys)
		frame := ringFrameBytes + 8 + ringRunBytes + keys*kv.MaxHash
		perRing := defaultRingBytes / 2 / frame
		b.Run(fmt.Sprintf("keys=%d/mode=drain", keys), func(b *testing.B) {
			r := benchRecorder(b)
			d := &drain{in: ringReader{ring: r.ring}, ids: newRingIDs(r.defs.mem, r.defs.tail), out: discard{}, log: r.log,
				anchor: func() (int64, int64) { return 0, 0 }, nextAnchor: 1 << 62}
			b.SetBytes(int64(frame))
			b.ReportAllocs()
			for left := b.N; left > 0; {
				b.StopTimer()
				n := min(perRing, left)
				for range n {
					r.Call(OpFinishWrite, a)
				}
				b.StartTimer()
				for left -= n; n > 0; d.in.release() {
					moved, err := d.batch()
					if err != nil || moved == 0 {
						b.Fatalf("%d calls, %v", moved, err)
					}
					n -= moved
				}
			}
		})
		b.Run(fmt.Sprintf("keys=%d/mode=floor", keys), func(b *testing.B) {
			r := benchRecorder(b)
			dst := make([]byte, drainBatchBytes+frame)
			b.SetBytes(int64(frame))
			for left := b.N; left > 0; {
				b.StopTimer()
				n := min(perRing, left)
				for i := range n * frame {
					r.ring.data[i] = 1
				}
				b.StartTimer()
				left -= n
				for at := 0; n > 0; {
					batch := min(n, drainBatchBytes/frame)
					for i := range batch {
						copy(dst[i*frame:(i+1)*frame], r.ring.data[at+i*frame:])
					}
					clear(r.ring.data[at : at+batch*frame])
					at += batch * frame
					n -= batch
				}
			}
		})
	}
}
