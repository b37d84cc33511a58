package trace

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// FrameWriter is a file that a [Recorder] writes, as its drain sees it. One
// goroutine uses it.
type FrameWriter interface {
	// Call appends one call; it copies what it needs of a.
	Call(op Op, seq uint64, monoNS, wallNS int64, a *Args) error
	// Outcome appends what came of a call that was appended; it copies o.
	Outcome(op Op, seq uint64, monoNS, wallNS, durationNS int64, o *Outcome) error
	// LostOutcomes notes how many outcomes have been lost until now.
	LostOutcomes(total uint64)
	// Drops notes how many calls have been lost until now.
	Drops(total uint64) error
	// Flush makes the counts in the header current. It is cheap.
	Flush()
	// Close seals the file and closes it. It is tried also after an error.
	Close() error
}

// vulnerable is a FrameWriter whose file others can take away or cut while it is
// written.
type vulnerable interface {
	// Deleted reports whether the file has no name any more.
	Deleted() bool
	// Left returns how many calls the file at path still has, after Close.
	Left(path string) uint64
}

// ErrDeleted says that the file of a recording was deleted, or replaced, before
// the recording ended.
var ErrDeleted = errors.New("the file was deleted while it was recorded")

// How the drain paces itself. It polls, since a producer should not pay for
// telling it of every call; only one that finds a quarter of the ring in use
// wakes it. So the longest sleep bounds how old the file may be, not how much the
// ring can take. A sleep is longer than the last if it was for few calls: to wake
// up costs as much as to move dozens of them, which somebody who serves requests
// on the same processors would notice.
const (
	drainFirstSleep = 100 * time.Microsecond
	drainBusySleep  = 5 * time.Millisecond // at most, while there are calls
	drainLastSleep  = 20 * time.Millisecond
	drainFewCalls   = 256
	drainBatchBytes = 64 << 10 // given back at once: the head's cache line moves as seldom
	wallAnchorEvery = time.Second
	lookEvery       = int64(time.Second) // for a file that was deleted
)

// drain moves calls from the ring to the file, in the order in which the reader
// merges its shards. It has one goroutine, which owns all of it but the counts.
type drain struct {
	in     *ringReader
	ids    *ringIDs
	out    FrameWriter
	log    *slog.Logger
	anchor func() (monoNS, wallNS int64) // reads both clocks at once; nil if every frame has its Unix time

	args Args
	spec kv.PrefetchSpec // memory for args.Spec

	outcomes bool           // calls may have outcomes
	pending  []pendingCalls // of each shard
	outcome  ringOutcomeReader
	ticks    *clock.Ticks // to be renewed; nil if the recorder has none

	anchorMono, anchorWall int64 // a pair of clock readings
	nextAnchor             int64 // monotonic time from which on there should be a new one
	toldDrops              uint64
	calls                  uint64 // in the file
	stale                  bool   // the header's counts are older than the frames
	outErr                 error  // the first that was met
	ended                  bool   // writing has: whatever comes is lost
	logged, loggedEnd      bool   // a first lost call, and the end of writing, were logged; not all that follow

	sync         *syncer       // of out; nil if there is none
	moved        atomic.Uint64 // batches that brought something, for sync
	recorded     atomic.Uint64 // calls, stored after each batch
	lost         atomic.Uint64 // calls taken from the ring that could not be written
	lostOutcomes atomic.Uint64 // outcomes, likewise

	nextLook int64  // time of the next look whether the file is still there
	path     string // of the file

	done chan struct{} // closed when the goroutine ends
}

func newDrain(in *ringReader, ids *ringIDs, out FrameWriter, log *slog.Logger) *drain {
	d := &drain{in: in, ids: ids, out: out, log: log, done: make(chan struct{}), pending: make([]pendingCalls, len(in.shards))}
	for i := range d.pending {
		d.pending[i].most = max(maxPendingCalls/len(d.pending), maxPendingCalls/8)
	}
	return d
}

// run drains the ring until it is closed and empty, then seals the file.
func (d *drain) run() {
	defer close(d.done)
	sleep, moved := drainFirstSleep, 0 // calls since the last sleep
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	for {
		d.renewTicks()
		if now := (clock.Real{}).Now(); now >= d.nextLook {
			d.nextLook = now + lookEvery
			d.look()
		}
		n, err := d.batch()
		d.in.release()
		if err != nil {
			d.abandon(err)
			return
		}
		if n > 0 {
			moved += n
			continue
		}
		if d.in.finished() {
			d.seal()
			return
		}
		d.idle()
		sleep, moved = nextSleep(sleep, moved), 0
		d.in.ring.asleep.Store(true)
		timer.Reset(sleep)
		select {
		case <-d.in.ring.wake:
			sleep = drainFirstSleep
		case <-timer.C:
		}
		d.in.ring.asleep.Store(false)
	}
}

