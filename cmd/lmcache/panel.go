package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/lmcache/lmcache-go/telemetry"
)

// tally is how far a run is.
type tally struct {
	done, total int64 // total 0: nobody knows
	failed      int64
	running     int64         // requests at work; negative: there is no such thing
	lag         time.Duration // of what came last
	// at and length are the place in a schedule and its end, on which the time
	// that is left depends; length 0: on the counts alone.
	at, length time.Duration
}

// A view is what can be seen of a run while it lasts.
type view struct {
	name  string // of the command
	unit  string // of what is counted, plural
	start time.Time
	tally func() tally
	state func() telemetry.State

	mu      sync.Mutex
	evicted int64     // guarded by mu, as the next two: keys at the last look
	looked  time.Time // when that was
	rate    float64   // of evictions, a second
}

// evictionWindow is over what the rate of evictions is taken.
const evictionWindow = time.Second

// look returns the state in words: how far, the time, and how it fares. share
// is how much is done, negative if nobody knows.
func (v *view) look(now time.Time) (far, clock, fares string, share float64) {
	t, s := v.tally(), v.state()
	share = -1
	far = fmt.Sprintf("%s  %d %s", v.name, t.done, v.unit)
	switch {
	case t.total > 0:
		share = float64(t.done) / float64(t.total)
		far = fmt.Sprintf("%s  %d/%d %s  %3.0f %%", v.name, t.done, t.total, v.unit, 100*share)
	case t.length > 0:
		share = min(float64(t.at)/float64(t.length), 1)
		far += fmt.Sprintf("  %3.0f %%", 100*share)
	}
	elapsed := now.Sub(v.start)
	clock = minutes(elapsed) + " elapsed"
	if left, ok := remaining(&t, elapsed); ok {
		clock += ", " + minutes(left) + " left"
	}

	list := []string{"lag " + short(t.lag)}
	if t.running >= 0 {
		list = append(list, fmt.Sprintf("%d running", t.running))
	}
	hits := "-"
	if s.RequestedKeys > 0 {
		hits = fmt.Sprintf("%.1f %%", 100*float64(s.L1HitKeys+s.L2HitKeys)/float64(s.RequestedKeys))
	}
	var used, total int64
	for _, l1 := range s.L1 {
		used += l1.UsedBytes
		total += l1.TotalBytes
	}
	list = append(list, "hits "+hits)
	if total > 0 {
		list = append(list, fmt.Sprintf("L1 %.0f %% of %.4g GiB", 100*float64(used)/float64(total), float64(total)/(1<<30)))
	}
	list = append(list, fmt.Sprintf("%.0f evictions/s", v.evictionRate(now, evicted(&s))))
	if t.failed > 0 {
		list = append(list, fmt.Sprintf("%d FAILED", t.failed))
	}
	return far, clock, strings.Join(list, "  "), share
}

// evicted returns how many objects the policies of L1 have removed.
func evicted(s *telemetry.State) (n int64) {
	for i := range s.L1 {
		n += s.L1[i].EvictedObjects
	}
	return n
}

func (v *view) evictionRate(now time.Time, evicted int64) float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if since := now.Sub(v.looked); since >= evictionWindow {
		v.rate = float64(evicted-v.evicted) / since.Seconds()
		v.evicted, v.looked = evicted, now
	}
	return v.rate
}

// remaining estimates the time that is left. A schedule that is kept is left as
// it is; one that cannot be kept goes on as slowly as so far.
func remaining(t *tally, elapsed time.Duration) (left time.Duration, ok bool) {
	done, all := float64(t.done), float64(t.total)
	if t.length > 0 {
		done, all = float64(t.at), float64(t.length)
	}
	if done <= 0 || all <= 0 {
		return 0, false
	}
	return time.Duration(min(max(all-done, 0)/done*float64(elapsed), float64(1000*time.Hour))), true
}

