package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// replayOptions are the parsed flags of a replay.
type replayOptions struct {
	path        string
	config      sm.Config
	memory      sm.Memory
	virtualTime bool
	obs         *obsFlags
	progress    string

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
		shown  progressFlag
	)
	cmd := &cobra.Command{
		Use:   "replay FILE --l1-size-gb GB --eviction-policy NAME [flags]",
		Short: "Reissue the calls of a trace against a fresh storage manager",
		Long: `Reissue the recorded calls against a fresh storage manager, which is built from
these flags and not from the recording. Each call waits for its recorded time;
none is made early. Prints a table and writes a CSV.`,
	}
	section(cmd, "Output", func(flags *pflag.FlagSet) {
		flags.StringVar(&o.outputDir, "output-dir", ".", "`DIR` of the summary files; created")
		flags.BoolVar(&o.noCSV, "no-csv", false, "do not write trace_replay_ops.csv")
		flags.BoolVar(&o.json, "json", false, "also write trace_replay_summary.json, and trace_replay_result.json for trace compare")
		flags.BoolVar(&o.verbose, "verbose", false, "print one line a record on stdout")
		flags.StringVar(&o.jsonlPath, "jsonl-out", "", "write one JSON object a record to this `PATH`; - is stdout")
		flags.StringVar(&o.jsonlPath, "jsonl", "", "the same as --jsonl-out `PATH`")
		flags.BoolVarP(&o.quiet, "quiet", "q", false, "no table, no panel; files are still written")
		shown.define(flags, "in place of the log line a record unless LMCACHE_LOG_LEVEL is set")
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
		obs.apply(&o.config)
		if o.outputDir == "" {
			return usagef("argument --output-dir: invalid value: '' (allowed: a folder)")
		}
		o.memory, o.obs, o.progress = memory.value(), &obs, shown.mode
		if o.quiet {
			o.progress = "off"
		}
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

func (a *app) traceReplay(ctx context.Context, o replayOptions) (err error) {
	setGarbagePercent(replayGarbagePercent)
	var files []string
	if !o.noCSV {
		files = append(files, replay.CSVName)
	}
	if o.json {
		files = append(files, replay.JSONName, replay.ResultName)
	}
	if err := replay.PrepareOutput(o.outputDir, files...); err != nil {
		return err
	}
	if o.jsonlPath != "" && o.jsonlPath != "-" {
		if err := distinct("--jsonl-out", o.jsonlPath, o.path); err != nil {
			return err
		}
		if err := replay.PrepareOutput(filepath.Dir(o.jsonlPath), filepath.Base(o.jsonlPath)); err != nil {
			return err
		}
	}
	if err := o.obs.bind(a); err != nil {
		return err
	}
	defer o.obs.unbind()
	replay.LogBanner(a.log, a.logs.color)
	summary, err := tracefile.Summarize(o.path, a.warn)
	if err != nil {
		return about(o.path, err)
	}
	if err := replay.CheckLevel(o.path, &summary.Header); err != nil {
		return err
	}
	a.log.Info(fmt.Sprintf("trace replay: file=%s records=%d", o.path, summary.Records))

	opt := replay.Options{
		Path: o.path, Total: summary.Records, Clock: clock.Real{}, Log: a.log,
		OutputDir: o.outputDir, CSV: !o.noCSV, JSON: o.json,
		ConfigJSON: o.config.JSON(), ConfigDigest: o.config.Digest(),
	}
	if o.virtualTime {
		opt.Clock = clock.NewVirtual(summary.Header.WallStartNS)
	}
	live, err := o.obs.start(a, "lmcache-replay", opt.Clock)
	if err != nil {
		return err
	}
	defer closing(live, &err) // after the manager: its last events are in
	defer o.obs.lingering(ctx, a, live)
	if o.verbose {
		opt.Verbose = a.stdout
	}
	if !o.quiet {
		opt.Table = a.stdout
	}
	compared := sm.CompareConfig(summary.Header.ConfigJSON, summary.Header.ConfigDigest, o.config)
	opt.DigestRow, opt.Differences = compared.Row, compared.Differences
	for _, unknown := range compared.Unknown {
		a.log.Info("trace replay: configuration cannot be compared: " + unknown)
	}
	if o.jsonlPath != "" {
		out, err := replay.OpenJSONL(o.jsonlPath, a.stdout)
		if err != nil {
			return err
		}
		defer closing(out, &err)
		opt.JSONL = out
	}
	src, err := tracefile.Open(o.path, a.warn)
	if err != nil {
		return about(o.path, err)
	}
	defer closing(src, &err)
	manager, err := sm.New(o.config, sm.Options{Clock: opt.Clock, Memory: o.memory, Adapters: adapterKinds, Log: a.log, Bus: live.Bus()})
	if err != nil {
		return err
	}
	defer closing(manager, &err)
	opt.Source, opt.Manager = src, replay.StorageManager(manager)
	opt.Bus, opt.Progress = live.Bus(), new(replay.Progress)
	live.Watch(watched(manager))
	progress := func() (p telemetry.Progress) {
		p.Total = opt.Total
		p.Done, p.Failed, p.Skipped, p.LagNS = opt.Progress.Load()
		return p
	}
	live.WatchProgress(progress)
	if a.showsPanel(o.progress) && a.logs.onTerminal() && !a.logs.chosen {
		opt.RecordLog = slog.New(slog.DiscardHandler) // the panel would have no rest
	}
	start := time.Now()
	endPanel := a.show(&view{
		name: strings.TrimSpace("replay " + o.obs.runName), unit: "records", state: watched(manager),
		tally: func() tally {
			p := progress()
			t := tally{done: p.Done, total: p.Total, failed: p.Failed + p.Skipped, running: -1, lag: time.Duration(p.LagNS)}
			if !o.virtualTime {
				t.at, t.length = time.Since(start)-t.lag, time.Duration(summary.DurationS*1e9)
			}
			return t
		},
	}, o.progress, false)
	defer endPanel()
	result, err := replay.Run(ctx, opt)
	err = errors.Join(err, lastMetrics(ctx, live, opt.Clock, manager))
	if err != nil {
		if src.Err() != nil {
			err = about(o.path, err)
		}
		return err
	}
	if n := result.Records.Failed; n > 0 {
		return fmt.Errorf("%s: %d of %d records failed", o.path, n, result.Records.Total)
	}
	return nil
}

// closing closes c and adds its error to what the command returns.
func closing(c io.Closer, err *error) { *err = errors.Join(*err, c.Close()) }
