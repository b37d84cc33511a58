package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/trace"
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
}

// Limits of --trace-ring-size. The smallest has room for a few calls of the
// longest key lists, the largest is what the recorder maps.
const (
	minRingBytes     = 64 << 10
	maxRingBytes     = 1 << 30
	defaultRingBytes = 8 << 20
)

func (f *recordFlags) define(cmd *cobra.Command) {
	f.cmd, f.overflow, f.ringBytes = cmd, "drop", defaultRingBytes
	section(cmd, "Recording", func(flags *pflag.FlagSet) {
		flags.Var(choiceValue{&f.level, []string{string(trace.LevelStorage)}}, "trace-level", "record the calls of this layer: storage; without it nothing is recorded")
		flags.Var(textFlag{&f.output}, "trace-output", "trace file; a name with process id and time in the folder for temporary files if empty")
		flags.Var(choiceValue{&f.overflow, []string{"drop", "block"}}, "trace-overflow", "when the ring is full: drop and count the call, or block until there is room")
		flags.Var(textFlag{&f.ringDir}, "trace-ring-dir", "folder of the ring, best in memory; shared memory if empty")
		flags.Var(sizeValue{&f.ringBytes}, "trace-ring-size", "calls that the ring can hold, in bytes or with KiB, MiB, GiB")
	})
}

// check returns the usage error of the flags.
func (f *recordFlags) check() error {
	if f.ringBytes < minRingBytes || f.ringBytes > maxRingBytes {
		return usagef("argument --trace-ring-size: invalid value: %v (allowed: %v to %v)",
			sizeValue{&f.ringBytes}, sizeValue{ptr[int64](minRingBytes)}, sizeValue{ptr[int64](maxRingBytes)})
	}
	return nil
}

// enabled reports whether anything is recorded, and says so if an output is
// named that nothing will be written to.
func (f *recordFlags) enabled(a *app) bool {
	if f.level == "" && f.output != "" {
		a.log.Warn(fmt.Sprintf("--trace-output %s without --trace-level: nothing is recorded", f.output))
	}
	return f.level != ""
}
