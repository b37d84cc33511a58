package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/server"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
	"github.com/lmcache/lmcache-go/trace"
)

// serverFlags are the flags of lmcache server that neither a storage manager nor
// its observation has.
//
// Source: reference server-protocol.md, section 5.
type serverFlags struct {
	cmd *cobra.Command
	cfg server.Config

	sessionTTL, reapTimeout, grace float64 // seconds
	workers, kvEvents              int
	unbuilt                        []unbuiltFlag
}

// Transfer modes and hash algorithms of LMCache.
var (
	transferModes  = []string{"lmcache_driven", "engine_driven", "auto"}
	hashAlgorithms = []string{"blake3", "builtin", "sha256_cbor"}
)

var workerFlags = []string{"max-workers", "max-gpu-workers", "max-cpu-workers"}

// defaultKVEvents is LMCache's default of --kv-event-log-size.
const defaultKVEvents = 32768

func (f *serverFlags) define(cmd *cobra.Command) {
	f.cmd, f.cfg = cmd, server.DefaultConfig()
	f.cfg.ShmName = fmt.Sprintf("%s%d", server.ShmPrefix, os.Getpid())
	f.sessionTTL, f.reapTimeout, f.grace = f.cfg.SessionTTL.Seconds(), f.cfg.ReapTimeout.Seconds(), f.cfg.RegistrationGrace.Seconds()
	f.kvEvents = defaultKVEvents
	section(cmd, "Server", func(flags *pflag.FlagSet) {
		flags.Var(textFlag{&f.cfg.Host}, "host", "address of the request socket; 0.0.0.0 shows it to everybody, and nobody is authenticated")
		flags.Var(intValue[int]{&f.cfg.Port}, "port", "port of the request socket; 0 is any free one, which the log names")
		flags.Var(textFlag{&f.cfg.HTTPHost}, "http-host", "address of the HTTP front-end; 0.0.0.0 shows it to everybody, and nobody is authenticated")
		flags.Var(intValue[int]{&f.cfg.HTTPPort}, "http-port", "port of the HTTP front-end; 0 is any free one, which the log names")
		flags.Var(textFlag{&f.cfg.InstanceID}, "instance-id", "name of this server in metrics and spans (default a random UUID)")
		flags.BoolVar(&f.cfg.Reconfigure, "allow-reconfigure", false, "let POST /reconfigure make and remove stores below L1: who reaches the HTTP front-end may then write files")
	})
	section(cmd, "Engine", func(flags *pflag.FlagSet) {
		flags.Var(intValue[int]{&f.cfg.ChunkSize}, "chunk-size", "tokens of a chunk")
		flags.Var(choiceValue{&f.cfg.HashAlgorithm, hashAlgorithms}, "hash-algorithm", "how chunks are named; only blake3 does not depend on Python")
		flags.Var(choiceValue{&f.cfg.TransferMode, transferModes}, "supported-transfer-mode", "engine_driven: engines move the bytes, over shared memory; auto is the same here")
		flags.Var(textFlag{&f.cfg.ShmName}, "shm-name", "shared memory of L1, below /dev/shm; with \"\" there is none, and engines can look up only (default "+server.ShmPrefix+"<pid>)")
		flags.Lookup("shm-name").DefValue = ""
		flags.Var(floatValue{&f.sessionTTL}, "session-ttl-seconds", "life of a request that is never ended")
		flags.Var(floatValue{&f.reapTimeout}, "worker-reap-timeout-seconds", "a worker that has pinged and then is silent for so long is forgotten, with what it left half done; 0: never")
		flags.Var(floatValue{&f.grace}, "worker-registration-grace-seconds", "the same for a worker that has never pinged")
	})
	section(cmd, "Threads", func(flags *pflag.FlagSet) {
		flags.Var(intValue[int]{&f.workers}, "max-workers", "base of the next two (default one a processor, and at least two; LMCache's is 1)")
		flags.Var(intValue[int]{&f.cfg.AffinityWorkers}, "max-gpu-workers", "requests that run at once of those that prepare and commit, each client's in their order (default max-workers)")
		flags.Var(intValue[int]{&f.cfg.NormalWorkers}, "max-cpu-workers", "requests that run at once of all others (default max-workers)")
		for _, name := range workerFlags {
			flags.Lookup(name).DefValue = "0" // keeps the zero out of the help
		}
	})
	const (
		noPeers   = "there is no peer to peer transfer"
		noBlend   = "there is no CacheBlend"
		noPython  = "it runs no Python"
		noFleet   = "there is no coordinator"
		noGRPC    = "requests travel over ZMQ"
		noHandles = "engines move the bytes themselves"
		noTable   = "the server prints no tables"
	)
	f.unbuilt = defineUnbuilt(cmd, []unbuiltFlag{
		{name: "transport", value: choiceValue{ptr("zmq"), []string{"zmq", "grpc"}}, reason: noGRPC},
		{name: "grpc-server-workers", value: intValue[int]{ptr(32)}, reason: noGRPC},
		{name: "engine-type", value: choiceValue{ptr("default"), []string{"default", "blend"}}, reason: noBlend},
		{name: "server-module", value: textValue(""), reason: noPython},
		{name: "null-block-id", value: intValue[int]{ptr(0)}, reason: noHandles},
		boolUnbuilt("isolated-ipc", false, noHandles),
		boolUnbuilt("separate-object-groups", false, "engines register one group of layers"),
		boolUnbuilt("enable-segmented-prefix", false, noBlend),
		boolUnbuilt("enable-dedup-content", false, noBlend),
		boolUnbuilt("enable-blend-reorder", false, noBlend),
		{name: "enable", value: textValue(""), reason: "there are no experimental features"},
		{name: "runtime-plugin-locations", value: textValue(""), reason: noPython},
		{name: "runtime-plugin-config", value: textValue("{}"), reason: noPython},
		{name: "script-allowed-imports", value: textValue(""), reason: noPython},
		boolUnbuilt("run-script-api-enabled", false, noPython),
		{name: "p2p-advertise-url", value: textValue(""), reason: noPeers},
		{name: "p2p-listen-url", value: textValue(""), reason: noPeers},
		{name: "p2p-lookup-timeout", value: floatValue{ptr(30.0)}, reason: noPeers},
		{name: "p2p-load-timeout", value: floatValue{ptr(30.0)}, reason: noPeers},
		{name: "p2p-transfer-engine", value: textValue("nixl"), reason: noPeers},
		{name: "coordinator-url", value: textValue(""), reason: noFleet},
		boolUnbuilt("coordinator-event-reporting", false, noFleet),
		{name: "format", value: textValue("terminal"), reason: noTable},
		{name: "output", value: textValue(""), reason: noTable},
	})
	section(cmd, unbuiltSection, func(flags *pflag.FlagSet) {
		flags.Var(intValue[int]{&f.kvEvents}, "kv-event-log-size", "")
		flags.BoolP("quiet", "q", false, "")
	})
}

