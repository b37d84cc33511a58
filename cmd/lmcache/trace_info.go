package main

import (
	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace/tracefile"
)

func newTraceInfo(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info FILE [--json]",
		Short: "Print what a trace holds",
		Long: `Print what a trace holds: its format, how long it is, the digest of the recorded
configuration, and how many records there are of each operation.`,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := oneFile(args)
			if err != nil {
				return err
			}
			return a.traceInfo(path, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead")
	return cmd
}

func (a *app) traceInfo(path string, asJSON bool) error {
	s, err := tracefile.Summarize(path, a.warn)
	if err != nil {
		return about(path, err)
	}
	if asJSON {
		return a.printJSON(s.JSON())
	}
	return s.WriteText(a.stdout, path)
}
