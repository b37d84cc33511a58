package replay

import "sync/atomic"

// Progress tells other goroutines how far a running replay is. The zero value
// is ready.
type Progress struct{ done, failed, skipped, lagNS atomic.Int64 }

// Load returns how many records were dispatched, failed and skipped ones
// included, how many of them failed and were skipped, and how late the last one
// was, in ns. Each is exact; they may be of two neighbouring records.
func (p *Progress) Load() (done, failed, skipped, lagNS int64) {
	return p.done.Load(), p.failed.Load(), p.skipped.Load(), p.lagNS.Load()
}

// show publishes the state after a record. Only the replay calls it.
func (p *Progress) show(r *Records, lagNS int64) {
	if p == nil {
		return
	}
	p.lagNS.Store(lagNS)
	p.failed.Store(r.Failed)
	p.skipped.Store(r.Skipped)
	p.done.Store(r.Replayed + r.Failed + r.Skipped)
}
