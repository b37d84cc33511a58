package logfmt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lmcache/lmcache-go/internal/logfmt"
)

// sink is a reader of lines that takes its time for each write.
type sink struct {
	pause time.Duration
	gate  chan struct{} // if not nil, a write waits for a token, or its closing
	mu    sync.Mutex
	got   bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	time.Sleep(s.pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

func (s *sink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.got.String(), "\n"), "\n")
}

// record is a line such as a replay writes of every record.
func record(i int) string {
	return fmt.Sprintf("[%d/100000] OK lmcache.v1.distributed.storage_manager.StorageManager.reserve_write (0.012ms)", i)
}

// A hundred thousand lines, one every 20 µs, to a reader that holds every write
// up for 5 ms: no call waits, and nothing is lost.
func TestStreamKeepsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, gap = 100_000, 20 * time.Microsecond
		out := &sink{pause: 5 * time.Millisecond}
		stream := logfmt.NewStream(out)
		log := slog.New(logfmt.New(stream, logfmt.Options{}))
		start := time.Now()
		for i := range n {
			log.Info(record(i))
			time.Sleep(gap)
		}
		if took := time.Since(start); took != n*gap {
			t.Errorf("%d lines took %v; want %v", n, took, n*gap)
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		lines := out.lines()
		if len(lines) != n {
			t.Fatalf("got %d lines; want %d", len(lines), n)
		}
		for i, line := range lines {
			if !strings.Contains(line, "INFO: "+record(i)+" (stream_test.go:") {
				t.Fatalf("line %d: got %q", i, line)
			}
		}
		if w := stream.Waited(); w != 0 {
			t.Errorf("calls waited %v; want 0", w)
		}
	})
}

// A reader that is slower than the lines come holds the caller up, since
// nothing may be lost; memory stays bounded.
func TestStreamWaitsForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		out := &sink{pause: 900 * time.Millisecond}
		stream := logfmt.NewStream(out)
		log := slog.New(logfmt.New(stream, logfmt.Options{}))
		for i := range n {
			log.Info(record(i))
		}
		if w := stream.Waited(); w < time.Minute { // 16 MB, of which 8 may wait, by 64 KiB in 0.9 s
			t.Errorf("calls waited %v; want more than a minute", w)
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		lines := out.lines()
		if len(lines) != n || !strings.Contains(lines[n-1], record(n-1)) {
			t.Errorf("got %d lines, the last %q; want %d", len(lines), lines[len(lines)-1], n)
		}
	})
}

// A reader that has stopped costs one second, once; then lines are left out,
// and counted where they are missing.
func TestStreamCountsForAReaderThatStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		out := &sink{gate: make(chan struct{})}
		stream := logfmt.NewStream(out)
		handler := logfmt.New(stream, logfmt.Options{})
		log := slog.New(handler)
		start := time.Now()
		for i := range n {
			log.Info(record(i))
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("held up for %v; want 1s", took)
		}
		close(out.gate)
		stream.Flush()
		log.Error("after")
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		lines := out.lines()
		m := regexp.MustCompile(`WARNING: (\d+) log lines left out here: nobody read them \(handler\.go:\d+:lmcache\.internal\.logfmt\)$`).
			FindStringSubmatch(lines[len(lines)-2])
		if m == nil || !strings.Contains(lines[len(lines)-1], "ERROR: after") {
			t.Fatalf("got %q at the end", lines[len(lines)-2:])
		}
		lost, _ := strconv.Atoi(m[1])
		if kept := len(lines) - 2; kept+lost != n || kept < 20_000 || !strings.Contains(lines[kept-1], record(kept-1)) {
			t.Errorf("%d lines written and %d counted; want %d", kept, lost, n)
		}
	})
}

// What is missing at the end is counted too.
func TestStreamFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &sink{gate: make(chan struct{})}
		stream := logfmt.NewStream(out)
		handler := logfmt.New(stream, logfmt.Options{})
		for i := range 100_000 {
			slog.New(handler).Info(record(i))
		}
		close(out.gate)
		stream.Flush()
		handler.Finish()
		handler.Finish() // nothing to say any more
		if err := errors.Join(stream.Close(), stream.Close()); err != nil {
			t.Fatal(err)
		}
		if text := out.got.String(); strings.Count(text, "left out here") != 1 {
			t.Errorf("got %q at the end", text[len(text)-300:])
		}
	})
}

