package evict_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

// BenchmarkPolicy replaces prompts of 256 keys in a policy that tracks 2^18: ns/key
// of telling it of a miss (the chain, then reservation and creation of 16 keys at a
// time), of a hit on a whole prompt, and of a victim, in batches of
// 256.
//
//	go test ./evict -run '^$' -bench '^BenchmarkPolicy$' -benchtime 1000x
func BenchmarkPolicy(b *testing.B) {
	const prompt, prompts, batch = 256, 1 << 10, 16
	for _, name := range evict.Names() {
		if name == "noop" {
			continue
		}
		x := new(kv.Index)
		p, err := evict.New(name, x)
		if err != nil {
			b.Fatal(err)
		}
		keys, slots := make([]kv.ObjectKey, prompt), make([]uint32, prompt)
		name256 := func(n int) {
			for i := range keys {
				keys[i] = kv.ObjectKey{HashLen: kv.MaxHash}
				for w := range 4 { // a hash is random in all of its words
					binary.LittleEndian.PutUint64(keys[i].Hash[w*8:], (uint64(n*prompt+i)+uint64(w)<<40)*0x9e3779b97f4a7c15)
				}
			}
		}
		chainer, _ := p.(evict.Chainer)
		write := func(n int) {
			name256(n)
			if chainer != nil { // the lookup before it
				chainer.Chained(keys)
			}
			for at := 0; at < prompt; at += batch {
				if chainer != nil {
					chainer.Chained(keys[at : at+batch])
				}
				for i := at; i < at+batch; i++ {
					slots[i] = x.Acquire(&keys[i])
				}
				p.Reserved(slots[at : at+batch])
				p.Created(slots[at : at+batch])
				for _, s := range slots[at : at+batch] {
					x.Release(s) // the policy holds it
				}
			}
		}
		written := 0
		for ; written < prompts; written++ {
			write(written)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		b.Run("policy="+name+"/op=write", func(b *testing.B) {
			for b.Loop() {
				write(written)
				written++
				b.StopTimer()
				p.Removed(p.Victims(nil, prompt, func(uint32) bool { return true }))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*prompt), "ns/key")
		})
		b.Run("policy="+name+"/op=hit", func(b *testing.B) {
			for b.Loop() {
				name256(written - 1 - rng.IntN(prompts/2))
				if chainer != nil {
					chainer.Chained(keys)
				}
				n := 0
				for i := range keys {
					if s := x.Find(&keys[i]); s != 0 {
						slots[n] = s
						n++
					}
				}
				p.Touched(slots[:n])
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*prompt), "ns/key")
		})
		b.Run("policy="+name+"/op=victim", func(b *testing.B) {
			for b.Loop() {
				p.Removed(p.Victims(nil, prompt, func(uint32) bool { return true }))
				b.StopTimer()
				write(written)
				written++
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*prompt), "ns/key")
		})
	}
}
