package sm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// TestSimForced drives a whole manager as TestSim does, by an operator without
// manners: clears and deletions by force while stores and loads run, stores that
// come and go. Nobody can rely on a lock then; but a store must still read what was
// written under the key, a load write to nobody else's memory, every request end,
// and no byte stay when all is over.
func TestSimForced(t *testing.T) {
	seed, seeds := max(*simSeed, 1), 0
	for start := time.Now(); seeds < 20 || *simSeed == 0 && time.Since(start) < *simTime/4; seed, seeds = seed+1, seeds+1 {
		if err := runForced(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	t.Logf("%d seeds", seeds)
}

func runForced(seed uint64) (err error) {
	rng := rand.New(rand.NewPCG(seed, 9))
	setup := newSimSetup(rng)
	for len(setup.stores) == 0 {
		setup = newSimSetup(rng)
	}
	clk := clock.NewVirtual(0)
	w, err := newSimWorld(setup, seed, clk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.m.Close()) }()
	c := w.callers[0]
	ids := make([]int, len(setup.stores))
	for i := range ids {
		ids[i] = i
	}
	var asked []sm.PrefetchHandle
	check := func(doing string) error {
		if err := w.m.Check(); err != nil {
			return fmt.Errorf("%s, at %v: %w\nsetup: %+v", doing, time.Duration(clk.Now()), err, setup)
		}
		if len(w.broken) > 0 {
			return fmt.Errorf("%s, at %v: %v\nsetup: %+v", doing, time.Duration(clk.Now()), w.broken, setup)
		}
		return nil
	}
	remove := func(i int, patience time.Duration) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		defer clk.AfterFunc(patience, cancel)()
		if e := w.m.RemoveAdapter(ctx, ids[i]); e == nil {
			ids = append(ids[:i], ids[i+1:]...)
		} else if !errors.Is(e, context.Canceled) {
			w.complain("remove: %v", e)
		}
	}
	for range 300 {
		group := rng.IntN(2)
		keys := c.prefix(rng.IntN(simConversations), 1+rng.IntN(simChunks), group)
		switch n := rng.IntN(100); {
		case n < 40:
			mode := pickOne(rng, []kv.WriteMode{kv.ModeNew, kv.ModeNew, kv.ModeAll})
			res, e := w.m.ReserveWrite(keys, simLayouts[group], mode)
			if e != nil {
				return e
			}
			for i, r := range res {
				if r.Code == l1.Success {
					paint(r.Object.Bytes, keys[i])
				}
			}
			if rng.IntN(8) > 0 {
				w.m.FinishWrite(keys)
			}
		case n < 75:
			h, e := w.m.SubmitPrefetchTask(&kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys, Layout: simLayouts[group], Window: kv.FullAttention}}}, "", false)
			if e != nil {
				return e
			}
			asked = append(asked, h)
		case n < 80:
			w.m.FinishReadPrefetched(keys, 1+rng.IntN(2)) // perhaps somebody else's
		case n < 86:
			w.m.Clear(true)
		case n < 92:
			w.m.DeleteL1(keys, rng.IntN(2) == 0)
		case n < 94:
			w.m.Touch(keys)
		case n < 96:
			w.m.EvictOnce()
		case n < 98:
			id, e := w.m.AddAdapter(pickOne(rng, setup.cfg.L2Adapters))
			if e != nil {
				return e
			}
			ids = append(ids, id)
		case len(ids) > 0:
			remove(rng.IntN(len(ids)), pickOne(rng, []time.Duration{0, time.Second, time.Hour}))
		}
		w.m.Status()
		if err := check("acting"); err != nil {
			return err
		}
		for end := clk.Now() + int64(simPause(rng)/10); clk.Now() < end; {
			_ = clk.SleepUntil(context.Background(), min(end, clk.Now()+int64(time.Second)))
			if err := check("waiting"); err != nil {
				return err
			}
		}
	}
	for _, h := range asked {
		ctx, cancel := context.WithCancel(context.Background())
		stop := clk.AfterFunc(100*time.Hour, cancel)
		w.m.WaitPrefetchStatus(ctx, h) // some results are old and dropped
		if stop(); ctx.Err() != nil {
			return fmt.Errorf("request %d has no result\nsetup: %+v", h.ID, setup)
		}
		cancel()
	}
	for len(ids) > 0 {
		remove(0, 100*time.Hour)
		if err := check("leaving"); err != nil {
			return err
		}
	}
	w.m.Clear(true)
	if s := w.m.Stats(); s.UsedBytes != 0 || s.PendingPrefetches != 0 {
		return fmt.Errorf("at the end there is %+v\nsetup: %+v", s, setup)
	}
	evicts := slices.ContainsFunc(setup.cfg.L2Adapters, func(text string) bool { return strings.Contains(text, "eviction") })
	for _, s := range w.stores {
		if evicts { // which may have asked what is there when the store left: that lock ends with it
			break
		}
		if n := s.leftLocks(); n != 0 || !s.idle() {
			return fmt.Errorf("store %s: %d locks that nobody gives back, idle %v\nsetup: %+v", s.name, n, s.idle(), setup)
		}
	}
	return check("at the end")
}
