package main

import "github.com/spf13/cobra"

func newBench(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench COMMAND",
		Short: "Put load on a storage manager or a server",
	}
	cmd.AddCommand(newBenchStorage(a), newBenchServer(a))
	group(cmd, "bench_target")
	return cmd
}
