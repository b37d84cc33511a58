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
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// How much garbage may gather, in percent of what lives, unless GOGC says so. The
// bookkeeping of a replay's terabyte lives as long as the process and the usual
// headroom would double it; half of it costs no time that can be measured. A
// server has its objects' bytes beside the bookkeeping, which is little to them,
// and answers a fifth more lookups when collections are rare.
const (
	replayGarbagePercent = 50
	serverGarbagePercent = 400
)

func setGarbagePercent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
