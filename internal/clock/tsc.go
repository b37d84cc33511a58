package clock

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Ticks tells the time of Real.Now from the processor's time stamp counter, at
// a third of the cost. Renew keeps it to the system's clock, and must be called
// when Due says so: between two renewals the counter's rate is extrapolated. Now
// may be called from any goroutine, Renew from one at a time.
//
// A renewal does not make time jump: it bends the rate so that the difference
// is gone at the next one.
type Ticks struct {
	line atomic.Pointer[line] // nil: the counter is not to be trusted (any more), Now asks the system
	lead atomic.Pointer[lead] // stored before line is cleared; nil: the counter was not ahead
	due  int64                // for Renew
	last pair                 // that the line was laid through
	step time.Duration        // to the next renewal
	max  atomic.Int64         // largest difference to the system's clock that Renew has found, ns
}

// TicksBound is the difference to the system's clock beyond which a renewal
// gives the counter up for good.
const TicksBound = 100 * time.Microsecond

const (
	ticksFirstLook = 2 * time.Millisecond // NewTicks measures the rate over this
	ticksFirstStep = 10 * time.Millisecond
	ticksLastStep  = time.Second      // between renewals, in the end
	maxSlew        = 500e-6           // as much as the system's clock is steered
	maxLead        = 10 * time.Second // beyond which time does go back
)

// line turns ticks into ns. It is immutable.
type line struct {
	ticks uint64 // where it begins
	ns    int64  // at that point
	mult  uint64 // ns a tick, in 2^-32
}

func (l *line) at(ticks uint64) int64 {
	d := int64(ticks - l.ticks) // negative where the line is newer than the reading
	if d < 0 {
		return l.ns - int64(uint64(-d)*l.mult>>32) // by less than a step
	}
	hi, lo := bits.Mul64(uint64(d), l.mult)
	return l.ns + int64(hi<<32|lo>>32)
}

// lead is how far the counter was ahead of the system's clock when it was given
// up. Time does not go back then: it runs at half its speed until the system's
// clock has caught up.
type lead struct{ since, ns int64 }

func (d *lead) at(now int64) int64 { return max(now, now+d.ns-(now-d.since)/2) }

// pair is one moment on both clocks.
type pair struct {
	ticks uint64
	ns    int64
}

// NewTicks returns a clock that is calibrated, which takes 2 ms. Its error says
// why the counter cannot be used.
func NewTicks() (*Ticks, error) {
	if err := usableTSC(); err != nil {
		return nil, err
	}
	first := takePair()
	time.Sleep(ticksFirstLook)
	last := takePair()
	rate, ok := rateOf(first, last)
	if !ok { // as in a synctest bubble, where the system's clock is not real
		return nil, fmt.Errorf("the time stamp counter made %d ticks in %d ns", last.ticks-first.ticks, last.ns-first.ns)
	}
	t := &Ticks{last: last, step: ticksFirstStep}
	t.due = last.ns + int64(t.step)
	t.line.Store(&line{last.ticks, last.ns, uint64(math.Round(rate * (1 << 32)))})
	return t, nil
}

// usableTSC says why the counter is no clock here, nil if it is. The kernel
// watches its clock source, and compares the counters of the processors: what it
// does not use itself is not used here either. Under kvm-clock and Hyper-V's page
// the counter's rate and offset may change when the machine is moved.
var usableTSC = sync.OnceValue(func() error {
	if !invariantTSC() {
		return errors.New("the processor has no constant, nonstop time stamp counter")
	}
	const path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the kernel's clock source is not known: %w", err)
	}
	if source := strings.TrimSpace(string(text)); source != "tsc" {
		return fmt.Errorf("the kernel's clock source is %s", source)
	}
	return nil
})

// rateOf returns the ns a tick between two moments; ok is false if no processor
// has such a rate.
func rateOf(from, to pair) (rate float64, ok bool) {
	rate = float64(to.ns-from.ns) / float64(int64(to.ticks-from.ticks))
	return rate, rate > 0.05 && rate < 10
}

// takePair reads both clocks at one moment: of several tries the one that took
// least.
func takePair() pair {
	var best pair
	least := uint64(math.MaxUint64)
	for range 8 {
		before := readTSC()
		ns := Real{}.Now()
		if took := readTSC() - before; took < least {
			least, best = took, pair{before + took/2, ns}
		}
	}
	return best
}

// Now returns the time of Real.Now. It does not go back when the counter is given
// up, unless it was ahead beyond reason.
//
//go:nosplit
func (t *Ticks) Now() int64 {
	if l := t.line.Load(); l != nil {
		return l.at(readTSC())
	}
	return t.system()
}

// system returns the system's time, no earlier than what the counter has told.
func (t *Ticks) system() int64 {
	now := Real{}.Now()
	if d := t.lead.Load(); d != nil {
		return d.at(now)
	}
	return now
}

// Due returns the time from which on Renew wants to be called; it belongs to
// the goroutine that calls Renew.
func (t *Ticks) Due() int64 { return t.due }

// Renew compares with the system's clock and corrects the rate; it is to be
// called when it is Due, since a short span gives no good rate. The error is
// given once, when the counter was given up: Now asks the system from then on.
func (t *Ticks) Renew() error {
	l := t.line.Load()
	if l == nil {
		t.due = Never
		return nil
	}
	now := takePair()
	at := l.at(now.ticks)
	off := now.ns - at
	t.max.Store(max(t.max.Load(), off, -off))
	rate, ok := rateOf(t.last, now)
	if off > int64(TicksBound) || off < -int64(TicksBound) || !ok {
		if off < 0 && off > -int64(maxLead) {
			t.lead.Store(&lead{now.ns, -off})
		}
		t.line.Store(nil)
		t.due = Never
		return fmt.Errorf("the time stamp counter was %v off the system's clock", time.Duration(off))
	}
	t.step = min(t.step*4, ticksLastStep)
	slew := float64(off) / float64(t.step)
	rate *= 1 + max(-maxSlew, min(slew, maxSlew))
	t.line.Store(&line{now.ticks, at, uint64(math.Round(rate * (1 << 32)))})
	t.last, t.due = now, now.ns+int64(t.step)
	return nil
}

// Drift returns the largest difference to the system's clock that Renew has
// found.
func (t *Ticks) Drift() time.Duration { return time.Duration(t.max.Load()) }