// A line is there soon, also the first after a long time, and Flush does not
// wait for it.
func TestStreamIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(sink)
		stream := logfmt.NewStream(out)
		for i, silence := range []time.Duration{0, time.Millisecond, time.Hour, 15 * time.Millisecond, time.Hour} {
			time.Sleep(silence)
			fmt.Fprintf(stream, "line %d\n", i)
			time.Sleep(11 * time.Millisecond)
			synctest.Wait()
			if got := out.lines(); len(got) != i+1 {
				t.Errorf("11 ms after line %d: got %q", i, got)
			}
		}
		start := time.Now()
		fmt.Fprintln(stream, "flushed")
		stream.Flush()
		if took := time.Since(start); took != 0 || len(out.lines()) != 6 {
			t.Errorf("flushed in %v: %q", took, out.lines())
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(stream, "late")
		if got := out.lines(); got[len(got)-1] != "late" {
			t.Errorf("after Close: got %q", got)
		}
	})
}

func TestStreamDivert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &sink{pause: time.Second}, new(sink)
		stream := logfmt.NewStream(first)
		fmt.Fprintln(stream, "one")
		time.Sleep(20 * time.Millisecond) // on its way
		stream.Divert(func() io.Writer {
			if got := first.got.String(); got != "one\n" {
				t.Errorf("diverted at %q", got)
			}
			return second
		})
		fmt.Fprintln(stream, "two")
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		if got := second.got.String(); got != "two\n" {
			t.Errorf("got %q", got)
		}
	})
}

// failing refuses the second write.
type failing struct{ sink }

func (f *failing) Write(b []byte) (int, error) {
	if f.got.Len() > 0 {
		return 0, errors.New("disk full")
	}
	return f.sink.Write(b)
}

func TestStreamError(t *testing.T) {
	stream := logfmt.NewStream(new(failing))
	for range 3 {
		fmt.Fprintln(stream, "x")
		stream.Flush()
	}
	if err := stream.Close(); err == nil || err.Error() != "disk full" {
		t.Errorf("got %v; want disk full", err)
	}
}

// The lines of each goroutine are in its order, and whole.
func TestStreamOfMany(t *testing.T) {
	var b bytes.Buffer
	stream := logfmt.NewStream(&b)
	log := slog.New(logfmt.New(stream, logfmt.Options{}))
	const n = 200
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range n {
				log.Info("line", "g", g, "i", i)
				if i%50 == g {
					stream.Flush()
				}
			}
		})
	}
	wg.Wait()
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	next, line := [4]int{}, regexp.MustCompile(`INFO: line g=(\d) i=(\d+) \(`)
	for text := range strings.Lines(b.String()) {
		m := line.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("got %q", text)
		}
		g, _ := strconv.Atoi(m[1])
		if m[2] != strconv.Itoa(next[g]) {
			t.Fatalf("goroutine %d: got line %s; want %d", g, m[2], next[g])
		}
		next[g]++
	}
	if next != [4]int{n, n, n, n} {
		t.Errorf("got %v lines", next)
	}
}

// BenchmarkLine is what the line of a record costs its caller: written by the
// call itself, or by a stream, to a pipe with a reader. Lines are 5 µs apart, as
// a busy replay makes them; without the distance the pipe would be measured.
//
//	go test ./internal/logfmt -run '^$' -bench Line -count 6
func BenchmarkLine(b *testing.B) {
	for _, way := range []string{"call", "stream"} {
		b.Run("by="+way, func(b *testing.B) {
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			go io.Copy(io.Discard, r)
			defer r.Close()
			defer w.Close()
			var out io.Writer = w
			if way == "stream" {
				stream := logfmt.NewStream(w)
				defer stream.Close()
				out = stream
			}
			log := slog.New(logfmt.New(out, logfmt.Options{}))
			b.ReportAllocs()
			text := []byte(record(12345))
			var spent time.Duration
			for b.Loop() {
				start := time.Now()
				log.Info(string(text))
				end := time.Now()
				for spent += end.Sub(start); time.Since(end) < 5*time.Microsecond; {
				}
			}
			b.ReportMetric(float64(spent)/float64(b.N), "ns/line")
		})
	}
}
