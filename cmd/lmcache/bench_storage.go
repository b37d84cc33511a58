package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
)

// benchOptions are the parsed flags of bench storage. A zero number stands for
// the default that the help names.
type benchOptions struct {
	workload        string
	spec            workload.Spec
	pattern         *workload.PatternOptions
	sessionsPerHour float64
	arrivalSeed     int64
	chunkTokens     int

	model       string
	layout      kv.Layout
	ranks       int
	prefillRate float64
	decodeRate  float64

	speed       float64
	requests    int
	duration    time.Duration
	virtualTime bool

	config sm.Config
	memory sm.Memory
	record *recordFlags
	obs    *obsFlags
	json   bool

	progress string
}

func newBenchStorage(a *app) *cobra.Command {
	o := benchOptions{sessionsPerHour: 60, chunkTokens: 256, model: "meta-llama/Llama-3.1-8B", ranks: 1, prefillRate: workload.DefaultPrefillTokensPerSecond, decodeRate: workload.DefaultDecodeTokensPerSecond, speed: 1}
	var (
		store  smFlags
		shapes patternFlags
		record recordFlags
		obs    obsFlags
		memory memoryFlag
		shown  progressFlag
	)
	cmd := &cobra.Command{
		Use:   "storage --workload SPEC --l1-size-gb GB --eviction-policy NAME [flags]",
		Short: "Run a workload against a storage manager in this process",
		Long: `Run a workload against a storage manager in this process, with the calls that an
inference engine makes for each request. With --trace-level storage the calls
are recorded.`,
	}
	section(cmd, "Workload", func(flags *pflag.FlagSet) {
		flags.Var(workloadValue{&o.workload}, "workload", workload.SpecForms+"; files plain or gzip; required")
		flags.Var(floatValue{&o.speed}, "speed", "how much faster than recorded time runs")
		flags.Var(countValue[int]{&o.requests}, "requests", "stop after so many requests (default all)")
		flags.Var(durationValue{&o.duration}, "duration", "leave out what arrives later than this, as 10m or in seconds (default all)")
		flags.BoolVar(&o.virtualTime, "virtual-time", false, "run on a simulated clock: the same calls at the same times, without waiting")
		flags.Var(floatValue{&o.sessionsPerHour}, "sessions-per-hour", "agentic: rate at which sessions start")
		flags.Var(intValue[int64]{&o.arrivalSeed}, "arrival-seed", "agentic: seed of the arrival process")
	})
	section(cmd, "Engine", func(flags *pflag.FlagSet) {
		flags.Var(textFlag{&o.model}, "model", "model name in the keys")
		flags.Var(layoutValue{&o.layout}, "layout", "memory of one chunk on one rank (default that of Llama-3.1-8B, [2,32,256,1024]:bfloat16)")
		flags.Var(intValue[int]{&o.chunkTokens}, "chunk-tokens", "tokens of a chunk")
		flags.Var(intValue[int]{&o.ranks}, "ranks", "tensor-parallel workers, each with keys of its own")
		flags.Var(floatValue{&o.prefillRate}, "prefill-tokens-per-second", "how fast an engine computes what was no hit")
		flags.Var(positiveValue{&o.decodeRate}, "decode-tokens-per-second", "multi-round-chat, long-doc-qa, long-doc-permutator: how fast it generates an answer, whose chunks it then stores")
	})
	section(cmd, "Output", func(flags *pflag.FlagSet) {
		flags.BoolVar(&o.json, "json", false, "print one JSON object instead of the table")
		shown.define(flags, "else a log line every ten seconds")
	})
	shapes.define(cmd)
	store.define(cmd)
	section(cmd, "Memory", func(flags *pflag.FlagSet) { memory.define(flags, "memory") })
	record.define(cmd)
	obs.define(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err = noOperands(args); err != nil {
			return err
		}
		missing := store.missing()
		if !cmd.Flags().Changed("workload") {
			missing = slices.Insert(missing, 0, "--workload")
		}
		if len(missing) > 0 {
			return usagef("the following arguments are required: %s", strings.Join(missing, ", "))
		}
		if err = o.check(); err != nil {
			return err
		}
		if o.config, err = store.config(); err != nil {
			return err
		}
		if o.spec, o.pattern, err = o.resolve(cmd, &shapes); err != nil {
			return err
		}
		if err = record.check(); err != nil {
			return err
		}
		if err = obs.check(); err != nil {
			return err
		}
		obs.apply(&o.config)
		record.note(a)
		o.memory, o.record, o.obs, o.progress = memory.value(), &record, &obs, shown.mode
		return a.benchStorage(cmd.Context(), o)
	}
	return cmd
}

