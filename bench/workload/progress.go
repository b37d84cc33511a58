package workload

import (
	"sync/atomic"
	"time"
)

// Progress tells other goroutines how far a running workload is. The zero value
// is ready.
type Progress struct{ started, done, lagNS, workloadNS atomic.Int64 }

// Far is how far a run is. Its figures may be of two neighbouring moments.
type Far struct {
	Started, Done int64         // requests, those of a warm-up included
	Workload      time.Duration // workload time of the last arrival
	Lag           time.Duration // how late the engine's last event ran
}

// Load returns how far the run is; zero for a nil p.
func (p *Progress) Load() Far {
	if p == nil {
		return Far{}
	}
	done := p.done.Load() // before started, so that it is never more
	return Far{
		Started: p.started.Load(), Done: done,
		Workload: time.Duration(p.workloadNS.Load()), Lag: time.Duration(p.lagNS.Load()),
	}
}

// show publishes how far r is, the last event of which was late by lagNS. Only
// the engine calls it.
func (p *Progress) show(r *Result, lagNS int64) {
	if p == nil {
		return
	}
	p.lagNS.Store(lagNS)
	p.workloadNS.Store(int64(r.WorkloadDuration))
	before := 0
	if r.Warmup != nil {
		before = r.Warmup.Requests
	}
	p.started.Store(int64(before + r.Requests))
	p.done.Store(int64(before + r.Completed))
}
