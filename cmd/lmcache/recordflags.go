package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// recordFlags say what a command records of the storage manager that it runs.
//
// Source: reference lct-v1.md, section 6.
type recordFlags struct {
	cmd       *cobra.Command
	level     string
	output    string
	overflow  string
	ringDir   string
	ringBytes int64
	format    string // native or lmcache
	release   string // whose shapes, for lmcache
	outcomes  string
	syncEvery time.Duration
}

// Limits of --trace-ring-size. The smallest has room for a few calls of the
// longest key lists, the largest is what the recorder maps.
const (
	minRingBytes     = 64 << 10
	maxRingBytes     = 1 << 30
	defaultRingBytes = 8 << 20
)

func (f *recordFlags) define(cmd *cobra.Command) {
	f.cmd, f.overflow, f.ringBytes, f.outcomes = cmd, "drop", defaultRingBytes, "on"
	f.format, f.release = "native", lct.NewestRelease
	section(cmd, "Recording", func(flags *pflag.FlagSet) {
		flags.Var(choiceValue{&f.level, []string{string(trace.LevelStorage)}}, "trace-level", "record the calls of this layer: storage; without it nothing is recorded")
		flags.Var(textFlag{&f.output}, "trace-output", "trace `FILE`; a name with process id and time in the folder for temporary files if empty")
		flags.Var(choiceValue{&f.format, []string{"native", "lmcache"}}, "trace-format", "write this program's format, or LMCache's")
		flags.Var(choiceValue{&f.release, lct.Releases()}, "release", "with --trace-format lmcache: write the records as this release does")
		flags.Var(choiceValue{&f.overflow, []string{"drop", "block"}}, "trace-overflow", "when the ring is full: drop and count the call, or block until there is room")
		flags.Var(choiceValue{&f.outcomes, []string{"on", "off"}}, "trace-outcomes", "record what came of each call, too: its duration, counts of hits and refusals, and which keys; native format only")
		flags.Var(durationValue{&f.syncEvery}, "trace-sync-interval", "how often the file is forced to the disk, as 500ms or in seconds: a power cut loses what is younger (a kill loses nothing in any case). Calls do not wait for it; it costs writes, and room in the ring while the disk is slow; the system does it some time by itself (default never)")
		flags.Var(textFlag{&f.ringDir}, "trace-ring-dir", "`DIR` of the ring, best in memory; shared memory if empty")
		flags.Var(sizeValue{&f.ringBytes}, "trace-ring-size", "calls that the ring can hold, in bytes or with KiB, MiB, GiB")
	})
}

// check returns the usage error of the flags.
func (f *recordFlags) check() error {
	if f.ringBytes < minRingBytes || f.ringBytes > maxRingBytes {
		return usagef("argument --trace-ring-size: invalid value: %v (allowed: %v to %v)",
			sizeValue{&f.ringBytes}, sizeValue{ptr[int64](minRingBytes)}, sizeValue{ptr[int64](maxRingBytes)})
	}
	if f.format == "native" && f.cmd.Flags().Changed("release") {
		return usagef("argument --release: only with --trace-format lmcache")
	}
	return nil
}

// open starts the recording that the flags ask for; nil if they ask for none.
// input is a file that the command reads.
func (f *recordFlags) open(a *app, clk clock.Clock, cfg sm.Config, input string) (*trace.Recorder, error) {
	if f.level == "" {
		return nil, nil
	}
	if err := distinct("--trace-output", f.output, input); err != nil {
		return nil, err
	}
	return f.create(a, clk, cfg, f.path(a))
}

// path returns the file that the flags name, or a name of our own, which is
// logged; empty if they ask for no recording.
func (f *recordFlags) path(a *app) string {
	switch {
	case f.level == "":
		return ""
	case f.output != "":
		return f.output
	}
	path := trace.DefaultPath(time.Now().UnixNano())
	if !f.cmd.Flags().Changed("trace-output") {
		a.log.Info(fmt.Sprintf("trace recording enabled (level=%s); no --trace-output given, writing to %s", f.level, path))
	}
	return path
}

// create starts a recording at path, as the flags say it.
func (f *recordFlags) create(a *app, clk clock.Clock, cfg sm.Config, path string) (*trace.Recorder, error) {
	overflow, err := trace.ParseOverflow(f.overflow)
	if err != nil {
		return nil, err
	}
	if _, virtual := clk.(*clock.Virtual); virtual {
		overflow = trace.OverflowBlock // simulated callers are ahead of any drain, and nobody is kept waiting
	}
	var newFile func(string, *trace.Header) (trace.FrameWriter, error)
	if f.format == "lmcache" {
		era, _ := lct.EraOf(f.release) // a choice of the flag
		newFile = lct.Recording(era, a.log)
	}
	return trace.Create(path, trace.Options{
		NewFile: newFile,
		Level:   trace.LevelStorage, Clock: clk, ConfigJSON: cfg.JSON(), ConfigDigest: cfg.Digest(),
		Build: "lmcache " + version(), RingDir: f.ringDir, RingBytes: int(f.ringBytes), Overflow: overflow, Log: a.log,
		SyncInterval: f.syncEvery,
		NoOutcomes:   f.outcomes == "off" || f.format == "lmcache", // LMCache's format has no place for them
	})
}

// note warns of an output that nothing will be written to: LMCache accepts it,
// so it is no usage error.
func (f *recordFlags) note(a *app) {
	if f.level == "" && f.output != "" {
		a.log.Warn(fmt.Sprintf("--trace-output %s without --trace-level: nothing is recorded", f.output))
	}
}