// maxSeconds is the longest time that a flag may say: a year.
const maxSeconds = 366 * 24 * 3600

// config returns what the flags say, or a usage error.
func (f *serverFlags) config() (server.Config, error) {
	c := f.cfg
	invalid := func(flag string, value any, allowed string) error {
		return usagef("argument --%s: invalid value: %v (allowed: %s)", flag, value, allowed)
	}
	if err := checkUnbuilt(f.cmd, f.unbuilt); err != nil {
		return c, err
	}
	changed := f.cmd.Flags().Changed
	switch {
	case c.Port < 0 || c.Port > 65535:
		return c, invalid("port", c.Port, "0 to 65535")
	case c.HTTPPort < 0 || c.HTTPPort > 65535:
		return c, invalid("http-port", c.HTTPPort, "0 to 65535")
	case c.Port != 0 && c.Port == c.HTTPPort && c.Host == c.HTTPHost:
		return c, invalid("http-port", c.HTTPPort, "another one than --port")
	case c.ChunkSize < 1 || c.ChunkSize > 1<<20:
		return c, invalid("chunk-size", c.ChunkSize, "1 to 1048576")
	case c.HashAlgorithm != "blake3":
		return c, usagef("--hash-algorithm %s is not supported in this build: its hashes depend on the Python process that computes them; blake3 does not", c.HashAlgorithm)
	case c.TransferMode == "lmcache_driven":
		return c, usagef("--supported-transfer-mode lmcache_driven is not supported in this build: this server has no access to device memory; engine_driven needs none")
	case strings.ContainsAny(strings.TrimLeft(c.ShmName, "/"), "/\x00") || len(c.ShmName) > 200:
		return c, invalid("shm-name", fmt.Sprintf("%q", c.ShmName), "a file name of at most 200 bytes")
	case f.kvEvents != defaultKVEvents && f.kvEvents != 0:
		return c, usagef("--kv-event-log-size is not supported in this build: there is no stream of events")
	}
	for _, t := range []struct {
		flag    string
		seconds float64
		least   float64
		to      *time.Duration
	}{
		{"session-ttl-seconds", f.sessionTTL, 1, &c.SessionTTL},
		{"worker-reap-timeout-seconds", f.reapTimeout, 0, &c.ReapTimeout},
		{"worker-registration-grace-seconds", f.grace, f.reapTimeout, &c.RegistrationGrace},
	} {
		if !(t.seconds >= t.least && t.seconds <= maxSeconds) {
			return c, invalid(t.flag, floatValue{&t.seconds}, fmt.Sprintf("%v to %d", t.least, maxSeconds))
		}
		*t.to = time.Duration(math.Round(t.seconds * 1e9))
	}
	for i, n := range []int{f.workers, c.AffinityWorkers, c.NormalWorkers} {
		if name := workerFlags[i]; changed(name) && (n < 1 || n > 4096) {
			return c, invalid(name, n, "1 to 4096")
		}
	}
	c.AffinityWorkers, c.NormalWorkers = cmp.Or(c.AffinityWorkers, f.workers), cmp.Or(c.NormalWorkers, f.workers)
	c.ShmGiven = changed("shm-name") && c.ShmName != ""
	c.ShmName = server.SegmentName(c.ShmName)
	if c.InstanceID == "" && !changed("instance-id") { // an empty one is kept, as LMCache does
		c.InstanceID = uuid.NewString()
	}
	return c, nil
}

