package trace

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

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
	r := newRecorder(shared.Bytes(), data, processorShards, nil, opt)
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

// inBursts calls call in as many goroutines, n times in all, in bursts of a
// quarter of a ring's calls; reset, which makes room, is not timed.
func inBursts(b *testing.B, producers, frame int, call func(producer int), reset func()) {
	burst := defaultRingBytes / 4 / frame / producers
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
// of the clock that the recorder uses and a copy of the frame's bytes to memory of the ring's size that
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
				r := benchRecorder(b)
				share := len(mem) / producers
				type cursor struct {
					off int
					_   [120]byte
				}
				cursors := make([]cursor, producers)
				inBursts(b, producers, frame, func(p int) {
					c := &cursors[p]
					off := p*share + c.off
					putRingWord(mem, off, uint64(r.machineNow()-r.start))
					copy(mem[off+8:off+frame], src)
					if c.off += frame; c.off+frame > share {
						c.off = 0
					}
				}, func() { clear(mem) })
			})
			b.Run(name+"mode=call", func(b *testing.B) {
				r := benchRecorder(b)
				c := newRingReader(r.ring, nil)
				inBursts(b, producers, frame, func(int) { r.Call(OpFinishWrite, a) }, func() { drainAll(b, c) })
				if dropped := r.ring.dropped.Load(); dropped > 0 {
					b.Fatalf("%d dropped", dropped)
				}
			})
			if producers > 1 { // two recorders, which share nothing: what shards are held against
				b.Run(name+"mode=apart", func(b *testing.B) {
					recorders, readers := make([]*Recorder, producers), make([]*ringReader, producers)
					for i := range recorders {
						recorders[i] = benchRecorder(b)
						readers[i] = newRingReader(recorders[i].ring, nil)
					}
					inBursts(b, producers, frame, func(p int) { recorders[p].Call(OpFinishWrite, a) }, func() {
						for i := range readers {
							drainAll(b, readers[i])
						}
					})
				})
			}
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
	if err := c.look(); err != nil {
		b.Fatal(err)
	}
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

// BenchmarkDrain measures the drain alone, from a full ring through the writer
// into memory that is present. Lists that repeat are known to the block; fresh
// ones are written out. The floor copies the ring's frames as they are and hashes
// each; mode=ring is the drain with a file that discards.
//
//	go test ./trace -run '^$' -bench '^BenchmarkDrain$' -benchtime 1000000x
func BenchmarkDrain(b *testing.B) {
	for _, keys := range []int{1, 32} {
		frame := ringFrameBytes + 8 + ringRunBytes + keys*kv.MaxHash
		perRing := defaultRingBytes / 4 / frame
		// rounds fills a quarter of the ring and runs empty on it, b.N calls in all.
		// The lists are those of a block of 4096 chunks, or new each time.
		rounds := func(b *testing.B, r *Recorder, fresh bool, empty func(n int)) {
			lists := make([][]kv.ObjectKey, 4096/keys)
			for i, all := 0, hashes(5, 4096); i < len(lists); i++ {
				lists[i] = keysOf(all[i*keys:(i+1)*keys], oneContext)
			}
			b.SetBytes(int64(frame))
			b.ReportAllocs()
			b.ResetTimer()
			var a Args
			for i := 0; i < b.N; {
				b.StopTimer()
				n := min(perRing, b.N-i)
				for range n {
					a.Keys = lists[i%len(lists)]
					if fresh {
						for k := range a.Keys {
							putRingWord(a.Keys[k].Hash[:], 0, uint64(i*keys+k))
						}
					}
					r.Call(OpFinishWrite, &a)
					i++
				}
				b.StartTimer()
				empty(n)
			}
		}
		drainTo := func(b *testing.B, fresh bool, out FrameWriter) {
			r := benchRecorder(b)
			d := newDrain(newRingReader(r.ring, nil), newRingIDs(r.defs.mem, r.defs.tail), out, r.log)
			d.anchor, d.nextAnchor = func() (int64, int64) { return 0, 0 }, 1<<62
			rounds(b, r, fresh, func(n int) {
				for ; n > 0; d.in.release() {
					moved, err := d.batch()
					if err != nil || moved == 0 || d.outErr != nil {
						b.Fatalf("%d calls, %v, %v", moved, err, d.outErr)
					}
					n -= moved
				}
			})
		}
		for _, lists := range []string{"repeated", "fresh"} {
			b.Run(fmt.Sprintf("keys=%d/lists=%s/mode=drain", keys, lists), func(b *testing.B) {
				f := &ringFile{memoryFile: memoryFile{head: testHead, off: testHead, data: make([]byte, 64<<20)}}
				clear(f.data) // present
				drainTo(b, lists == "fresh", newTestWriter(b, f, 0))
			})
		}
		b.Run(fmt.Sprintf("keys=%d/mode=ring", keys), func(b *testing.B) { drainTo(b, false, discard{}) })
		b.Run(fmt.Sprintf("keys=%d/mode=floor", keys), func(b *testing.B) {
			r := benchRecorder(b)
			c := newRingReader(r.ring, nil)
			dst := make([]byte, 64<<20)
			clear(dst) // present
			off := 0
			rounds(b, r, false, func(n int) {
				s := &c.shards[0] // the one that has most to read
				for i := range c.shards {
					if t := &c.shards[i]; t.tail.Load()-t.pos > s.tail.Load()-s.pos {
						s = t
					}
				}
				pos := s.pos
				for range n {
					at := int(pos & s.mask)
					if at+frame > len(s.data) {
						pos += uint64(len(s.data) - at)
						at = 0
					}
					if off+frame+8 > len(dst) {
						off = 0
					}
					copy(dst[off:], s.data[at:at+frame])
					putRingWord(dst, off+frame, xxhash.Sum64(dst[off:off+frame]))
					off += frame + 8
					pos += uint64(frame)
				}
				b.StopTimer()
				drainAll(b, c)
				b.StartTimer()
			})
		})
	}
}

// BenchmarkOutcome measures what an outcome adds to a traced call of one key.
//
//	go test ./trace -run '^$' -bench '^BenchmarkOutcome$' -benchtime 2000000x -count 6
func BenchmarkOutcome(b *testing.B) {
	a := benchCall(1)
	frame := ringFrameBytes + 8 + ringRunBytes + kv.MaxHash
	words := []uint64{1}
	o := Outcome{Counts: [MaxCounts]uint32{1}, Bits: [MaxOutcomeBits]Bits{{Words: words, N: 1}}}
	for _, mode := range []string{"call", "call+outcome"} {
		b.Run("mode="+mode, func(b *testing.B) {
			r := benchRecorder(b)
			c := newRingReader(r.ring, nil)
			all := frame
			call := func(int) { r.Call(OpFinishWrite, a) }
			if mode == "call+outcome" {
				all += ringOutcomeBytes + 8
				call = func(int) { r.Outcome(r.Call(OpFinishWrite, a), &o) }
			}
			inBursts(b, 1, all, call, func() { drainAll(b, c) })
			if lost := r.ring.dropped.Load() + r.ring.lostOutcomes.Load(); lost > 0 {
				b.Fatalf("%d lost", lost)
			}
		})
	}
}
