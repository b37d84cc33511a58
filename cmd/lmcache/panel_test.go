package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vbauerster/mpb/v8"
	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/telemetry"
)

func TestViewLook(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	state := telemetry.State{RequestedKeys: 8, L1HitKeys: 4, L2HitKeys: 1,
		L1: []telemetry.L1State{{UsedBytes: 3 << 30, TotalBytes: 4 << 30, Eviction: telemetry.Eviction{EvictedObjects: 30}}, {UsedBytes: 0, TotalBytes: 8 << 30}}}
	for _, tt := range []struct {
		name              string
		tally             tally
		state             telemetry.State
		after             time.Duration
		far, clock, fares string
		share             float64
	}{
		{"a replay that keeps its schedule",
			tally{done: 10, total: 200, running: -1, lag: 1234567, at: 30 * time.Second, length: 90 * time.Second}, state, 30 * time.Second,
			"run  10/200 records    5 %", "0:30 elapsed, 1:00 left", "lag 1.23ms  hits 62.5 %  L1 25 % of 12 GiB  1 evictions/s", 0.05},
		{"one that is at half its pace",
			tally{done: 100, total: 200, failed: 3, running: -1, lag: 30 * time.Second, at: 30 * time.Second, length: 90 * time.Second}, state, time.Minute,
			"run  100/200 records   50 %", "1:00 elapsed, 2:00 left", "lag 30s  hits 62.5 %  L1 25 % of 12 GiB  0 evictions/s  3 FAILED", 0.5},
		{"no schedule: by counts",
			tally{done: 150, total: 200, running: 7, lag: 440}, telemetry.State{}, 3 * time.Hour,
			"run  150/200 records   75 %", "3:00:00 elapsed, 1:00:00 left", "lag 440ns  7 running  hits -  0 evictions/s", 0.75},
		{"a duration and no number",
			tally{done: 9, running: 0, at: 6 * time.Minute, length: 10 * time.Minute}, telemetry.State{}, 6 * time.Second,
			"run  9 records   60 %", "0:06 elapsed, 0:04 left", "lag 0s  0 running  hits -  0 evictions/s", 0.6},
		{"nobody knows the end",
			tally{done: 9, running: 2}, telemetry.State{}, time.Second,
			"run  9 records", "0:01 elapsed", "lag 0s  2 running  hits -  0 evictions/s", -1},
		{"nothing done", tally{total: 5, running: -1}, telemetry.State{}, 0,
			"run  0/5 records    0 %", "0:00 elapsed", "lag 0s  hits -  0 evictions/s", 0},
	} {
		v := view{name: "run", unit: "records", start: start, looked: start,
			tally: func() tally { return tt.tally }, state: func() telemetry.State { return tt.state }}
		far, clock, fares, share := v.look(start.Add(tt.after))
		if far != tt.far || clock != tt.clock || share != tt.share || tt.name == "a replay that keeps its schedule" && fares != tt.fares {
			t.Errorf("%s:\n got %q, %q, %q, %v\nwant %q, %q, %q, %v", tt.name, far, clock, fares, share, tt.far, tt.clock, tt.fares, tt.share)
		}
	}
}

// screen is a terminal as far as a panel needs one.
type screen struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

// shown is what a terminal would show: the panel's escape codes move up and
// erase what is below.
func (s *screen) shown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	up := regexp.MustCompile(`\x1b\[(\d+)A\x1b\[J`)
	for line := range strings.Lines(s.got.String()) {
		for {
			m := up.FindStringSubmatchIndex(line)
			if m == nil {
				break
			}
			n := 0
			_, _ = fmt.Sscan(line[m[2]:m[3]], &n)
			lines = lines[:len(lines)-n]
			line = line[:m[0]] + line[m[1]:]
		}
		if line != "" {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// Log lines that come while there is a panel stand above it, all of them and in
// their order, also those of the last moment; then nothing of it is left.
func TestPanelAndLog(t *testing.T) {
	defer goleak.VerifyNone(t)
	for round := range 20 {
		var s screen
		l := newLogs(io.Discard, &s)
		p := &panel{ended: make(chan struct{}), log: l, view: &view{
			name: "run", unit: "records", start: time.Now(),
			tally: func() tally { return tally{done: 3, total: 10, running: -1} },
			state: func() telemetry.State { return telemetry.State{} },
		}}
		p.draw(&s, mpb.ForceTTY(), mpb.WithWidth(90))
		l.panel = p
		for i := range 50 {
			l.logger.Info(fmt.Sprintf("line %d", i))
			if i == 25 {
				l.stream.Flush()
				p.draws(time.Now())
			}
		}
		result := l.behind(&s)
		fmt.Fprintln(result, "result")
		l.logger.Info("line 50")
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		lines := s.shown()
		if len(lines) != 52 || lines[50] != "result" {
			t.Fatalf("round %d: got %d lines:\n%s", round, len(lines), strings.Join(lines, "\n"))
		}
		for i, line := range append(lines[:50:50], lines[51]) {
			if !strings.Contains(line, fmt.Sprintf("INFO: line %d (", i)) {
				t.Fatalf("round %d: line %d is %q", round, i, line)
			}
		}
	}
}

// Without a terminal a benchmark says every ten seconds how far it is.
func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		l := newLogs(io.Discard, &s)
		a := &app{log: l.logger, logs: l, terminal: &s}
		done := int64(0)
		end := a.show(&view{
			name: "bench storage", unit: "requests",
			tally: func() tally { done += 10; return tally{done: done, total: 100, running: 2} },
			state: func() telemetry.State { return telemetry.State{} },
		}, "auto", true)
		time.Sleep(25 * time.Second)
		end()
		end()
		time.Sleep(time.Minute)
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		lines := s.shown()
		for i, want := range []string{
			"INFO: bench storage  10/100 requests   10 %  0:10 elapsed, 1:30 left  lag 0s  2 running  hits -  0 evictions/s (",
			"INFO: bench storage  20/100 requests   20 %  0:20 elapsed, 1:20 left  lag 0s  2 running  hits -  0 evictions/s (",
		} {
			if len(lines) != 2 || !strings.Contains(lines[i], want) {
				t.Fatalf("got %q; want %q", lines, want)
			}
		}
	})
}

// slowScreen takes half a second for a write.
type slowScreen struct{ screen }

func (s *slowScreen) Write(b []byte) (int, error) {
	time.Sleep(500 * time.Millisecond)
	return s.screen.Write(b)
}

// The last line says how long calls waited for the reader of the log, since that
// is part of their lag.
func TestLogSaysThatItWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slowScreen
		l := newLogs(io.Discard, &s)
		for range 60_000 {
			l.logger.Info(strings.Repeat("x", 100))
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		lines := s.shown()
		m := regexp.MustCompile(`WARNING: calls waited (\S+) in all for the reader of these lines`).FindStringSubmatch(lines[len(lines)-1])
		if len(lines) != 60_001 || m == nil {
			t.Fatalf("%d lines, the last %q", len(lines), lines[len(lines)-1])
		}
		if d, err := time.ParseDuration(m[1]); err != nil || d < 10*time.Second {
			t.Errorf("waited %s; want more than 10s", m[1])
		}
	})
}
