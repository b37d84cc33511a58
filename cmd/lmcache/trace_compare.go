package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/replay"
)

func newTraceCompare(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare RESULT...",
		Short: "Set the results of replays side by side",
		Long: `Set the results of replays side by side: what came of the calls, and how long
they took. A RESULT is the trace_replay_result.json that trace replay writes with
--json, or the folder that holds it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("the following arguments are required: RESULT")
			}
			return a.traceCompare(args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead")
	return cmd
}

func (a *app) traceCompare(paths []string, asJSON bool) error {
	var names []string
	var results []*replay.Result
	for _, path := range paths {
		if !strings.HasSuffix(path, ".json") {
			path = filepath.Join(path, replay.ResultName)
		}
		r, err := replay.ReadResult(path)
		if err != nil {
			return about(path, err)
		}
		names = append(names, filepath.Base(filepath.Dir(path)))
		results = append(results, r)
	}
	if asJSON {
		return a.printJSON(map[string]any{"results": results})
	}
	return replay.WriteComparison(a.stdout, names, results)
}
