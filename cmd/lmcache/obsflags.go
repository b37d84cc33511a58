package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
)

// obsFlags are the observability flags of a command that runs a storage
// manager.
//
// Source: reference lct-v1.md, section 5.3; observability.md, section 6.
type obsFlags struct {
	cmd *cobra.Command

	disabled, noMetrics, noLogging bool
	tracing                        bool
	endpoint                       string
	queueSize                      int
	host                           string
	port                           int
	sampleRate                     float64
	linger                         time.Duration
	dump                           string
	runName                        string

	instance string // service.instance.id, a random one if empty; set by the command
	serving  bool   // the command shows metrics over HTTP of its own, and has to end quickly

	extraLogging  bool
	extraInterval float64
	unbuilt       []unbuiltFlag

	listener net.Listener // bound, until start takes it over
}

func (f *obsFlags) define(cmd *cobra.Command) {
	f.cmd, f.sampleRate, f.extraInterval, f.queueSize, f.host, f.port = cmd, 0.01, 10, 10000, "127.0.0.1", 9090
	section(cmd, "Observability", func(flags *pflag.FlagSet) {
		flags.BoolVar(&f.disabled, "disable-observability", false, "no event bus, so no metrics, spans or trail of events")
		flags.BoolVar(&f.noMetrics, "disable-metrics", false, "no metrics, no Prometheus endpoint")
		flags.BoolVar(&f.noLogging, "disable-logging", false, "no log lines of events (they are DEBUG lines)")
		flags.Var(intValue[int]{&f.port}, "prometheus-port", "port of /metrics; 0 is any free one, which the log names")
		flags.Var(textFlag{&f.host}, "prometheus-host", "address that /metrics binds; 0.0.0.0 shows it to everybody")
		flags.Var(textFlag{&f.endpoint}, "otlp-endpoint", "push metrics and spans to this OTLP gRPC collector, as http://host:4317; no /metrics then")
		flags.BoolVar(&f.tracing, "enable-tracing", false, "a span for every call, with what L2 does for it; needs --otlp-endpoint")
		flags.Var(intValue[int]{&f.queueSize}, "event-bus-queue-size", "events that may wait; when full the newest is dropped and counted")
		flags.Var(floatValue{&f.sampleRate}, "metrics-sample-rate", "share of chunks that lifecycle histograms follow, above 0 and at most 1; counters count all")
		flags.Var(durationValue{&f.linger}, "metrics-linger", "keep /metrics up for so long after the end, or until interrupted")
		flags.Var(textFlag{&f.dump}, "metrics-dump", "write what /metrics shows to this file after the last call")
		flags.Var(textFlag{&f.runName}, "run-name", "label of this run in metrics and spans")
		flags.BoolVar(&f.extraLogging, "enable-extra-logging", false, "log the use of L1 now and then")
		flags.Var(floatValue{&f.extraInterval}, "extra-logging-interval", "seconds between such lines; one a second at most")
	})
	const (
		noHashes = "there is no log of lookups"
		noPython = "there is no Python collector"
	)
	f.unbuilt = defineUnbuilt(cmd, []unbuiltFlag{
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
	case f.extraLogging && f.disabled:
		return usagef("--enable-extra-logging requires the observability EventBus; remove --disable-observability.")
	case !(f.extraInterval > 0) || math.IsInf(f.extraInterval, 1):
		return usagef("argument --extra-logging-interval: invalid value: %v (allowed: above 0)", f.extraInterval)
	case !(f.sampleRate > 0 && f.sampleRate <= 1):
		return usagef("argument --metrics-sample-rate: invalid value: %v (allowed: above 0 and at most 1)", f.sampleRate)
	case f.port < 0 || f.port > 65535:
		return usagef("argument --prometheus-port: invalid value: %d (allowed: 0 to 65535)", f.port)
	case f.linger > 0 && (f.disabled || f.noMetrics || f.endpoint != ""):
		return usagef("--metrics-linger keeps /metrics up, which --disable-observability, --disable-metrics and --otlp-endpoint take away")
	case f.dump != "" && (f.disabled || f.noMetrics):
		return usagef("--metrics-dump writes metrics, which --disable-observability and --disable-metrics take away")
	}
	return checkUnbuilt(f.cmd, f.unbuilt)
}

// apply sets what the flags say of the storage manager's own log lines.
func (f *obsFlags) apply(c *sm.Config) {
	c.ExtraLogging, c.ExtraLoggingInterval = f.extraLogging, f.extraInterval
}

// bind checks what only the machine can tell, before anything is done: the port
// of /metrics, which it binds, and the file of --metrics-dump. A default port
// that is taken costs the endpoint only: it is Prometheus's own. The caller must
// unbind.
func (f *obsFlags) bind(a *app) (err error) {
	if f.disabled || f.noMetrics {
		return nil
	}
	if f.dump != "" {
		if err := replay.PrepareOutput(filepath.Dir(f.dump), filepath.Base(f.dump)); err != nil {
			return fmt.Errorf("--metrics-dump: %w", err)
		}
	}
	if f.endpoint != "" {
		return nil
	}
	f.listener, err = telemetry.Listen(f.host, f.port)
	if err != nil && !f.cmd.Flags().Changed("prometheus-port") && f.linger == 0 {
		a.log.Warn(fmt.Sprintf("%v; going on without (--prometheus-port sets another)", err))
		return nil
	}
	return err
}

// unbind lets go of the port if start was not called.
func (f *obsFlags) unbind() {
	if f.listener != nil {
		_ = f.listener.Close()
		f.listener = nil
	}
}

// servingPatience is how long a server waits at its end for a collector that does
// not answer.
const servingPatience = 500 * time.Millisecond

// start starts what the flags ask for, on the port of bind. The service is that
// of the metrics, lmcache-replay for example.
func (f *obsFlags) start(a *app, service string, clk clock.Clock) (*telemetry.Telemetry, error) {
	_, virtual := clk.(*clock.Virtual)
	opt := telemetry.Options{
		Clock: clk, Log: a.log, Lossless: virtual, QueueSize: f.queueSize,
		Disabled: f.disabled, Metrics: !f.noMetrics, Logging: !f.noLogging, Spans: f.tracing,
		SampleRate: f.sampleRate, Listener: f.listener, Port: -1, Endpoint: f.endpoint, Dump: f.dump,
		Service: service, Command: strings.TrimPrefix(service, "lmcache-"), InstanceID: cmp.Or(f.instance, uuid.NewString()), RunName: f.runName,
	}
	if f.serving {
		opt.Handler, opt.Patience = true, servingPatience
	}
	f.listener = nil // Start's, also if it fails
	return telemetry.Start(opt)
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
