// Command lmcache records, inspects and replays traces of LMCache's storage
// manager. Each command is one file here: it parses and prints, packages do
// the work.
package main

import (
	"context"
	"os"
	"os/signal"
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
