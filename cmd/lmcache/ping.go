package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/server/client"
)

// pingTarget is one thing that can be pinged.
type pingTarget struct{ title, url, path string }

var pingTargets = map[string]pingTarget{
	"kvcache": {"Ping KV Cache", "http://localhost:8080", "/healthcheck"},
	"engine":  {"Ping Engine", "http://localhost:8000", "/health"},
}

func newPing(a *app) *cobra.Command {
	var (
		url string
		out metricFlags
	)
	cmd := &cobra.Command{
		Use:   "ping kvcache|engine [flags]",
		Short: "Ask a cache server or an inference engine whether it is well",
		Long: `Ask over HTTP whether a cache server (kvcache) or an inference engine (engine) is
well. The exit status is 0 if it says so, else 1.`,
		Args: cobra.ArbitraryArgs,
	}
	section(cmd, "Flags", func(flags *pflag.FlagSet) {
		flags.StringVar(&url, "url", "", "server's `URL` (default http://localhost:8080 for kvcache, http://localhost:8000 for engine)")
		out.define(flags)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := oneTarget(args, "kvcache", "engine")
		if err != nil {
			return err
		}
		target := pingTargets[name]
		if url == "" {
			url = target.url
		}
		_, took, failure := client.NewAdmin(url).Get(cmd.Context(), target.path)
		m := metrics{title: target.title, width: 30}
		m.add("status", "Status", map[bool]string{true: "OK", false: "FAIL"}[failure == nil])
		m.add("round_trip_time_ms", "Round trip time (ms)", rounded(took.Seconds()*1e3, 2))
		if err := out.emit(a, &m); err != nil {
			return err
		}
		if failure != nil {
			fmt.Fprintln(a.stderr, failure)
			return errReported
		}
		return nil
	}
	return cmd
}

// oneTarget accepts exactly one operand, which is one of names.
func oneTarget(args []string, names ...string) (string, error) {
	if len(args) == 0 {
		return "", usagef("the following arguments are required: target")
	}
	name := args[0]
	if err := (choiceValue{&name, names}).Set(name); err != nil {
		return "", usagef("argument target: %w", err)
	}
	return name, noOperands(args[1:])
}

// sayHTTP prints why a request over HTTP came to nothing, as LMCache does.
func (a *app) sayHTTP(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) {
		fmt.Fprintf(a.stderr, "HTTP %d from %s: %s\n", status.Code, status.URL, status.Reason)
		return errReported
	}
	var connect *client.ConnectError
	if errors.As(err, &connect) {
		fmt.Fprintln(a.stderr, err)
		return errReported
	}
	return err
}
