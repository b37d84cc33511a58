package logfmt_test

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/lmcache/lmcache-go/internal/logfmt"
)

func print(opt logfmt.Options, level slog.Level, msg string, attrs ...slog.Attr) string {
	var b strings.Builder
	h := logfmt.New(&b, opt)
	r := slog.NewRecord(time.Date(2026, 3, 1, 9, 5, 7, 42_900_000, time.UTC), level, msg, 0)
	r.AddAttrs(attrs...)
	if h.Enabled(context.Background(), level) {
		_ = h.Handle(context.Background(), r)
	}
	return b.String()
}

func TestLine(t *testing.T) {
	for _, tt := range []struct{ name, got, want string }{
		{"plain", print(logfmt.Options{}, slog.LevelInfo, "hello"), "[2026-03-01 09:05:07,042] LMCache INFO: hello (?:0:lmcache)\n"},
		{"colour", print(logfmt.Options{Color: true}, slog.LevelWarn, "hello"),
			"\x1b[33;20m[2026-03-01 09:05:07,042] LMCache WARNING:\x1b[0m hello \x1b[3m(?:0:lmcache)\x1b[0m\n"},
		{"critical", print(logfmt.Options{}, logfmt.LevelCritical, "x"), "[2026-03-01 09:05:07,042] LMCache CRITICAL: x (?:0:lmcache)\n"},
		{"below the level", print(logfmt.Options{}, slog.LevelDebug, "x"), ""},
		{"debug", print(logfmt.Options{Level: slog.LevelDebug, Color: true}, slog.LevelDebug, "x"),
			"\x1b[1m[2026-03-01 09:05:07,042] LMCache DEBUG:\x1b[0m x \x1b[3m(?:0:lmcache)\x1b[0m\n"},
		{"several lines", print(logfmt.Options{}, slog.LevelError, "a\nb"), "[2026-03-01 09:05:07,042] LMCache ERROR: a\nb (?:0:lmcache)\n"},
		{"attributes", print(logfmt.Options{}, slog.LevelInfo, "x", slog.Int("n", 3), slog.String("s", "a b"), slog.Group("g", slog.Bool("b", true))),
			"[2026-03-01 09:05:07,042] LMCache INFO: x n=3 s=\"a b\" g.b=true (?:0:lmcache)\n"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestSourceAndDerivedHandlers(t *testing.T) {
	var b strings.Builder
	log := slog.New(logfmt.New(&b, logfmt.Options{})).With("a", 1).WithGroup("g").With("b", 2)
	log.Info("hello", "c", 3)
	want := `^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] LMCache INFO: hello a=1 g\.b=2 g\.c=3 \(handler_test\.go:\d+:lmcache\.internal\.logfmt_test\)\n$`
	if got := b.String(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("got %q; want a match of %s", got, want)
	}
}

func TestParseLevel(t *testing.T) {
	for name, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "Warning": slog.LevelWarn,
		"ERROR": slog.LevelError, "critical": logfmt.LevelCritical, "nonsense": slog.LevelInfo} {
		if got := logfmt.ParseLevel(name); got != want {
			t.Errorf("ParseLevel(%q) = %v; want %v", name, got, want)
		}
	}
}

// slogtest holds the handler to what slog promises of every handler.
func TestHandlerContract(t *testing.T) {
	var b strings.Builder
	line := regexp.MustCompile(`^\[(.*?)\] LMCache (\w+): (.*) \([^()]*\)\n$`)
	attr := regexp.MustCompile(`(\S+?)=("(?:[^"\\]|\\.)*"|\S+)`)
	slogtest.Run(t, func(*testing.T) slog.Handler {
		b.Reset()
		return logfmt.New(&b, logfmt.Options{})
	}, func(t *testing.T) map[string]any {
		m := line.FindStringSubmatch(b.String())
		if m == nil {
			t.Fatalf("got %q", b.String())
		}
		got := map[string]any{slog.LevelKey: m[2]}
		if !strings.HasPrefix(m[1], "0001-") {
			got[slog.TimeKey] = m[1]
		}
		msg, _, _ := strings.Cut(m[3], " ")
		got[slog.MessageKey] = msg
		for _, a := range attr.FindAllStringSubmatch(m[3], -1) {
			in := got
			keys := strings.Split(a[1], ".")
			for _, k := range keys[:len(keys)-1] {
				if in[k] == nil {
					in[k] = map[string]any{}
				}
				in = in[k].(map[string]any)
			}
			in[keys[len(keys)-1]] = a[2]
		}
		return got
	})
}

// One record is one Write, also when many goroutines log.
func TestLinesDoNotMix(t *testing.T) {
	r, w := io.Pipe()
	log := slog.New(logfmt.New(w, logfmt.Options{}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				log.Info(strings.Repeat("x", 100))
			}
		})
	}
	go func() { wg.Wait(); w.Close() }()
	all, _ := io.ReadAll(r)
	lines := strings.SplitAfter(string(all), "\n")
	if len(lines) != 401 {
		t.Fatalf("got %d lines; want 400", len(lines)-1)
	}
	for _, l := range lines[:400] {
		if !strings.HasPrefix(l, "[") || strings.Count(l, "x") < 100 || !strings.HasSuffix(l, ")\n") {
			t.Fatalf("got %q", l)
		}
	}
}
