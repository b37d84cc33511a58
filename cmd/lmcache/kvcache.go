package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/server/client"
)

func newKVCache(a *app) *cobra.Command {
	var out metricFlags
	cmd := &cobra.Command{
		Use:   "kvcache COMMAND",
		Short: "Manage the content of a cache server",
	}
	out.define(cmd.PersistentFlags())
	cmd.AddCommand(newKVCacheClear(a, &out))
	group(cmd, "kvcache_action")
	return cmd
}

func newKVCacheClear(a *app, out *metricFlags) *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "clear --url URL [flags]",
		Short: "Drop all of L1 that is not in use",
	}
	section(cmd, "Flags", func(flags *pflag.FlagSet) {
		flags.StringVar(&url, "url", "", "the server's HTTP `URL`, such as http://localhost:8080; required")
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := noOperands(args); err != nil {
			return err
		}
		if !cmd.Flags().Changed("url") {
			return usagef("the following arguments are required: --url")
		}
		err := client.NewAdmin(url).Clear(cmd.Context())
		var (
			status  *client.StatusError
			connect *client.ConnectError
		)
		switch {
		case errors.As(err, &status):
			a.log.Error(fmt.Sprintf("HTTP %d from %s: %s", status.Code, status.URL, status.Reason))
			return errReported
		case errors.As(err, &connect):
			a.log.Error(fmt.Sprintf("Cannot reach %s — is the server running? (%s)", connect.URL, connect.Cause()))
			return errReported
		case err != nil:
			return err
		}
		m := metrics{title: "KV Cache Clear", width: 48}
		m.add("status", "Status", "OK")
		return out.emit(a, &m)
	}
	return cmd
}
