package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/sm"
)

// replayOptions are the parsed flags of a replay.
type replayOptions struct {
	path        string
	config      sm.Config
	memory      sm.Memory
	virtualTime bool

	verbose   bool
	jsonlPath string // "-" is stdout, empty is none
	outputDir string
	noCSV     bool
	json      bool // also write the JSON files
	quiet     bool
}

func newTraceReplay(a *app) *cobra.Command {
	var (
		o      replayOptions
		store  smFlags
		obs    obsFlags
		memory memoryFlag
	)
	cmd := &cobra.Command{
		Use:   "replay FILE --l1-size-gb GB --eviction-policy NAME",
		Short: "Reissue the calls of a trace against a fresh storage manager",
		Long: `Reissue the recorded calls against a fresh storage manager, which is built from
these flags and not from the recording. Each call waits for its recorded time;
none is made early. Prints a table and writes a CSV.`,
	}
	section(cmd, "Output", func(flags *pflag.FlagSet) {
		flags.StringVar(&o.outputDir, "output-dir", ".", "folder of the summary files; created")
		flags.BoolVar(&o.noCSV, "no-csv", false, "do not write trace_replay_ops.csv")
		flags.BoolVar(&o.json, "json", false, "also write trace_replay_summary.json")
		flags.BoolVar(&o.verbose, "verbose", false, "print one line a record on stdout")
		flags.StringVar(&o.jsonlPath, "jsonl-out", "", "write one JSON object a record to this `PATH`; - is stdout")
		flags.StringVar(&o.jsonlPath, "jsonl", "", "the same as --jsonl-out `PATH`")
		flags.BoolVarP(&o.quiet, "quiet", "q", false, "no table; files are still written")
	})
	section(cmd, "Replay", func(flags *pflag.FlagSet) {
		memory.define(flags, "replay-memory")
		flags.BoolVar(&o.virtualTime, "virtual-time", false, "replay on a simulated clock: the same calls at the same times, without waiting")
	})
	store.define(cmd)
	obs.define(cmd)
	outputUnbuilt := defineUnbuilt(cmd, []unbuiltFlag{
		{name: "format", value: textValue("terminal"), reason: "the table is text; --json writes the summary as a file"},
		{name: "output", value: textValue(""), reason: "--output-dir says where files go"},
	})
	refuseRecording(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.path, err = oneFile(args, store.missing()...); err != nil {
			return err
		}
		if err = checkUnbuilt(cmd, outputUnbuilt); err != nil {
			return err
		}
		if o.config, err = store.config(); err != nil {
			return err
		}
		if err = obs.check(); err != nil {
			return err
		}
		if o.outputDir == "" {
			return usagef("argument --output-dir: invalid value: '' (allowed: a folder)")
		}
		o.memory = memory.value()
		return a.traceReplay(cmd.Context(), o)
	}
	return cmd
}

// memoryFlag says what backs the objects of L1.
type memoryFlag struct{ name string }

func (f *memoryFlag) define(flags *pflag.FlagSet, name string) {
	f.name = "scratch"
	flags.Var(choiceValue{&f.name, []string{"scratch", "real"}}, name,
		"what backs L1: scratch, a small pool that every object shares, or real memory of the whole size; placement, sizes and out-of-memory are the same")
}

func (f *memoryFlag) value() sm.Memory {
	if f.name == "real" {
		return sm.RealMemory
	}
	return sm.ScratchMemory
}

func (a *app) traceReplay(ctx context.Context, o replayOptions) error {
	return errors.New(o.path + ": no replay driver in this build")
}
