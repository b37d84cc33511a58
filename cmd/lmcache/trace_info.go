package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newTraceInfo(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info FILE",
		Short: "Print what a trace holds",
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
	return errors.New(path + ": no trace reader in this build")
}
