package clock

import (
	"testing"
	"time"
)

func newTicks(t testing.TB) *Ticks {
	ticks, err := NewTicks()
	if err != nil {
		t.Skip(err)
	}
	return ticks
}

func TestTicksStayWithTheSystemsClock(t *testing.T) {
	ticks := newTicks(t)
	last := ticks.Now()
	for renewals := 0; renewals < 3; {
		before := Real{}.Now()
		now := ticks.Now()
		after := Real{}.Now()
		if bound := int64(TicksBound); now < before-bound || now > after+bound {
			t.Fatalf("%d is not within %v of %d to %d", now, TicksBound, before, after)
		}
		if now < last-1000 { // threads may move between processors
			t.Fatalf("went from %d back to %d", last, now)
		}
		last = now
		if now >= ticks.Due() {
			renewals++
			if err := ticks.Renew(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := ticks.Drift(); d <= 0 || d > TicksBound {
		t.Errorf("drift %v", d)
	}
}

// A counter that runs at another rate, or jumps, is given up.
func TestTicksGiveUp(t *testing.T) {
	for name, spoil := range map[string]func(*line){
		"rate":    func(l *line) { l.mult += l.mult / 8 },
		"forward": func(l *line) { l.ns += int64(time.Second) },
		"back":    func(l *line) { l.ns -= int64(time.Second) },
	} {
		ticks := newTicks(t)
		wrong := *ticks.line.Load()
		spoil(&wrong)
		ticks.line.Store(&wrong)
		for start := (Real{}).Now(); (Real{}).Now() < start+int64(5*time.Millisecond); {
		}
		told := ticks.Now()
		if err := ticks.Renew(); err == nil || ticks.Drift() <= TicksBound {
			t.Errorf("%s: %v, drift %v; want an error", name, err, ticks.Drift())
		}
		before := (Real{}).Now()
		now := ticks.Now()
		ahead := max(told-before, 0)
		if now < before || now < told || now > before+ahead+int64(time.Second)/2 {
			t.Errorf("%s: Now is %d after %d and %d", name, now, before, told)
		}
		// Half as fast until the lead is made up for.
		if d := ticks.lead.Load(); (d != nil) != (ahead > 0) {
			t.Errorf("%s: lead %+v, ahead by %d", name, d, ahead)
		} else if d != nil {
			for _, c := range []struct{ at, want int64 }{{d.since, d.since + d.ns}, {d.since + d.ns, d.since + d.ns + d.ns/2 + d.ns%2}, {d.since + 2*d.ns, d.since + 2*d.ns}, {d.since + 9*d.ns, d.since + 9*d.ns}} {
				if got := d.at(c.at); got != c.want {
					t.Errorf("%s: %+v at %d is %d; want %d", name, d, c.at, got, c.want)
				}
			}
		}
		if ticks.Due() != Never || ticks.Renew() != nil {
			t.Errorf("%s: wants to be renewed at %d", name, ticks.Due())
		}
	}
}

// A renewal leaves the present time as it is, and bends the rate so that what
// it was behind is made up for at the next one.
func TestTicksDoNotJump(t *testing.T) {
	const off = int64(10 * time.Microsecond)
	ticks := newTicks(t)
	for (Real{}).Now() < ticks.Due() {
	}
	behind := *ticks.line.Load()
	behind.ns -= off
	ticks.line.Store(&behind)
	if err := ticks.Renew(); err != nil {
		t.Fatal(err)
	}
	l := ticks.line.Load()
	if jump := l.ns - behind.at(l.ticks); jump != 0 {
		t.Errorf("time jumped by %d ns", jump)
	}
	step := float64(ticks.step)
	gained := float64(l.at(l.ticks+uint64(step*(1<<32)/float64(behind.mult)))-l.ns) - step
	if gained < float64(off)/2 || gained > float64(off)*2 {
		t.Errorf("gains %v ns in %v ns, where it is %d ns behind", gained, step, ticks.last.ns-l.ns)
	}
}

func TestLine(t *testing.T) {
	l := line{ticks: 1000, ns: 5000, mult: 1 << 31} // half a ns a tick
	for ticks, want := range map[uint64]int64{1000: 5000, 1002: 5001, 998: 4999, 1000 + 1<<62: 5000 + 1<<61} {
		if got := l.at(ticks); got != want {
			t.Errorf("at(%d) = %d; want %d", ticks, got, want)
		}
	}
}

func BenchmarkTicksNow(b *testing.B) {
	ticks := newTicks(b)
	for b.Loop() {
		_ = ticks.Now()
	}
}