// short is d to three digits or so.
func short(d time.Duration) string {
	for unit := time.Second; unit >= time.Microsecond; unit /= 1000 {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// minutes is d as a clock shows it: 0:07, 12:34, 1:02:03.
func minutes(d time.Duration) string {
	s := int64(d / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// progressFlag says whether a run shows how far it is.
type progressFlag struct{ mode string }

func (f *progressFlag) define(flags *pflag.FlagSet, otherwise string) {
	f.mode = "auto"
	flags.Var(choiceValue{&f.mode, []string{"auto", "off"}}, "progress",
		"auto: a live panel if stderr is a terminal, "+otherwise+"; off: no panel")
}

// A panel keeps a view in front of the user: as two lines at the bottom of the
// terminal, or as a log line now and then.
type panel struct {
	view   *view
	ended  chan struct{} // closes when it is to end
	gone   sync.WaitGroup
	log    *logs
	mpb    *mpb.Progress // nil without a terminal, as the next
	bar    *mpb.Bar
	redraw chan any // makes mpb redraw
	failed chan any // closed when mpb has ended, also because the terminal has
	shared bool     // the log goes through mpb, too
}

const (
	redrawEvery = 250 * time.Millisecond
	sayEvery    = 10 * time.Second
)

// showsPanel reports whether a run would have a panel on the terminal.
func (a *app) showsPanel(mode string) bool { return mode == "auto" && isTerminal(a.terminal) }

// show begins to show v, until the function that it returns is called, or
// something else is written to the terminal. Without a terminal log lines say how
// far the run is, if they are wanted.
func (a *app) show(v *view, mode string, lines bool) (end func()) {
	state := v.state()
	v.start = time.Now()
	v.looked, v.evicted = v.start, evicted(&state)
	p := &panel{view: v, ended: make(chan struct{}), log: a.logs}
	switch {
	case a.showsPanel(mode):
		p.draw(a.terminal)
	case lines && mode == "auto":
		p.gone.Go(func() { p.say(a.log) })
	default:
		return func() {}
	}
	a.logs.mu.Lock()
	a.logs.panel = p
	a.logs.mu.Unlock()
	return a.logs.endPanel
}

// say logs the view now and then.
func (p *panel) say(log *slog.Logger) {
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			far, clock, fares, _ := p.view.look(now)
			log.Info(far + "  " + clock + "  " + fares)
		case <-p.ended:
			return
		}
	}
}

// barSteps is the resolution of the bar.
const barSteps = 1 << 20

// draw draws the panel on the terminal w. Log lines that go there, too, appear
// above it.
func (p *panel) draw(w io.Writer, options ...mpb.ContainerOption) {
	var (
		mu                sync.Mutex
		far, clock, fares string // guarded by mu
	)
	var style mpb.BarFillerBuilder = mpb.NopStyle()
	if t := p.view.tally(); t.total > 0 || t.length > 0 {
		style = mpb.BarStyle()
	}
	word := func(s *string, form string) decor.Decorator {
		return decor.Any(func(decor.Statistics) string {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprintf(form, *s)
		})
	}
	update := func(now time.Time) {
		f, c, g, share := p.view.look(now)
		mu.Lock()
		far, clock, fares = f, c, g
		mu.Unlock()
		if p.bar != nil && share > 0 {
			p.bar.SetCurrent(min(int64(share*barSteps), barSteps-1)) // the end of the run ends it, not a full bar
		}
	}
	update(p.view.start)
	p.redraw, p.failed = make(chan any), make(chan any)
	p.mpb = mpb.New(append([]mpb.ContainerOption{mpb.WithOutput(w), mpb.WithManualRefresh(p.redraw), mpb.WithShutdownNotifier(p.failed)}, options...)...)
	p.bar = p.mpb.New(barSteps, style,
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(word(&far, "%s ")),
		mpb.AppendDecorators(word(&clock, " %s")),
		mpb.BarExtender(mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
			mu.Lock()
			defer mu.Unlock()
			_, err := fmt.Fprintf(w, "%.*s\n", s.AvailableWidth, fares)
			return err
		}), false))
	if p.shared = sameFile(w, p.log.file); p.shared {
		p.log.stream.Divert(func() io.Writer { return &above{p.mpb, w} })
	}
	p.gone.Go(func() {
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				update(now)
				p.draws(now)
			case <-p.ended:
				return
			}
		}
	})
}

// draws has mpb redraw, unless the terminal has failed it.
func (p *panel) draws(now time.Time) {
	select {
	case p.redraw <- now:
	case <-p.failed:
	}
}

// above writes lines above the panel, or as they are once it is gone: with the
// terminal, for example.
type above struct {
	panel *mpb.Progress
	w     io.Writer
}

func (a *above) Write(b []byte) (int, error) {
	if n, err := a.panel.Write(b); err == nil {
		return n, nil
	}
	return a.w.Write(b)
}

// end takes the panel off the terminal.
func (p *panel) end() {
	close(p.ended)
	p.gone.Wait()
	if p.mpb == nil {
		return
	}
	erase := func() {
		// Lines that mpb has taken appear when it redraws, and only then: the
		// second request is taken when the first is being carried out.
		p.draws(time.Now())
		p.draws(time.Now())
		p.bar.Abort(true)
		p.mpb.Wait()
	}
	if !p.shared {
		erase()
		return
	}
	p.log.stream.Divert(func() io.Writer { erase(); return p.log.file })
}
