package sm_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
)

// TestConcurrentCallers drives a manager on the machine's clock from several
// goroutines, with a store below, eviction, and clears in between. What an
// object holds must be what was written under its key whenever it can be read,
// and at the end no lock may be left.
func TestConcurrentCallers(t *testing.T) {
	defer goleak.VerifyNone(t)
	const (
		objects = 24
		callers = 4
		rounds  = 300
	)
	dtype, _ := kv.ParseDType("uint8")
	small, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{4096}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = objects*4096, "LRU"
	cfg.L2Adapters = []string{`{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 100}`}
	m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Adapters: l2.Registry{"mock": mock.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	fill := func(b []byte, k kv.ObjectKey) {
		for i := range b {
			b[i] = k.Hash[3] ^ byte(i)
		}
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			for round := range rounds {
				first := rng.IntN(60)
				list := span(first, first+1+rng.IntN(4))
				res, err := m.ReserveWrite(list, small, kv.ModeNew)
				if err != nil {
					t.Error(err)
					return
				}
				var mine []kv.ObjectKey
				for i, r := range res {
					if r.Code == l1.Success {
						fill(r.Object.Bytes, list[i])
						mine = append(mine, list[i])
					}
				}
				m.FinishWrite(mine)

				s := spec(list, 1)
				s.Groups[0].Layout = small
				h, err := m.SubmitPrefetchTask(s, "", round%5 == 0)
				if err != nil {
					t.Error(err)
					return
				}
				result, ok := m.QueryPrefetchStatus(h)
				for ; !ok; result, ok = m.QueryPrefetchStatus(h) {
					runtime.Gosched()
				}
				if hits := list[:result.Rows[0].Hits.LeadingOnes()]; len(hits) > 0 {
					read := m.ReadPrefetched(hits)
					for i, o := range read.Objects() {
						want := make([]byte, len(o.Bytes))
						fill(want, hits[i])
						if string(o.Bytes) != string(want) {
							t.Errorf("key %v holds other bytes than were written", hits[i])
						}
					}
					if read.Objects() == nil {
						t.Errorf("locked keys are not readable: %v", read.Codes())
					}
					read.Exit(nil)
					m.FinishReadPrefetched(hits, 1)
				}
				if round%7 == 0 {
					m.EvictOnce()
				}
				if round%50 == 0 {
					m.Clear(false)
				}
			}
		})
	}
	wg.Wait()
	for m.Stats().PendingPrefetches > 0 || locked(m) {
		runtime.Gosched() // stores still hold their read locks
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	if s := m.Stats(); s.L2HitKeys == 0 || s.L1HitKeys == 0 || s.EvictedKeys == 0 || s.OOMKeys == 0 {
		t.Errorf("the run did not meet everything: %+v", s)
	}
	m.Clear(false)
	for start := time.Now(); m.Stats().UsedBytes != 0 && time.Since(start) < 20*time.Second; m.Clear(false) {
		runtime.Gosched() // what was queued for the store when nothing was locked is now
	}
	if s := m.Stats(); s.UsedBytes != 0 {
		t.Errorf("%d bytes, %d objects stay after the last caller left", s.UsedBytes, s.Resident+s.Staged)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func locked(m *sm.Manager) bool {
	for _, k := range m.Snapshot().Keys {
		if k.ReadLocked || k.Staged {
			return true
		}
	}
	return false
}