// check returns the usage error of the workload and engine flags.
func (o *benchOptions) check() error {
	invalid := func(flag string, value any, allowed string) error {
		return usagef("argument --%s: invalid value: %v (allowed: %s)", flag, value, allowed)
	}
	kind, _, _ := strings.Cut(o.workload, ":")
	switch {
	case !(o.speed > 0) || math.IsInf(o.speed, 1):
		return invalid("speed", o.speed, "above 0")
	case kind == "chat" && o.requests == 0 && o.duration == 0:
		return usagef("a chat workload has no end: --requests or --duration is required")
	case !(o.sessionsPerHour >= 1e-3 && o.sessionsPerHour <= 1e9):
		return invalid("sessions-per-hour", o.sessionsPerHour, "0.001 to 1e9")
	case o.arrivalSeed < 0:
		return invalid("arrival-seed", o.arrivalSeed, "0 or more")
	case o.chunkTokens < 1 || o.chunkTokens > 1<<20:
		return invalid("chunk-tokens", o.chunkTokens, "1 to 1048576")
	case o.ranks < 1 || o.ranks > 255:
		return invalid("ranks", o.ranks, "1 to 255")
	case !(o.prefillRate > 0) || math.IsInf(o.prefillRate, 1):
		return invalid("prefill-tokens-per-second", o.prefillRate, "above 0")
	}
	if _, err := workload.LlamaLayout(o.chunkTokens, o.ranks); o.layout == 0 && err != nil {
		return invalid("ranks", o.ranks, "with the default layout, which has 8 KV heads: 1, 2, 4, 8")
	}
	if _, err := kv.InternScope(o.model, ""); err != nil {
		return usagef("argument --model: %w", err)
	}
	return nil
}

// virtualWallStart is the Unix time (ns) at which virtual time starts,
// 2026-01-01T00:00:00Z: fixed, so that two recordings of one workload are equal.
const virtualWallStart = 1_767_225_600_000_000_000

// resolve returns what --workload names, and its parameters if it is generated.
func (o *benchOptions) resolve(cmd *cobra.Command, flags *patternFlags) (workload.Spec, *workload.PatternOptions, error) {
	spec, err := workload.ParseSpec(o.workload)
	if err != nil {
		return spec, nil, err
	}
	layout := o.layout
	if layout == 0 {
		if layout, err = workload.LlamaLayout(o.chunkTokens, o.ranks); err != nil {
			return spec, nil, err
		}
	}
	switch spec.Kind {
	case workload.MultiRoundChat, workload.LongDocQA, workload.LongDocPermutator:
	default:
		if cmd.Flags().Changed("decode-tokens-per-second") {
			return spec, nil, usagef("argument --decode-tokens-per-second: not allowed with workload %s", spec.Kind)
		}
	}
	pattern, err := flags.resolve(cmd, spec, float64(layout.Bytes())*float64(o.ranks)/float64(o.chunkTokens))
	if err == nil && flags.needsL1(spec.Kind) {
		for _, tier := range o.config.Tiers() {
			pattern.L1GB += gib(tier.L1.SizeBytes)
		}
	}
	return spec, pattern, err
}