// nextSleep returns how long to sleep when so many calls have come since the
// last sleep.
func nextSleep(last time.Duration, calls int) time.Duration {
	switch {
	case calls == 0:
		return min(last*2, drainLastSleep)
	case calls < drainFewCalls:
		return min(last*2, drainBusySleep)
	case calls > 4*drainFewCalls:
		return max(last/2, drainFirstSleep)
	}
	return min(last, drainBusySleep)
}

// batch moves calls until the ring is empty or enough can be given back, and
// returns how many. An error is the ring's; the file's are dealt with here.
func (d *drain) batch() (n int, err error) {
	limit := uint64(min(drainBatchBytes, len(d.in.ring.shards[0].data)/4))
	if err := d.in.look(); err != nil {
		return 0, err
	}
	fault := mmapio.Guard(func() {
		for d.in.held < limit {
			ok, nextErr := d.in.next()
			if !ok {
				err = nextErr
				return
			}
			n++
			if d.in.frame.IsOutcome {
				d.takeOutcome(&d.in.frame)
			} else {
				d.call(&d.in.frame)
			}
		}
		d.flush() // also where the ring is never found empty
	})
	if fault != nil {
		if d.in.frame.IsOutcome { // at which it happened
			d.lostOutcomes.Add(1)
		} else {
			d.lost.Add(1)
		}
		d.failed(fault)
	}
	d.recorded.Store(d.calls)
	if n > 0 {
		d.moved.Add(1)
	}
	return n, err
}

// call writes one call to the file.
func (d *drain) call(f *ringFrame) {
	if d.ended {
		d.lost.Add(1)
		return
	}
	if err := decodeRingArgs(f.Args, f.Op.Row().Args, d.ids, &d.args, &d.spec); err != nil {
		d.lost.Add(1)
		d.warn(fmt.Sprintf("trace recorder: failed to encode record (qualname=%s); dropping", f.Op), err)
		return
	}
	d.tellDrops()
	wall := f.WallNS
	if !f.HasWall {
		wall = d.wall(f.MonoNS)
	}
	if err := d.out.Call(f.Op, f.Seq, f.MonoNS, wall, &d.args); err != nil {
		d.lost.Add(1)
		d.failed(err)
		return
	}
	d.stale = true
	d.calls++
	if d.outcomes {
		d.pending[f.ID>>ringShardBits].add(f.ID, f.Seq)
	}
}

// takeOutcome writes an outcome to the file, under the number of its call.
func (d *drain) takeOutcome(f *ringFrame) {
	if err := d.outcome.decode(f); err != nil {
		d.lostOutcomes.Add(1)
		d.warn("trace recorder: an outcome is lost", err)
		return
	}
	shard := d.outcome.call >> ringShardBits
	if shard >= uint64(len(d.pending)) {
		d.lostOutcomes.Add(1)
		d.warn("trace recorder: an outcome is lost", errRingOutcome)
		return
	}
	seq, ok := d.pending[shard].take(d.outcome.call)
	if !ok {
		if d.outcome.call < d.pending[shard].forgotten {
			d.lostOutcomes.Add(1)
		}
		return // else the call is not in the file, and nor is its outcome
	}
	if d.ended {
		d.lostOutcomes.Add(1)
		return
	}
	wall := f.WallNS
	if !f.HasWall {
		wall = d.wall(f.MonoNS)
	}
	if err := d.out.Outcome(f.Op, seq, f.MonoNS, wall, d.outcome.durationNS, &d.outcome.outcome); err != nil {
		d.lostOutcomes.Add(1)
		d.failed(err)
		return
	}
	d.stale = true
}

// tellDrops tells the file of the losses known so far, if there are new ones.
func (d *drain) tellDrops() {
	total := d.in.drops + d.lost.Load()
	if total == d.toldDrops || d.ended {
		return
	}
	d.toldDrops = total
	if err := d.out.Drops(total); err != nil {
		d.failed(err)
	}
}