func newServer(a *app) *cobra.Command {
	var (
		flags  serverFlags
		store  smFlags
		obs    obsFlags
		record recordFlags
	)
	cmd := &cobra.Command{
		Use:   "server --l1-size-gb GB --eviction-policy NAME [flags]",
		Short: "Serve LMCache's clients",
		Long: `Serve LMCache's clients: requests over ZMQ with the bytes in shared memory, and
administration over HTTP. SIGTERM and SIGINT end it cleanly, a second one at once.
With --trace-level storage the calls of the storage manager are recorded from the
start; POST /trace/start records from any time on.`,
	}
	flags.define(cmd)
	store.define(cmd)
	obs.define(cmd)
	record.define(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err = noOperands(args); err != nil {
			return err
		}
		if missing := store.missing(); len(missing) > 0 {
			return usagef("the following arguments are required: %s", strings.Join(missing, ", "))
		}
		cfg, err := flags.config()
		if err != nil {
			return err
		}
		if cfg.Storage, err = store.config(); err != nil {
			return err
		}
		for _, check := range []func() error{obs.check, obs.checkServer, record.check} {
			if err = check(); err != nil {
				return err
			}
		}
		obs.apply(&cfg.Storage)
		record.note(a)
		return a.serve(cmd.Context(), cfg, &obs, &record)
	}
	return cmd
}

func (a *app) serve(ctx context.Context, cfg server.Config, obs *obsFlags, record *recordFlags) (err error) {
	setGarbagePercent(serverGarbagePercent)
	if err := obs.bind(a); err != nil {
		return err
	}
	defer obs.unbind()
	clk := clock.Real{}
	obs.instance, obs.serving = cfg.InstanceID, true
	s, err := server.New(cfg, server.Options{
		Storage: sm.Options{Clock: clk, Adapters: adapterKinds},
		Telemetry: func() (*telemetry.Telemetry, error) {
			return obs.start(a, "lmcache-server", clk)
		},
		Watch: watched,
		Recording: server.RecordingOptions{
			Level: string(trace.LevelStorage), Path: record.path(a), Folder: record.folder(),
			Create: func(path string) (*trace.Recorder, error) { return record.create(a, clk, cfg.Storage, path) },
		},
		Observability: obs.settings(), Level: a.level, Version: version(), Commit: commit(), Log: a.log,
	})
	if err != nil {
		return err
	}
	defer closing(s, &err)
	return s.Run(ctx)
}

// folder returns where recordings go that begin over HTTP: beside --trace-output.
func (f *recordFlags) folder() string {
	if f.output == "" {
		return ""
	}
	return filepath.Dir(f.output)
}

// settings is what the HTTP front-end shows of the flags, under LMCache's names.
func (f *obsFlags) settings() any {
	return struct {
		Enabled    bool    `json:"enabled"`
		QueueSize  int     `json:"max_queue_size"`
		Metrics    bool    `json:"metrics_enabled"`
		Logging    bool    `json:"logging_enabled"`
		Tracing    bool    `json:"tracing_enabled"`
		Endpoint   *string `json:"otlp_endpoint"`
		Port       int     `json:"prometheus_port"`
		SampleRate float64 `json:"metrics_sample_rate"`
	}{!f.disabled, f.queueSize, !f.noMetrics, !f.noLogging, f.tracing, optional(f.endpoint), f.port, f.sampleRate}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// checkServer returns the usage error of what a server has no use for.
func (f *obsFlags) checkServer() error {
	if f.linger > 0 {
		return usagef("argument --metrics-linger: not for a server, whose /metrics is there until it is ended")
	}
	return nil
}
