package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/replay"
)

func newTraceCompare(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare RESULT... [--json]",
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
	var results []*replay.Result
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, replay.ResultName)
		}
		r, err := replay.ReadResult(path)
		if err != nil {
			return about(path, err)
		}
		results = append(results, r)
	}
	if asJSON {
		return a.printJSON(map[string]any{"results": results})
	}
	return replay.WriteComparison(a.stdout, columnNames(paths), results)
}

// columnNames returns what tells the results apart: the last part of each path
// that is not the name that all results have, or the whole path where that is
// not enough.
func columnNames(paths []string) []string {
	names := make([]string, len(paths))
	seen := map[string]string{}
	for i, path := range paths {
		path = filepath.Clean(path)
		if filepath.Base(path) == replay.ResultName {
			path = filepath.Dir(path)
		}
		names[i] = filepath.Base(path)
		if other, ok := seen[names[i]]; ok && other != path {
			return paths
		}
		seen[names[i]] = path
	}
	return names
}
