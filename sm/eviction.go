package sm

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

// evictionInterval is the time between two cycles.
const evictionInterval = time.Second

// evictionController keeps L1 below its watermark: once an interval, if the
// used share is at the watermark or above it, one pass of the policy.
//
// Source: reference storage-manager.md, sections 5.1 and 14.4.
type evictionController struct {
	m    *Manager
	tier *tier
	task clock.Task // nil with manual eviction

	// Owned by the step: when the next cycle runs, and the next usage line.
	due, report int64

	evicted evictedTotals
}

// evictedTotals are what a policy has removed since the start.
type evictedTotals struct{ keys, bytes atomic.Int64 }

func (t *evictedTotals) add(keys, bytes int64) {
	t.keys.Add(keys)
	t.bytes.Add(bytes)
}

func (c *evictionController) start() {
	c.due = c.m.clock.Now() + int64(evictionInterval)
	c.task = c.m.clock.Go(c.due, c.step)
}

func (c *evictionController) step(now int64) (next int64) {
	if now >= c.due {
		c.cycle()
		if c.m.cfg.ExtraLogging && now >= c.report {
			c.report = now + int64(c.m.cfg.ExtraLoggingInterval*float64(time.Second))
			u := c.tier.l1.Usage()
			c.m.log.Info(fmt.Sprintf("L1 memory usage: %.2f/%.2f GiB (%.1f%%)", float64(u.UsedBytes)/gib, float64(u.CapacityBytes)/gib, 100*usedShare(u)))
		}
		c.due = c.m.clock.Now() + int64(evictionInterval)
	}
	return c.due
}

// cycle runs one cycle and returns the keys that went.
func (c *evictionController) cycle() []kv.ObjectKey {
	defer c.m.survive("L1 eviction")
	if c.tier.l1.HasSalts() {
		return c.quotaCycle()
	}
	used, watermark := usedShare(c.tier.l1.Usage()), c.tier.cfg.Eviction.Watermark
	defer c.publishTick(used, watermark, used >= watermark)
	if used < watermark {
		if c.m.log.Enabled(context.Background(), slog.LevelDebug) {
			c.m.log.Debug(fmt.Sprintf("L1 memory usage %.2f below watermark %.2f; skipping eviction.", used, watermark))
		}
		return nil
	}
	if c.m.log.Enabled(context.Background(), slog.LevelInfo) {
		c.m.log.Info(fmt.Sprintf("L1 memory usage %.2f above watermark %.2f; triggering eviction.", used, watermark))
	}
	return c.count(c.tier.l1.Evict(c.tier.cfg.Eviction.Ratio))
}

// quotaCycle is the cycle of a policy that heeds quotas. LMCache has none: there
// IsolatedLRU ends the thread of L1's eviction.
//
// Source: reference storage-manager.md, sections 5.9 and 11, item 7.
func (c *evictionController) quotaCycle() []kv.ObjectKey {
	e := c.tier.cfg.Eviction
	due := c.m.quotas.DueIn(c.tier.l1.UsageBySalt(nil), c.tier.cfg.L1.SizeBytes, e.Watermark, e.Ratio)
	defer c.publishTick(usedShare(c.tier.l1.Usage()), e.Watermark, len(due) > 0)
	if len(due) == 0 {
		return nil
	}
	var all l1.Evicted
	for _, d := range due {
		if c.m.log.Enabled(context.Background(), slog.LevelInfo) {
			whose := "salts without a quota"
			if _, ok := c.m.quotas.Get(d.Salts[0]); ok {
				whose = "salt " + evict.SaltName(d.Salts[0])
			}
			c.m.log.Info(fmt.Sprintf("L1 memory usage of %s %.2f of %.2f GiB; triggering eviction.", whose, float64(d.Bytes)/gib, float64(d.Limit)/gib))
		}
		out := c.tier.l1.EvictSalts(d.Salts, d.Ratio)
		all.Keys = append(all.Keys, out.Keys...)
		all.Bytes += out.Bytes
	}
	return c.count(all)
}

// count counts one pass and returns the keys that went.
func (c *evictionController) count(out l1.Evicted) []kv.ObjectKey {
	c.m.count(func(s *Stats) {
		s.EvictionPasses++
		s.EvictedKeys += int64(len(out.Keys))
		s.EvictedBytes += out.Bytes
	})
	c.evicted.add(int64(len(out.Keys)), out.Bytes)
	c.m.bus.Publish(&event.Event{Type: event.L1PolicyEvicted, L1Tag: c.tier.cfg.Tag, Count: len(out.Keys), Bytes: out.Bytes})
	return out.Keys
}

// usedShare returns the used share of L1, 0 for an L1 of no bytes.
func usedShare(u l1.Usage) float64 {
	if u.CapacityBytes == 0 {
		return 0
	}
	return float64(u.UsedBytes) / float64(u.CapacityBytes)
}

func (c *evictionController) stop() {
	if c.task != nil {
		c.task.Stop()
	}
}