func (a *app) benchStorage(ctx context.Context, o benchOptions) (err error) {
	spec := o.spec
	work, err := spec.Open(workload.SourceOptions{
		ChunkTokens: o.chunkTokens, SessionsPerHour: o.sessionsPerHour, ArrivalSeed: uint64(o.arrivalSeed), Pattern: o.pattern,
	})
	if errors.Is(err, workload.ErrOptions) {
		return &usageError{err: err}
	}
	if err != nil {
		return about(spec.Path, err)
	}
	defer closing(work, &err)

	var clk clock.Clock = clock.Real{}
	if o.virtualTime {
		clk = clock.NewVirtual(virtualWallStart)
	}
	if err := o.obs.bind(a); err != nil {
		return err
	}
	defer o.obs.unbind()
	recorder, err := o.record.open(a, clk, o.config, spec.Path)
	if err != nil {
		return err
	}
	if recorder != nil {
		defer closing(recorder, &err) // after the manager: all of its calls are in
	}
	live, err := o.obs.start(a, "lmcache-bench", clk)
	if err != nil {
		return err
	}
	defer closing(live, &err) // after the manager: its last events are in
	defer o.obs.lingering(ctx, a, live)
	manager, err := sm.New(o.config, sm.Options{Clock: clk, Tracer: recorder, Memory: o.memory, Adapters: adapterKinds, Log: a.log, Bus: live.Bus()})
	if err != nil {
		return err
	}
	defer closing(manager, &err)
	progress := new(workload.Progress)
	live.Watch(watched(manager))
	live.WatchBench(func() telemetry.Bench {
		far := progress.Load()
		return telemetry.Bench{Started: far.Started, Done: far.Done, WorkloadS: far.Workload.Seconds(), LagNS: int64(far.Lag)}
	})
	total := int64(o.requests)
	if sized, ok := work.(interface{ Requests() int }); ok && total == 0 {
		total = int64(sized.Requests())
	}
	endPanel := a.show(&view{
		name: strings.TrimSpace("bench storage " + o.obs.runName), unit: "requests", state: watched(manager),
		tally: func() tally {
			far := progress.Load()
			t := tally{done: far.Done, total: total, running: far.Started - far.Done, lag: far.Lag}
			if total == 0 {
				t.at, t.length = far.Workload, o.duration
			}
			return t
		},
	}, o.progress, true)
	defer endPanel()
	result, err := workload.Run(ctx, work, workload.Options{
		Manager: workload.Storage(manager), Clock: clk, Meter: clock.Real{},
		Model: o.model, Layout: o.layout, Ranks: o.ranks, Speed: o.speed,
		MaxRequests: o.requests, MaxDuration: o.duration, PrefillTokensPerSecond: o.prefillRate, DecodeTokensPerSecond: o.decodeRate,
		Bus: live.Bus(), Progress: progress,
	})
	endPanel()
	err = errors.Join(err, lastMetrics(ctx, live, clk, manager))
	if result == nil || err != nil && result.Requests == 0 && ctx.Err() == nil {
		return about(spec.Path, err) // nothing ran, and not because the user did not wait
	}
	if o.json {
		return errors.Join(err, a.printJSON(result))
	}
	return errors.Join(err, result.WriteText(a.stdout))
}

// workloadValue is a workload's name: its form is checked here, the file when
// it is opened.
type workloadValue struct{ p *string }

func (v workloadValue) Type() string   { return "SPEC" }
func (v workloadValue) String() string { return *v.p }
func (v workloadValue) Set(s string) error {
	if _, err := workload.ParseSpec(s); err != nil {
		return fmt.Errorf("invalid workload: %s (%s)", pyfmt.Repr(s), workload.SpecForms)
	}
	*v.p = s
	return nil
}

// durationValue is a duration: seconds, or Go's form.
type durationValue struct{ p *time.Duration }

func (v durationValue) Type() string { return "DURATION" }
func (v durationValue) String() string {
	if *v.p == 0 {
		return ""
	}
	return v.p.String()
}

func (v durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		seconds, floatErr := strconv.ParseFloat(s, 64)
		if floatErr != nil || !(math.Abs(seconds) < math.MaxInt64/1e9) {
			return fmt.Errorf("invalid duration: %s (such as 10m, 1h30m or 90.5)", pyfmt.Repr(s))
		}
		d = time.Duration(seconds * 1e9)
	}
	if d <= 0 {
		return fmt.Errorf("invalid value: %s (allowed: above 0)", s)
	}
	*v.p = d
	return nil
}

// layoutValue is a memory layout in the form of kv.LayoutDesc.String.
type layoutValue struct{ p *kv.Layout }

func (v layoutValue) Type() string   { return "LAYOUT" }
func (v layoutValue) String() string { return v.p.Desc().String() }
func (v layoutValue) Set(s string) error {
	l, err := parseLayout(s)
	if err != nil {
		return fmt.Errorf("invalid layout: %s (%w; such as [2,32,256,1024]:bfloat16, parts joined by +)", pyfmt.Repr(s), err)
	}
	*v.p = l
	return nil
}

func parseLayout(s string) (kv.Layout, error) {
	var desc kv.LayoutDesc
	for part := range strings.SplitSeq(s, "+") {
		shape, dtype, ok := strings.Cut(part, ":")
		dims, opened := strings.CutPrefix(shape, "[")
		dims, closed := strings.CutSuffix(dims, "]")
		if !ok || !opened || !closed {
			return 0, errors.New("want [dimensions]:dtype")
		}
		d, ok := kv.ParseDType(dtype)
		if !ok {
			return 0, fmt.Errorf("no dtype %s", pyfmt.Repr(dtype))
		}
		var sizes []int64
		for dim := range strings.SplitSeq(dims, ",") {
			n, err := strconv.ParseInt(strings.TrimSpace(dim), 10, 64)
			if err != nil || n < 1 {
				return 0, fmt.Errorf("dimension %s is no number from 1 on", pyfmt.Repr(dim))
			}
			sizes = append(sizes, n)
		}
		desc.Shapes, desc.DTypes = append(desc.Shapes, sizes), append(desc.DTypes, d)
	}
	return kv.InternLayout(desc)
}
