package l1

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// BenchmarkHold measures the longest times for which the gate of a tier of 1 M
// objects in shuffled order is held: by the batches of an eviction of 20 %, by
// the batches of a clear, and by a reservation that finds touches to tell. The
// times are of the thread's CPU, and of the iteration in which the longest is the
// shortest: what the machine does with the core meanwhile is not the tier's, and
// what is the tier's shows in all of them. In "locked" every key but the hottest
// thousand has a read lock.
//
//	go test ./l1 -run '^$' -bench '^BenchmarkHold$' -benchtime 3x
func BenchmarkHold(b *testing.B) {
	const objects, batch = 1_000_000, 16
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dtype, _ := kv.ParseDType("uint8")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{4096}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		b.Fatal(err)
	}
	longest := map[string]float64{}
	for b.Loop() {
		m, err := New(Options{SizeBytes: objects * 4096, AlignBytes: 4096, WriteTTL: time.Hour, ReadTTL: time.Hour,
			Policy: "LRU", Memory: new(Scratch), Clock: clock.Real{}})
		if err != nil {
			b.Fatal(err)
		}
		keys := make([]kv.ObjectKey, batch)
		for at := 0; at < objects; at += batch {
			for i := range keys {
				setKey(&keys[i], at+i)
			}
			if _, err := m.Reserve(nil, keys, layout, kv.ModeNew, Writer, false); err != nil {
				b.Fatal(err)
			}
			m.Finish(nil, nil, keys, Writer, 0)
		}
		var touching []time.Duration
		rng := rand.New(rand.NewPCG(1, 2))
		for range 2 * objects / batch {
			for i := range keys {
				setKey(&keys[i], rng.IntN(objects))
			}
			m.Touch(keys)
			if len(m.touched.list)+batch+1 >= maxTouches {
				touching = append(touching, cpuTime(func() {
					if _, err := m.Reserve(nil, keys, layout, kv.ModeNew, Writer, false); err != nil {
						b.Fatal(err)
					}
				}))
			}
		}
		var evicting []time.Duration
		m.policy.(evict.Scanner).Rewind()
		out, refused := Evicted{Keys: make([]kv.ObjectKey, 0, objects)}, map[uint32]bool{}
		for n := objects / 5; n > 0; n -= evictBatch {
			evicting = append(evicting, cpuTime(func() { m.evictSome(everything, evictBatch, &out, refused) }))
		}
		if len(out.Keys) < objects/5 {
			b.Fatalf("evicted %d", len(out.Keys))
		}
		var locked []time.Duration
		all := m.keysOf(m.policy.Order(nil))
		m.LockResident(all[:len(all)-1000], 1)
		m.policy.(evict.Scanner).Rewind()
		for more, before := true, len(out.Keys); more; {
			locked = append(locked, cpuTime(func() { _, more = m.evictSome(everything, evictBatch, &out, refused) }))
			if !more && len(out.Keys)-before != 1000 {
				b.Fatalf("evicted %d of 1000 that may go", len(out.Keys)-before)
			}
		}
		m.Unlock(nil, all, 1)
		var clearing []time.Duration
		last := m.index.Last()
		for s := uint32(1); s <= last; {
			clearing = append(clearing, cpuTime(func() { s, _ = m.clearSome(s, last, false) }))
		}
		if u := m.Usage(); u.Resident != 0 {
			b.Fatalf("%d objects are left", u.Resident)
		}
		for _, of := range []struct {
			name string
			list []time.Duration
		}{{"touch", touching}, {"evict", evicting}, {"locked", locked}, {"clear", clearing}} {
			slices.Sort(of.list)
			b.ReportMetric(float64(of.list[len(of.list)/2]), "p50-"+of.name+"-ns")
			max := float64(of.list[len(of.list)-1])
			if least, ok := longest[of.name]; !ok || max < least {
				longest[of.name] = max
			}
		}
	}
	for name, max := range longest {
		b.ReportMetric(max, "max-"+name+"-ns")
	}
	b.ReportMetric(0, "ns/op")
}

func setKey(k *kv.ObjectKey, n int) {
	binary.LittleEndian.PutUint64(k.Hash[:], uint64(n)*0x9e3779b97f4a7c15)
	k.HashLen = kv.MaxHash
}

// cpuTime returns the CPU time of f on this thread.
func cpuTime(f func()) time.Duration {
	var from, to unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &from)
	f()
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &to)
	return time.Duration(to.Nano() - from.Nano())
}
