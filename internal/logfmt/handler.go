// Package logfmt writes log records as LMCache prints them, so that what reads
// its logs reads ours:
//
//	[2026-03-01 12:00:00,123] LMCache INFO: message (recorder.go:77:lmcache.trace)
//
// Source: reference lct-v1.md, section 5.7; observability.md, section 5.1.
package logfmt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// LevelCritical is Python's level above ERROR.
const LevelCritical = slog.Level(12)

// Options configures New.
type Options struct {
	Level slog.Leveler // lowest level that is printed; INFO if nil
	Color bool         // LMCache's escape codes, for a terminal
}

// Handler is a slog.Handler for one writer. Each record is one Write. What a
// record has beside its message follows it as key=value. Where a Stream has
// refused lines, the next that it takes is preceded by one that says how many.
type Handler struct {
	level  slog.Leveler
	color  bool
	prefix string // attributes of WithAttrs, formatted, each with a space before it
	groups string // open groups, each with a dot behind it

	out *output // shared by the handlers derived from one New
}

type output struct {
	mu      sync.Mutex
	w       io.Writer          // guarded by mu
	buf     []byte             // guarded by mu; reused
	sources map[uintptr]string // guarded by mu; (file:line:logger) of every place that logs
	lost    int64              // guarded by mu; lines that a Stream refused since the last it took
}

// New returns a handler that writes to w.
func New(w io.Writer, opt Options) *Handler {
	if opt.Level == nil {
		opt.Level = slog.LevelInfo
	}
	return &Handler{level: opt.Level, color: opt.Color, out: &output{w: w, sources: map[uintptr]string{}}}
}

// ParseLevel reads the value of LMCACHE_LOG_LEVEL, in any case. What is unknown
// or empty means INFO.
func ParseLevel(name string) slog.Level {
	switch strings.ToUpper(name) {
	case "DEBUG":
		return slog.LevelDebug
	case "WARNING":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	case "CRITICAL":
		return LevelCritical
	}
	return slog.LevelInfo
}

// levelForm returns the name and the escape code of a level.
func levelForm(l slog.Level) (name, color string) {
	switch {
	case l >= LevelCritical:
		return "CRITICAL", "\x1b[31;1m"
	case l >= slog.LevelError:
		return "ERROR", "\x1b[31;20m"
	case l >= slog.LevelWarn:
		return "WARNING", "\x1b[33;20m"
	case l >= slog.LevelInfo:
		return "INFO", "\x1b[32;20m"
	}
	return "DEBUG", "\x1b[1m"
}

const reset, italic = "\x1b[0m", "\x1b[3m"

// Enabled reports whether records of level l are printed.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle prints r. Its time is shown in its own location: local time, unless
// the caller made it otherwise.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	o := h.out
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.buf[:0]
	if o.lost > 0 {
		b = h.appendGap(b, r.Time)
	}
	b = h.appendStart(b, r.Time, r.Level)
	b = append(b, r.Message...)
	b = append(b, h.prefix...)
	if r.NumAttrs() > 0 {
		r.Attrs(func(a slog.Attr) bool {
			b = appendAttr(b, h.groups, a)
			return true
		})
	}
	source, ok := o.sources[r.PC]
	if !ok {
		source = string(appendSource(nil, r.PC))
		o.sources[r.PC] = source
	}
	b = h.appendEnd(b, source)
	return o.write(b)
}

// write writes b, which is kept to be reused, and counts it if it is refused.
func (o *output) write(b []byte) error {
	o.buf = b
	_, err := o.w.Write(b)
	if errors.Is(err, ErrFull) {
		o.lost++
	} else {
		o.lost = 0
	}
	return err
}

// appendStart appends what stands before the message.
func (h *Handler) appendStart(b []byte, t time.Time, level slog.Level) []byte {
	name, color := levelForm(level)
	if h.color {
		b = append(b, color...)
	}
	b = append(b, '[')
	b = t.AppendFormat(b, "2006-01-02 15:04:05,000")
	b = append(b, "] LMCache "...)
	b = append(b, name...)
	b = append(b, ':')
	if h.color {
		b = append(b, reset...)
	}
	return append(b, ' ')
}

// appendEnd appends what stands behind it.
func (h *Handler) appendEnd(b []byte, source string) []byte {
	b = append(b, ' ')
	if h.color {
		b = append(b, italic...)
	}
	b = append(b, source...)
	if h.color {
		b = append(b, reset...)
	}
	return append(b, '\n')
}

// appendGap appends the line that stands for those that were refused.
func (h *Handler) appendGap(b []byte, t time.Time) []byte {
	b = h.appendStart(b, t, slog.LevelWarn)
	b = strconv.AppendInt(b, h.out.lost, 10)
	b = append(b, " log lines left out here: nobody read them"...)
	var here [1]uintptr
	runtime.Callers(1, here[:])
	return h.appendEnd(b, string(appendSource(nil, here[0])))
}

// Finish says how many lines were refused at the end, where no line follows
// them.
func (h *Handler) Finish() {
	o := h.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost > 0 {
		_ = o.write(h.appendGap(o.buf[:0], time.Now()))
	}
}

// WithAttrs returns a handler that adds attrs to every record.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	b := []byte(h.prefix)
	for _, a := range attrs {
		b = appendAttr(b, h.groups, a)
	}
	derived.prefix = string(b)
	return &derived
}

// WithGroup returns a handler that puts name and a dot before later keys.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	derived := *h
	derived.groups += name + "."
	return &derived
}

func appendAttr(b []byte, groups string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			groups += a.Key + "."
		}
		for _, member := range v.Group() {
			b = appendAttr(b, groups, member)
		}
		return b
	}
	if a.Equal(slog.Attr{}) {
		return b
	}
	b = append(b, ' ')
	b = append(b, groups...)
	b = append(b, a.Key...)
	b = append(b, '=')
	s := v.String()
	if s == "" || strings.ContainsAny(s, " \t\r\n\"=") {
		return strconv.AppendQuote(b, s)
	}
	return append(b, s...)
}

// appendSource appends (file:line:logger). The logger is the package that
// spoke, as a dotted name below lmcache.
func appendSource(b []byte, pc uintptr) []byte {
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	file := frame.File
	if file == "" {
		file = "?"
	}
	b = append(b, '(')
	b = append(b, path.Base(file)...)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(frame.Line), 10)
	b = append(b, ':')
	b = append(b, loggerName(frame.Function)...)
	return append(b, ')')
}

const module = "github.com/lmcache/lmcache-go/"

// loggerName turns a function such as module/trace/lct.(*Reader).Next into
// lmcache.trace.lct. The command and functions of others are lmcache; in a test
// of the command its package is not called main.
func loggerName(function string) string {
	inside, ok := strings.CutPrefix(function, module)
	if !ok || strings.HasPrefix(inside, "cmd/") {
		return "lmcache"
	}
	dir, last := "", inside
	if i := strings.LastIndexByte(inside, '/'); i >= 0 {
		dir, last = inside[:i+1], inside[i+1:]
	}
	last, _, _ = strings.Cut(last, ".")
	return "lmcache." + strings.ReplaceAll(dir+last, "/", ".")
}
