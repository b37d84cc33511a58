package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmcache/lmcache-go/internal/logfmt"
)

// newLogger returns the logger of the process: lines in LMCache's format on
// stderr, or on stdout with LMCACHE_LOG_OUTPUT=stdout, from the level
// LMCACHE_LOG_LEVEL on. The level may be changed.
func newLogger(stdout, stderr io.Writer) (*slog.Logger, *slog.LevelVar) {
	w := stderr
	if os.Getenv("LMCACHE_LOG_OUTPUT") == "stdout" {
		w = stdout
	}
	level := new(slog.LevelVar)
	level.Set(logfmt.ParseLevel(os.Getenv("LMCACHE_LOG_LEVEL")))
	return slog.New(logfmt.New(w, logfmt.Options{
		Level: level,
		Color: wantsColor(w),
	})), level
}

// wantsColor reports whether w is a terminal whose user has not said no.
func wantsColor(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
