package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace/lct"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

func newTraceConvert(a *app) *cobra.Command {
	var o struct {
		to, release string
		force, json bool
	}
	o.release = lct.NewestRelease
	cmd := &cobra.Command{
		Use:   "convert SRC DST --to native|lmcache [flags]",
		Short: "Write a trace in the other format, or for another release",
		Long: `Write a trace in this program's format, or in that of a release of LMCache, whatever
SRC is. A file of LMCache that goes through the native format and back to its own
release is the same, byte by byte. What the format of DST cannot hold is counted
and named on stderr. The exit status is 1 if records could not be converted; all
others then are.`,
	}
	flags := cmd.Flags()
	flags.Var(choiceValue{&o.to, []string{"native", "lmcache"}}, "to", "format of DST; required")
	flags.Var(choiceValue{&o.release, lct.Releases()}, "release", "with --to lmcache: write the records as this release does")
	flags.BoolVar(&o.force, "force", false, "replace DST if it exists")
	flags.BoolVar(&o.json, "json", false, "print one JSON object instead")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		src, dst, err := twoFiles(args, cmd.Flags().Changed("to"))
		if err != nil {
			return err
		}
		opt := tracefile.ConvertOptions{Force: o.force, Warn: a.warn}
		if o.to == "lmcache" {
			opt.Release = o.release
		} else if cmd.Flags().Changed("release") {
			return usagef("argument --release: only with --to lmcache")
		}
		return a.traceConvert(cmd.Context(), src, dst, opt, o.json)
	}
	return cmd
}

// twoFiles accepts exactly two operands.
func twoFiles(args []string, hasTo bool) (src, dst string, err error) {
	var missing []string
	switch len(args) {
	case 0:
		missing = []string{"SRC", "DST"}
	case 1:
		missing = []string{"DST"}
	}
	if !hasTo {
		missing = append(missing, "--to")
	}
	if len(missing) > 0 {
		return "", "", usagef("the following arguments are required: %s", strings.Join(missing, ", "))
	}
	for i, name := range []string{"SRC", "DST"} {
		if args[i] == "" {
			return "", "", usagef("argument %s: invalid value: '' (allowed: a file)", name)
		}
	}
	return args[0], args[1], noOperands(args[2:])
}

func (a *app) traceConvert(ctx context.Context, src, dst string, opt tracefile.ConvertOptions, asJSON bool) error {
	c, err := tracefile.Convert(ctx, src, dst, opt)
	if err != nil {
		return err
	}
	tell := func(format string, args ...any) { fmt.Fprintf(a.stderr, "convert: "+format+"\n", args...) }
	for _, l := range c.Losses {
		if l.Records == 1 {
			l.What = strings.Replace(l.What, "lose their", "loses its", 1)
		}
		tell("%s %s", recordCount(l.Records), l.What)
	}
	for _, note := range c.Notes {
		tell("%s", note)
	}
	for _, f := range c.Failures {
		tell("%s of %s cannot be converted; the first: %v", recordCount(f.Records), f.Qualname, f.First)
	}
	if asJSON {
		err = a.printJSON(c.JSON(src, dst))
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s (%s) -> %s (%s): %d records, %d bytes\n", src, c.From, dst, c.To, c.Records, c.Bytes)
	}
	if err == nil && c.Failed > 0 {
		err = errReported
	}
	return err
}

func recordCount(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}
