package l1

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkArena frees random objects of a fragmented arena, then allocates as
// many. It starts with twice as many objects as blocks, of which a random half
// was freed; sizes=1 is one model's, sizes=4 a mix. First fit would compact the
// arena over time, so every round starts from the same state. ns/free and
// ns/alloc are per object, B/object is the tree per allocated object.
//
//	go test ./l1 -run '^$' -bench '^BenchmarkArena$' -count 10 | tee new.txt
//	go tool benchstat -col /blocks new.txt
func BenchmarkArena(b *testing.B) {
	for _, blocks := range []int{10_000, 1_000_000, 10_000_000} {
		for _, sizes := range [][]int64{{64 << 10}, {64 << 10, 100_000, 200 << 10, 1 << 20}} {
			name := fmt.Sprintf("blocks=%d/sizes=%d", blocks, len(sizes))
			var start *arena // made once, and only if asked for
			var live []placed
			for _, batch := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
					if start == nil {
						start, live = fragmented(b, blocks, sizes)
					}
					benchmarkArena(b, start, live, sizes, batch)
				})
			}
		}
	}
}

// fragmented returns an arena of that many objects between random holes, and
// the objects in random order.
func fragmented(b *testing.B, blocks int, sizes []int64) (*arena, []placed) {
	a, err := newArena(32<<40, 4096)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	live := make([]placed, 2*blocks)
	var off [1]int64
	for i := range live {
		bytes := sizes[rng.IntN(len(sizes))]
		if !a.allocBatch(bytes, 1, off[:]) {
			b.Fatal("arena too small")
		}
		live[i] = placed{off[0], bytes}
	}
	rng.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	for _, o := range live[blocks:] {
		a.free(o.off, o.bytes)
	}
	return a, live[:blocks]
}

func benchmarkArena(b *testing.B, start *arena, live []placed, sizes []int64, batch int) {
	rng := rand.New(rand.NewPCG(3, 4))
	a := new(arena)
	dst := make([]int64, batch)
	round := min(len(live)/8, 1<<16) / batch * batch
	var freeing, allocating time.Duration
	restore(a, start) // the first one allocates
	b.ReportAllocs()
	for b.Loop() {
		restore(a, start)
		at := rng.IntN(len(live) - round)
		t0 := time.Now()
		for _, o := range live[at : at+round] {
			a.free(o.off, o.bytes)
		}
		t1 := time.Now()
		for range round / batch {
			if !a.allocBatch(sizes[rng.IntN(len(sizes))], batch, dst) {
				b.Fatal("arena is full")
			}
		}
		freeing, allocating = freeing+t1.Sub(t0), allocating+time.Since(t1)
	}
	n := float64(b.N) * float64(round)
	b.ReportMetric(float64(freeing.Nanoseconds())/n, "ns/free")
	b.ReportMetric(float64(allocating.Nanoseconds())/n, "ns/alloc")
	b.ReportMetric(float64(start.holes.footprint())/float64(len(live)), "B/object")
	b.ReportMetric(0, "ns/op") // a round with its restore says nothing
}

// restore makes a the same as from, in memory of its own that it reuses.
func restore(a, from *arena) {
	leaves, inners := a.holes.leaves, a.holes.inners
	*a = *from
	a.holes.leaves = copySlab(leaves, from.holes.leaves)
	a.holes.inners = copySlab(inners, from.holes.inners)
}

func copySlab[T any](s, from slab[T]) slab[T] {
	for len(s.chunks) < len(from.chunks) {
		s.chunks = append(s.chunks, new([slabChunk]T))
	}
	s.chunks = s.chunks[:len(from.chunks)]
	for i, c := range from.chunks {
		*s.chunks[i] = *c
	}
	s.next, s.freed = from.next, append(s.freed[:0], from.freed...)
	return s
}
