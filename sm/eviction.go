package sm

import (
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// evictionInterval is the time between two cycles.
const evictionInterval = time.Second

// evictionController keeps L1 below its watermark: once an interval, if the
// used share is at the watermark or above it, one pass of the policy.
//
// Source: reference storage-manager.md, sections 5.1 and 14.4.
type evictionController struct {
	m    *Manager
	task clock.Task // nil with manual eviction
	due  int64      // owned by the step: when the next cycle runs
}

func (c *evictionController) start() {
	c.due = c.m.clock.Now() + int64(evictionInterval)
	c.task = c.m.clock.Go(c.due, c.step)
}

func (c *evictionController) step(now int64) (next int64) {
	if now >= c.due {
		c.cycle()
		c.due = c.m.clock.Now() + int64(evictionInterval)
	}
	return c.due
}

// cycle runs one cycle and returns the keys that went.
func (c *evictionController) cycle() []kv.ObjectKey {
	u := c.m.l1.Usage()
	if u.CapacityBytes == 0 || float64(u.UsedBytes)/float64(u.CapacityBytes) < c.m.cfg.Eviction.Watermark {
		return nil
	}
	out := c.m.l1.Evict(c.m.cfg.Eviction.Ratio)
	c.m.count(func(s *Stats) {
		s.EvictionPasses++
		s.EvictedKeys += int64(len(out.Keys))
		s.EvictedBytes += out.Bytes
	})
	return out.Keys
}

func (c *evictionController) stop() {
	if c.task != nil {
		c.task.Stop()
	}
}
