package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
)

// watched returns what gauges show of a storage manager.
func watched(m *sm.Manager) func() telemetry.State {
	return func() telemetry.State {
		s := m.Stats()
		state := telemetry.State{
			RequestedKeys: s.RequestedKeys, L1HitKeys: s.L1HitKeys, L2HitKeys: s.L2HitKeys,
			RefusedKeys: s.RefusedKeys, OOMKeys: s.OOMKeys,
		}
		for _, u := range m.L1Usage() {
			state.L1 = append(state.L1, telemetry.L1State{Tag: u.Tag, Backend: "dram", UsedBytes: u.UsedBytes, StagingBytes: u.StagingBytes, TotalBytes: u.CapacityBytes,
				Eviction: telemetry.Eviction{Policy: u.Policy, EvictedObjects: u.EvictedKeys, EvictedBytes: u.EvictedBytes}})
		}
		for _, a := range m.AdapterUsage() {
			state.Adapters = append(state.Adapters, telemetry.AdapterState{Index: a.ID, Name: a.Name, L1Tag: a.L1Tag, UsedBytes: a.UsedBytes, Stores: a.Stores, Loads: a.Loads, LoadBytes: a.LoadBytes,
				Eviction: telemetry.Eviction{Policy: a.Policy, EvictedObjects: a.EvictedKeys, EvictedBytes: a.EvictedBytes}})
		}
		return state
	}
}

// lastMetrics makes the metrics tell of all that was done, and writes
// --metrics-dump. It goes between the last call and the close of the manager.
func lastMetrics(ctx context.Context, t *telemetry.Telemetry, clk clock.Clock, m *sm.Manager) error {
	if t == nil {
		return nil
	}
	settle(ctx, clk, m)
	last := watched(m)()
	t.Watch(func() telemetry.State { return last }) // a manager that is closed has nothing more to show
	return t.WriteDump()
}

// settleFor bounds the wait for stores that are slow.
const settleFor = 30 * time.Second

// settle waits until the stores below have what was written, so that the last
// metrics tell of all of it.
func settle(ctx context.Context, clk clock.Clock, m *sm.Manager) {
	for until := clk.Now() + int64(settleFor); m.Storing() && clk.Now() < until; {
		if clk.SleepUntil(ctx, clk.Now()+int64(time.Millisecond)) != nil {
			return
		}
	}
}

// lingering keeps the endpoint up after the end, as long as was asked for.
func (f *obsFlags) lingering(ctx context.Context, a *app, t *telemetry.Telemetry) {
	if f.linger == 0 || t.Addr() == nil || ctx.Err() != nil {
		return
	}
	a.log.Info(fmt.Sprintf("metrics stay at http://%s/metrics for %v", t.Addr(), f.linger))
	select {
	case <-time.After(f.linger):
	case <-ctx.Done():
	}
}
