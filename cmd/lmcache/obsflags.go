package main

import (
	"errors"
	"math"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/sm"
)

// obsFlags are the observability flags of a command that runs a storage
// manager.
//
// Source: reference lct-v1.md, section 5.3; observability.md, section 6.
type obsFlags struct {
	cmd           *cobra.Command
	tracing       bool
	endpoint      string
	sampleRate    float64
	extraLogging  bool
	extraInterval float64
	unbuilt       []unbuiltFlag
}

func (f *obsFlags) define(cmd *cobra.Command) {
	f.cmd, f.sampleRate, f.extraInterval = cmd, 0.01, 10
	section(cmd, "Observability: change nothing until there are metrics", func(flags *pflag.FlagSet) {
		flags.Bool("disable-observability", false, "no event bus")
		flags.Bool("disable-metrics", false, "no metrics, no Prometheus port")
		flags.Bool("disable-logging", false, "no log lines of events")
	})
	section(cmd, "Observability", func(flags *pflag.FlagSet) {
		flags.BoolVar(&f.extraLogging, "enable-extra-logging", false, "log the use of L1 now and then")
		flags.Var(floatValue{&f.extraInterval}, "extra-logging-interval", "seconds between such lines; one a second at most")
	})
	const (
		noMetrics = "there are no metrics yet"
		noSpans   = "there are no spans yet"
		noHashes  = "a replay looks no tokens up"
		noPython  = "there is no Python collector"
	)
	f.unbuilt = defineUnbuilt(cmd, []unbuiltFlag{
		{name: "enable-tracing", value: switchValue{&f.tracing, true}, toggle: true, reason: noSpans},
		{name: "otlp-endpoint", value: textFlag{&f.endpoint}, reason: noMetrics},
		{name: "event-bus-queue-size", value: intValue[int]{ptr(10000)}, reason: "there is no event bus yet"},
		{name: "prometheus-port", value: intValue[int]{ptr(9090)}, reason: noMetrics},
		{name: "metrics-sample-rate", value: floatValue{&f.sampleRate}, reason: noMetrics},
		boolUnbuilt("disable-grpc-metrics", false, ""),
		{name: "lookup-hash-log-dir", value: textValue(""), reason: noHashes},
		{name: "lookup-hash-log-rotation-interval", value: intValue[int]{ptr(21600)}, reason: noHashes},
		{name: "lookup-hash-log-rotation-max-size", value: intValue[int]{ptr(104857600)}, reason: noHashes},
		{name: "lookup-hash-log-max-files", value: intValue[int]{ptr(100)}, reason: noHashes},
		boolUnbuilt("enable-gc-monitor", false, noPython),
		{name: "gc-monitor-min-pause-ms", value: floatValue{ptr(1.0)}, reason: noPython},
		{name: "gc-monitor-top-objects", value: intValue[int]{ptr(0)}, reason: noPython},
	})
}

// check returns the usage error of the flags. What LMCache refuses too is
// refused in its words.
func (f *obsFlags) check() error {
	switch {
	case f.tracing && f.endpoint == "":
		return usagef("--enable-tracing requires --otlp-endpoint to be set. Tracing needs an OTLP gRPC endpoint to export spans.")
	case !(f.extraInterval > 0) || math.IsInf(f.extraInterval, 1):
		return usagef("argument --extra-logging-interval: invalid value: %v (allowed: above 0)", f.extraInterval)
	case !(f.sampleRate > 0 && f.sampleRate <= 1):
		return usagef("argument --metrics-sample-rate: invalid value: %v (allowed: above 0 and at most 1)", f.sampleRate)
	}
	return checkUnbuilt(f.cmd, f.unbuilt)
}

// apply sets what the flags say of the storage manager's own log lines.
func (f *obsFlags) apply(c *sm.Config) {
	c.ExtraLogging, c.ExtraLoggingInterval = f.extraLogging, f.extraInterval
}

// recordingOnly is a flag that records, given to a command that never does.
type recordingOnly struct{}

func (recordingOnly) Type() string   { return "TEXT" }
func (recordingOnly) String() string { return "" }
func (recordingOnly) Set(string) error {
	return errors.New("recording only: a replay never writes a new trace file")
}

// refuseRecording makes the recording flags a usage error that says why.
func refuseRecording(cmd *cobra.Command) {
	for _, name := range []string{"trace-level", "trace-output"} {
		cmd.Flags().VarPF(recordingOnly{}, name, "", "").Hidden = true
	}
}
