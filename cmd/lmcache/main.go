// Command lmcache records, inspects and replays traces of LMCache's storage
// manager. Each command is one file here: it parses and prints, packages do
// the work.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() { os.Exit(realMain()) }

// realMain is main without the exit, so that deferred calls run.
func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A command that does not come to its end after the first signal is
	// ended by the second.
	context.AfterFunc(ctx, stop)
	// The bookkeeping of a terabyte lives as long as the process, and the
	// collector's usual headroom would double it; half of it costs a replay
	// no time that can be measured.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
