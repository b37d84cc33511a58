package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/bench/serving"
	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/server/client"
)

// benchServerOptions are the parsed flags of bench server.
type benchServerOptions struct {
	serving.Options
	mode, transfer string
	out            metricFlags
	json           bool

	workload string // or empty
	load     serving.Load

	op       string // of a rate, or empty
	requests int64
	inFlight int
}

func newBenchServer(a *app) *cobra.Command {
	o := benchServerOptions{mode: "cpu", transfer: "auto"}
	o.Endpoint, o.TPSize, o.NumTokens, o.End, o.Clients = "tcp://localhost:5555", 1, 512, -1, 1
	o.load.Speed = 1
	o.FirstInstance, o.Model = 1000, serving.DefaultModel
	var (
		patterns          patternFlags
		shapes            = shapeValue{text: "(2,1024,16,8,128):float16:32"}
		interval          = 0.5
		blocks, blockSize = 1024, 16
		url               = "http://localhost:8080"
	)
	cmd := &cobra.Command{
		Use:   "server [flags]",
		Short: "Store, look up and retrieve over a server's wire as inference engines do",
		Long: `Store, look up and retrieve over a server's wire as inference engines do, with the
sequence of LMCache's own "bench server --mode cpu": each request is made cold,
and then warm with cleared memory, whose content must come back. The exit status
is 1 if a store, a retrieve or a checksum failed, or a warm lookup missed.`,
	}
	section(cmd, "Server", func(flags *pflag.FlagSet) {
		flags.Var(textFlag{&o.Endpoint}, "rpc-url", "request endpoint")
		flags.Var(textFlag{&url}, "url", "HTTP front-end; kv-tier-pressure asks it for the size of L1")
		flags.Var(choiceValue{&o.mode, []string{"cpu", "gpu"}}, "mode", "cpu; gpu is not in this build")
		flags.Var(choiceValue{&o.transfer, []string{"auto", "engine_driven", "lmcache_driven"}}, "transfer-mode", "auto or engine_driven, which are the same here; lmcache_driven is not in this build")
	})
	section(cmd, "Engines", func(flags *pflag.FlagSet) {
		flags.Var(intValue[int]{&o.Clients}, "concurrency", "engines at once, each with a connection, memory and instance ids of its own; as many as a generated workload has in flight if not given")
		flags.Var(intValue[int]{&o.TPSize}, "tp-size", "simulated tensor-parallel ranks of an engine")
		flags.BoolVar(&o.MLA, "use-mla", false, "all ranks read what rank 0 stores; so it is with a kv_size of 1")
		flags.Var(&shapes, "kvcache-shape-spec", "memory of a rank, (kv_size,blocks,block_size,heads,head_size):dtype:layers")
		flags.Var(intValue[int]{&blocks}, "num-blocks", "blocks; the shape's count if they differ")
		flags.Var(intValue[int]{&blockSize}, "block-size", "tokens of a block; the shape's count if they differ")
		flags.Var(textFlag{&o.Model}, "model", "model name in the keys")
		flags.Var(intValue[int64]{&o.FirstInstance}, "first-instance", "instance id of the first rank; others follow. Give processes that run at once different ones")
	})
	section(cmd, "Requests", func(flags *pflag.FlagSet) {
		flags.Var(intValue[int]{&o.NumTokens}, "num-tokens", "tokens of a request")
		flags.Var(intValue[int64]{&o.Start}, "start", "number of the first request; it is also its first token")
		flags.Var(intValue[int64]{&o.End}, "end", "number behind the last request; without end if negative")
		flags.Var(floatValue{&interval}, "interval", "seconds between passes and requests")
	})
	section(cmd, "A workload instead of the sequence", func(flags *pflag.FlagSet) {
		flags.Var(workloadValue{&o.workload}, "workload", workload.SpecForms+"; files plain or gzip. A chunk's tokens and bytes follow from its hash there")
		flags.Var(floatValue{&o.load.Speed}, "speed", "how much faster than recorded time requests arrive")
		flags.BoolVar(&o.load.NoArrivals, "no-arrivals", false, "a request starts whenever an engine has nothing to do")
		flags.BoolVar(&o.load.NoPayload, "no-payload", false, "leave the bytes in the shared memory as they are, and compare nothing")
	})
	patterns.define(cmd)
	section(cmd, "One operation instead of the sequence", func(flags *pflag.FlagSet) {
		flags.Var(choiceValue{&o.op, serving.RateOps}, "op", "noop, ping or lookup (of --num-tokens, with the end of its session), as fast as it is answered")
		flags.Var(countValue[int64]{&o.requests}, "requests", "how many (default 10000), or how many of a workload beside its warm-up (default all)")
		flags.Var(countValue[int]{&o.inFlight}, "in-flight", "how many at once on each connection (default 1)")
	})
	section(cmd, "Output", func(flags *pflag.FlagSet) {
		o.out.define(flags)
		flags.BoolVar(&o.json, "json", false, "print one JSON object and nothing else, with the latencies of every operation")
	})
	unbuilt := defineUnbuilt(cmd, []unbuiltFlag{
		{name: "flamegraph", value: textValue("off"), reason: "profile a server from outside"},
		{name: "profile-server-pid", value: textValue(""), reason: "profile a server from outside"},
		{name: "flamegraph-mode", value: textValue("gil"), reason: "profile a server from outside"},
		{name: "flamegraph-output", value: textValue(""), reason: "profile a server from outside"},
		{name: "flamegraph-scripts-dir", value: textValue(""), reason: "profile a server from outside"},
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := noOperands(args); err != nil {
			return err
		}
		if err := checkUnbuilt(cmd, unbuilt); err != nil {
			return err
		}
		switch {
		case o.mode == "gpu":
			return usagef("argument --mode: gpu is not supported in this build: it has no device memory; use cpu")
		case o.transfer == "lmcache_driven":
			return usagef("argument --transfer-mode: lmcache_driven is not supported in this build; use engine_driven")
		case !(interval >= 0 && interval < 1e9):
			return usagef("argument --interval: invalid value: %s (allowed: 0 or more)", pyfmt.Float(interval))
		}
		if o.workload != "" && o.op != "" {
			return usagef("argument --op: not allowed with argument --workload")
		}
		o.Interval = time.Duration(interval * float64(time.Second))
		groups, err := serving.ParseShape(shapes.text)
		if err != nil {
			return usagef("argument --kvcache-shape-spec: %w", err)
		}
		if len(groups) > 1 {
			return usagef("argument --kvcache-shape-spec: several groups are not supported by engine-driven transfer")
		}
		o.Shape = groups[0]
		var spec workload.Spec
		if o.workload != "" {
			if !(o.load.Speed > 0) {
				return usagef("argument --speed: invalid value: %v (allowed: above 0)", o.load.Speed)
			}
			if spec, err = workload.ParseSpec(o.workload); err != nil {
				return usagef("argument --workload: %w", err)
			}
			if spec.Kind == workload.Chat && o.requests == 0 {
				return usagef("a chat workload has no end: --requests is required")
			}
			o.load.MaxRequests = int(o.requests)
		}
		pattern, err := patterns.resolve(cmd, spec, o.bytesPerToken())
		if err != nil {
			return err
		}
		if n := pattern.InFlight(spec.Kind); n > 0 && !cmd.Flags().Changed("concurrency") {
			o.Clients = min(n, maxDefaultClients)
		}
		o.load.Open = func(chunk int) (workload.Workload, error) {
			if patterns.needsL1(spec.Kind) {
				status, err := client.NewAdmin(url).Status(cmd.Context())
				if err != nil {
					return nil, fmt.Errorf("the size of L1, which --ktp-pool-size would make needless: %w", err)
				}
				pattern.L1GB = status.Storage.L1.TotalBytes / bytesPerGB
			}
			w, err := spec.Open(workload.SourceOptions{ChunkTokens: chunk, Pattern: pattern})
			return w, about(spec.Path, err)
		}
		if blocks != o.Shape.Blocks {
			o.Notes = append(o.Notes, fmt.Sprintf("spec nb=%d overrides --num-blocks=%d", o.Shape.Blocks, blocks))
		}
		if blockSize != o.Shape.BlockSize {
			o.Notes = append(o.Notes, fmt.Sprintf("spec bs=%d overrides --block-size=%d", o.Shape.BlockSize, blockSize))
		}
		return a.benchServer(cmd.Context(), o)
	}
	return cmd
}

// maxDefaultClients is how many engines there are at most unless more are asked
// for: each registers memory.
const maxDefaultClients = 64

// bytesPerToken returns what the KV cache of a token takes on all ranks.
func (o *benchServerOptions) bytesPerToken() float64 {
	const chunk = 1 << 10 // whatever the server's is
	ranks := o.TPSize
	if o.MLA || o.Shape.KV == 1 {
		ranks = 1
	}
	return float64(o.Shape.ChunkBytes(chunk)) * float64(max(ranks, 1)) / chunk
}

func (a *app) benchServer(ctx context.Context, o benchServerOptions) error {
	silent := o.out.quiet || o.json
	if !silent && o.op == "" {
		o.Lines = a.stdout
	}
	stop := a.showServing(&o)
	var (
		result *serving.Result
		err    error
	)
	switch {
	case o.workload != "":
		result, err = serving.RunWorkload(ctx, o.Options, o.load)
	case o.op != "":
		result, err = serving.Rate(ctx, o.Options, o.op, max(o.inFlight, 1), cmp.Or(o.requests, 10_000))
	default:
		result, err = serving.Run(ctx, o.Options)
	}
	stop()
	if result == nil {
		if errors.Is(err, serving.ErrOptions) || errors.Is(err, workload.ErrOptions) {
			return &usageError{err: err}
		}
		return err
	}
	if o.json {
		err = errors.Join(err, a.printJSON(servingJSON(&o, result)))
	} else {
		err = errors.Join(err, o.out.emit(a, servingMetrics(&o, result)))
		if !silent {
			_, printErr := io.WriteString(a.stdout, "Done.\n")
			err = errors.Join(err, printErr)
		}
	}
	return errors.Join(err, result.Err())
}

// showServing shows on a terminal how far a run of several engines is; one
// prints lines of its own.
func (a *app) showServing(o *benchServerOptions) (stop func()) {
	if !isTerminal(a.terminal) || o.Clients == 1 && o.Lines != nil {
		return func() {}
	}
	o.Progress = new(serving.Progress)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		var before int64
		for {
			select {
			case <-done:
				fmt.Fprint(a.terminal, "\r\x1b[K")
				return
			case <-tick.C:
				requests, failed, stored, retrieved := o.Progress.Load()
				fmt.Fprintf(a.terminal, "\r\x1b[K%d requests, %d/s, %.2f GiB stored, %.2f GiB retrieved, %d failed", requests, requests-before, gib(stored), gib(retrieved), failed)
				before = requests
			}
		}
	}()
	return func() { close(done); <-stopped }
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// servingMetrics lays a result out as LMCache's benchmark does. What that does
// not have follows, when it says more.
func servingMetrics(o *benchServerOptions, r *serving.Result) *metrics {
	m := &metrics{title: "Server Bench Result", width: 64}
	config := []metricRow{
		{"rpc_url", "RPC URL", o.Endpoint},
		{"mode", "Mode", o.mode},
		{"transfer_mode", "Transfer mode", o.transfer},
	}
	if o.workload == "" {
		config = append(config, metricRow{"num_tokens", "Tokens / request", o.NumTokens}, metricRow{"interval", "Interval (s)", o.Interval.Seconds()})
	}
	for _, fact := range r.Description {
		config = append(config, metricRow{"workload_" + strings.ReplaceAll(strings.ToLower(fact.Label), " ", "_"), fact.Label, fact.Value})
	}
	m.section("config", "Configuration", config...)
	requests, passed := r.Requests.Load(), r.ChecksumOK.Load()
	rate := 0.0
	if requests > 0 {
		rate = rounded(100*float64(passed)/float64(requests), 2)
	}
	if w := r.Warmup; w != nil {
		m.section("warmup", "Warm-up, not counted below",
			metricRow{"warmup_requests", "Requests of the warm-up", w.Requests},
			metricRow{"warmup_duration_s", "Warm-up duration (s)", rounded(w.Duration.Seconds(), 3)},
			metricRow{"warmup_chunks", "Warm-up chunks looked up", w.Chunks},
			metricRow{"warmup_hit_chunks", "Warm-up chunks hit", w.HitChunks},
			metricRow{"warmup_stored_gib", "Warm-up stored (GiB)", rounded(gib(w.StoredBytes), 3)})
	}
	rows := []metricRow{{"total_requests", "Total requests", requests}}
	if o.op == "" && o.workload == "" {
		rows = append(rows,
			metricRow{"checksum_ok", "Checksum OK", passed},
			metricRow{"checksum_fail", "Checksum FAIL", r.ChecksumFail.Load()},
			metricRow{"pass_rate", "Pass rate (%)", rate})
	}
	m.section("results", "Results", rows...)
	for _, l := range []struct {
		key, title string
		latency    *serving.Latency
	}{
		{"whole", "Request (ms)", r.Whole},
		{"late", "Late (ms)", r.Late},
		{"cold_lookup", "Cold Lookup (ms)", r.ColdLookup},
		{"cold_store", "Cold Store (ms)", r.ColdStore},
		{"warm_lookup", "Warm Lookup (ms)", r.WarmLookup},
		{"warm_retrieve", "Warm Retrieve (ms)", r.WarmRetrieve},
	} {
		if s := l.latency.Summary(); s.Count > 0 {
			m.section(l.key, l.title, latencyRows(l.key, s)...)
		}
	}
	if o.Clients > 1 || o.op != "" || o.workload != "" || r.Failed() > 0 {
		m.section("load", "Load",
			metricRow{"clients", "Clients", o.Clients},
			metricRow{"duration_s", "Duration (s)", rounded(r.Duration.Seconds(), 3)},
			metricRow{"requests_per_s", "Requests / s", rounded(perSecond(requests, r.Duration), 3)},
			metricRow{"chunks", "Chunks looked up", r.Chunks.Load()},
			metricRow{"hit_chunks", "Chunks hit", r.HitChunks.Load()},
			metricRow{"unstored_chunks", "Chunks not taken", r.UnstoredChunks.Load()},
			metricRow{"stored_gib", "Stored (GiB)", rounded(gib(r.StoredBytes.Load()), 3)},
			metricRow{"retrieved_gib", "Retrieved (GiB)", rounded(gib(r.RetrievedBytes.Load()), 3)},
			metricRow{"lookup_failures", "Lookups failed", r.LookupFailures.Load()},
			metricRow{"store_failures", "Stores failed", r.StoreFailures.Load()},
			metricRow{"retrieve_failures", "Retrieves failed", r.RetrieveFailures.Load()},
			metricRow{"unexpected_misses", "Unexpected misses", r.UnexpectedMisses.Load()})
	}
	return m
}

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func latencyRows(key string, s serving.Summary) []metricRow {
	row := func(name string, value float64) metricRow {
		return metricRow{key + "_" + name, name, rounded(value, 3)}
	}
	return []metricRow{
		{key + "_count", "count", s.Count},
		row("mean", s.Mean), row("min", s.Min), row("max", s.Max), row("p50", s.P50), row("p99", s.P99),
	}
}

// servingJSON has all that is known of a run, in one object.
func servingJSON(o *benchServerOptions, r *serving.Result) any {
	type object = map[string]any
	latency := func(s serving.Summary) object {
		return object{
			"count": s.Count, "mean_ms": s.Mean, "min_ms": s.Min, "p50_ms": s.P50,
			"p90_ms": s.P90, "p99_ms": s.P99, "p999_ms": s.P999, "max_ms": s.Max,
		}
	}
	calls := object{}
	for _, c := range r.Calls() {
		calls[c.Op.String()] = latency(c.Summary())
	}
	var warmup any
	if w := r.Warmup; w != nil {
		warmup = object{"requests": w.Requests, "duration_s": w.Duration.Seconds(), "chunks": w.Chunks, "hit_chunks": w.HitChunks, "stored_bytes": w.StoredBytes}
	}
	return object{
		"warmup": warmup, "rpc_url": o.Endpoint, "clients": o.Clients, "tp_size": o.TPSize, "kvcache_shape_spec": o.Shape.String(),
		"num_tokens": o.NumTokens, "interval_s": o.Interval.Seconds(), "duration_s": r.Duration.Seconds(),
		"requests": r.Requests.Load(), "requests_per_s": perSecond(r.Requests.Load(), r.Duration),
		"chunks": r.Chunks.Load(), "hit_chunks": r.HitChunks.Load(),
		"unstored_chunks": r.UnstoredChunks.Load(), "workload": o.workload,
		"stored_bytes": r.StoredBytes.Load(), "retrieved_bytes": r.RetrievedBytes.Load(),
		"checksum_ok": r.ChecksumOK.Load(), "checksum_fail": r.ChecksumFail.Load(),
		"lookup_failures": r.LookupFailures.Load(), "store_failures": r.StoreFailures.Load(),
		"retrieve_failures": r.RetrieveFailures.Load(), "session_failures": r.SessionFailures.Load(),
		"unexpected_misses": r.UnexpectedMisses.Load(),
		"cold_lookup":       latency(r.ColdLookup.Summary()), "cold_store": latency(r.ColdStore.Summary()),
		"warm_lookup": latency(r.WarmLookup.Summary()), "warm_retrieve": latency(r.WarmRetrieve.Summary()),
		"request": latency(r.Whole.Summary()), "late": latency(r.Late.Summary()), "calls": calls,
	}
}

// shapeValue is a shape of paged memory; its form is checked when it is set.
type shapeValue struct{ text string }

func (v *shapeValue) Type() string   { return "SPEC" }
func (v *shapeValue) String() string { return v.text }
func (v *shapeValue) Set(s string) error {
	if _, err := serving.ParseShape(s); err != nil {
		return fmt.Errorf("invalid value: %s (%s)", pyfmt.Repr(s), strings.TrimPrefix(err.Error(), serving.ErrShape.Error()+" "))
	}
	v.text = s
	return nil
}
