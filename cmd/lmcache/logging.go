package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/lmcache/lmcache-go/internal/logfmt"
)

// logs is the log of the process: lines in LMCache's format on stderr, or on
// stdout with LMCACHE_LOG_OUTPUT=stdout, from the level LMCACHE_LOG_LEVEL on.
// They are written in the background.
type logs struct {
	logger  *slog.Logger
	level   *slog.LevelVar // may be changed
	handler *logfmt.Handler
	stream  *logfmt.Stream
	file    io.Writer // where lines go
	color   bool      // lines are coloured
	chosen  bool      // the user has set a level

	mu    sync.Mutex
	panel *panel // guarded by mu; the one on the terminal, nil for none
}

// newLogs starts the log. The caller must close it.
func newLogs(stdout, stderr io.Writer) *logs {
	l := &logs{file: stderr, level: new(slog.LevelVar)}
	if os.Getenv("LMCACHE_LOG_OUTPUT") == "stdout" {
		l.file = stdout
	}
	level := os.Getenv("LMCACHE_LOG_LEVEL")
	l.chosen = level != ""
	l.level.Set(logfmt.ParseLevel(level))
	l.stream = logfmt.NewStream(l.file)
	l.color = isTerminal(l.file) && os.Getenv("NO_COLOR") == ""
	l.handler = logfmt.New(l.stream, logfmt.Options{Level: l.level, Color: l.color})
	l.logger = slog.New(l.handler)
	return l
}

// waitedLong is from when on a wait for the reader of the log is worth a line:
// it is part of what a replay then shows as its lag.
const waitedLong = 10 * time.Millisecond

// close writes what was logged, and says how the log fared if not well. Logging
// goes on after it, unbuffered.
func (l *logs) close() error {
	l.endPanel()
	l.stream.Flush()
	if w := l.stream.Waited(); w >= waitedLong {
		l.logger.Warn(fmt.Sprintf("calls waited %v in all for the reader of these lines", w.Round(time.Millisecond)))
	}
	l.handler.Finish()
	if err := l.stream.Close(); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// behind returns a writer whose text stands below the log lines, and the panel,
// that came before it, where both go to the same place.
func (l *logs) behind(w io.Writer) io.Writer {
	if !sameFile(w, l.file) {
		return w
	}
	return &behind{w, l}
}

type behind struct {
	w io.Writer
	l *logs
}

func (b *behind) Write(p []byte) (int, error) {
	b.l.endPanel()
	b.l.stream.Flush()
	return b.w.Write(p)
}

func (l *logs) endPanel() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panel != nil {
		l.panel.end()
		l.panel = nil
	}
}

// sameFile reports whether what is written to a and b meets: on a terminal, or
// after 2>&1.
func sameFile(a, b io.Writer) bool {
	f, okF := a.(*os.File)
	g, okG := b.(*os.File)
	if !okF || !okG {
		return a == b
	}
	fInfo, errF := f.Stat()
	gInfo, errG := g.Stat()
	return errF == nil && errG == nil && os.SameFile(fInfo, gInfo)
}

// onTerminal reports whether log lines and a panel would share a terminal.
func (l *logs) onTerminal() bool { return isTerminal(l.file) }

// isTerminal reports whether w is a terminal that knows control codes.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
