package main

import "github.com/spf13/cobra"

func newTrace(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace COMMAND",
		Short: "Inspect and replay trace files",
		Long: `Inspect and replay trace files: this program's own, and those of every release of
LMCache. The first bytes tell them apart; no flag is needed.`,
	}
	cmd.AddCommand(newTraceInfo(a), newTraceReplay(a), newTraceDump(a), newTraceCompare(a), newTraceConvert(a),
		newTraceRepair(a))
	group(cmd, "trace_target")
	return cmd
}

// warn takes what readers tell about a file that they go on reading.
func (a *app) warn(msg string) { a.log.Warn(msg) }