// failed notes an error of the file. Where it is the disk's, writing ends: every
// later call would meet it again, and hold up the ring. Any other concerns the
// one call.
func (d *drain) failed(err error) {
	if d.outErr == nil {
		d.outErr = err
	}
	if ofFile(err) {
		d.ended = true
	}
	d.warn("trace recorder: write failed; dropping record", err)
}

// warn logs the first call that is lost between ring and file.
func (d *drain) warn(message string, err error) {
	if !d.logged || d.ended && !d.loggedEnd {
		d.log.Warn(message, "err", err)
	}
	d.logged, d.loggedEnd = true, d.ended
}

// wall returns the Unix time that belongs to a monotonic one. The pair it
// reckons from is renewed now and then, since the Unix clock is being steered.
func (d *drain) wall(monoNS int64) int64 {
	if monoNS >= d.nextAnchor {
		d.anchorMono, d.anchorWall = d.anchor()
		d.nextAnchor = d.anchorMono + int64(wallAnchorEvery)
	}
	return d.anchorWall + (monoNS - d.anchorMono)
}

// look ends writing to a file that was deleted: it would be gone at the end, and
// takes space until then.
func (d *drain) look() {
	if f, ok := d.out.(vulnerable); !ok || d.ended || !f.Deleted() {
		return
	}
	d.outErr, d.ended = errors.Join(d.outErr, ErrDeleted), true
	d.lost.Add(d.calls)
	d.calls = 0
	d.recorded.Store(0)
	d.warn("trace recorder: its records are lost, and all that follow", ErrDeleted)
	d.sync.stop()
	d.sync = nil
	if fault := mmapio.Guard(func() { d.out.Close() }); fault != nil {
		return // it was cut, too
	}
}

// renewTicks holds the counter that tells the times to the system's clock.
func (d *drain) renewTicks() {
	if d.ticks == nil || d.ticks.Now() < d.ticks.Due() {
		return
	}
	if err := d.ticks.Renew(); err != nil {
		d.log.Warn("trace recorder: times are the system clock's from now on", "err", err)
	}
}

// flush makes the counts in the file's header current.
func (d *drain) flush() {
	if d.stale && !d.ended {
		d.stale = false
		d.out.Flush()
	}
}

// tellDrift has the file say how far the counter was off, the end included.
func (d *drain) tellDrift() {
	if f, ok := d.out.(interface{ Drift(time.Duration) }); ok && d.ticks != nil {
		if err := d.ticks.Renew(); err != nil {
			d.log.Warn("trace recorder: times at the end are off", "err", err)
		}
		f.Drift(d.ticks.Drift())
	}
}

// idle is run when there was nothing to move.
func (d *drain) idle() {
	if fault := mmapio.Guard(func() {
		// Not while there are calls that were made before the drops.
		if dropped := d.in.ring.dropped.Load(); d.in.empty() {
			d.in.noteDrops(dropped & (1<<32 - 1))
			d.tellDrops()
		}
		d.flush()
	}); fault != nil {
		d.failed(fault)
	}
}

// seal ends the file. Where writing has ended it is tried all the same: what was
// written then still gets its counts and its end, if there is room for them.
func (d *drain) seal() {
	d.look()
	d.in.noteDrops(d.in.ring.dropped.Load() & (1<<32 - 1))
	d.tellDrift()
	syncErr := d.sync.stop()
	var dropsErr, closeErr error
	fault := mmapio.Guard(func() { dropsErr = d.out.Drops(d.in.drops + d.lost.Load()) })
	closeFault := mmapio.Guard(func() {
		d.out.LostOutcomes(d.in.ring.lostOutcomes.Load() + d.lostOutcomes.Load())
		closeErr = d.out.Close()
	})
	err := errors.Join(syncErr, dropsErr, closeErr, fault, closeFault)
	if f, ok := d.out.(vulnerable); ok && ofFault(errors.Join(d.outErr, err)) {
		// It was cut: what was there is lost, too.
		left := min(f.Left(d.path), d.calls)
		d.lost.Add(d.calls - left)
		d.recorded.Store(left)
	}
	if d.outErr == nil {
		d.outErr = err
	}
}

// ofFault reports whether an error says that bytes of a file are gone.
func ofFault(err error) bool {
	var fault *mmapio.FaultError
	return errors.As(err, &fault)
}

// abandon ends recording because the ring's memory was overwritten: there is no
// telling where the next frame is.
func (d *drain) abandon(err error) {
	d.in.ring.close()
	d.log.Error("trace recorder: recording ends", "err", err)
	if d.outErr == nil {
		d.outErr = err
	}
	d.seal()
}
