package sm_test

import (
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// Recordings begin and end while calls run. Every one is whole: sealed, nothing
// dropped, and no outcome in it that belongs to a call of another.
func TestSetTracerWhileCallsRun(t *testing.T) {
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 1<<20, "LRU"
	m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			keys := []kv.ObjectKey{{HashLen: 32}}
			for {
				select {
				case <-stop:
					return
				default:
					m.FinishReadPrefetched(keys, 1)
				}
			}
		})
	}
	dir := t.TempDir()
	for i := range 5 {
		path := filepath.Join(dir, string(rune('a'+i))+".lct")
		rec, err := trace.Create(path, trace.Options{RingDir: dir, Overflow: trace.OverflowBlock})
		if err != nil {
			t.Fatal(err)
		}
		if before := m.SetTracer(rec); before != nil {
			t.Errorf("recording %d took over from another", i)
		}
		for rec.Stats().Recorded < 1000 {
			runtime.Gosched()
		}
		if before := m.SetTracer(nil); before != rec {
			t.Errorf("recording %d was not the one that ended", i)
		}
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := trace.SummarizeNative(path, func(text string) { t.Error(text) })
		if err != nil {
			t.Fatal(err)
		}
		if !s.Sealed || s.Damage != nil || s.Dropped != 0 || s.Records < 1000 || s.Outcomes > s.Records {
			t.Errorf("recording %d: sealed %v, damage %v, %d records, %d outcomes, %d dropped", i, s.Sealed, s.Damage, s.Records, s.Outcomes, s.Dropped)
		}
	}
	close(stop)
	callers.Wait()
}

func TestTracedCallsAllocateNothingMore(t *testing.T) {
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 1<<20, "LRU"
	m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	keys := []kv.ObjectKey{{HashLen: 32}}
	call := func() { m.FinishReadPrefetched(keys, 1) }
	off := testing.AllocsPerRun(1000, call)
	rec, err := trace.Create(filepath.Join(t.TempDir(), "a.lct"), trace.Options{RingDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	m.SetTracer(rec)
	if on := testing.AllocsPerRun(1000, call); on > off {
		t.Errorf("a call allocates %v times when it is recorded, %v times when not", on, off)
	}
	m.SetTracer(nil)
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
}
