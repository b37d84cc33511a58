package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace"
)

func newTrace(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "Inspect and replay trace files",
		Long: `Inspect and replay trace files: this program's own, and those of every release of
LMCache. The first bytes tell them apart; no flag is needed.`,
	}
	cmd.AddCommand(newTraceInfo(a), newTraceReplay(a), newTraceDump(a))
	group(cmd, "trace_target")
	return cmd
}

// warn returns what readers tell about a file that they go on reading.
func (a *app) warn() func(string) { return func(msg string) { a.log.Warn(msg) } }

// openTrace opens a trace of either format.
func openTrace(path string, warn func(string)) (trace.Source, error) {
	return nil, errors.New(path + ": no trace reader in this build")
}
