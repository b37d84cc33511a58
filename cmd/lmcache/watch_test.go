package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/lmcache/lmcache-go/replay"
)

// The tests here watch replays of a recording from outside: what /metrics, a
// collector and a Prometheus server get to see is held against the result that
// the replay itself writes.

// watchedTrace records a chat of a few seconds, whose replay against replayFlags
// has hits in both tiers, misses, refusals and evictions.
func watchedTrace(t *testing.T) string { return watchedTraceAt(t, "10") }

// watchedTraceAt is watchedTrace at another speed.
func watchedTraceAt(t *testing.T, speed string) string {
	t.Helper()
	t.Setenv("LMCACHE_LOG_LEVEL", "CRITICAL")
	path := filepath.Join(t.TempDir(), "run.lct")
	program(t, "bench", "storage", "--workload", "chat:1", "--requests", "60", "--speed", speed, "--virtual-time",
		"--l1-size-gb", "4", "--eviction-policy", "LRU", "--l2-adapter", mockAdapter(8),
		"--trace-level", "storage", "--trace-output", path)
	return path
}

func mockAdapter(gb int) string {
	return fmt.Sprintf(`{"type":"mock","max_size_gb":%d,"mock_bandwidth_gb":20}`, gb)
}

// replayFlags replays path with two stores of one type.
func replayFlags(path, out string, more ...string) []string {
	return append([]string{"trace", "replay", path, "--l1-size-gb", "1", "--eviction-policy", "LRU",
		"--l2-adapter", mockAdapter(8), "--l2-adapter", mockAdapter(2), "--json", "--output-dir", out}, more...)
}

// exposition is a scrape: the value of every series, histograms by their count.
type exposition map[string]float64

func readExposition(t *testing.T, r io.Reader) exposition {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		t.Fatal(err)
	}
	all := exposition{}
	for name, f := range families {
		for _, m := range f.Metric {
			series, value := name+labelText(m.Label), 0.0
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				value = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				value = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				value = float64(m.Histogram.GetSampleCount())
			}
			all[series] = value
		}
	}
	return all
}

func labelText(labels []*dto.LabelPair) string {
	if len(labels) == 0 {
		return ""
	}
	var list []string
	for _, l := range labels {
		list = append(list, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	return "{" + strings.Join(list, ",") + "}"
}

func (e exposition) expect(t *testing.T, want map[string]float64) {
	t.Helper()
	for _, series := range slices.Sorted(maps.Keys(want)) {
		if got, ok := e[series]; !ok {
			t.Errorf("no series %s", series)
		} else if got != want[series] {
			t.Errorf("%s is %v, want %v", series, got, want[series])
		}
	}
}

// wantOf returns what the exposition must show of the calls of a replay with that
// result.
func wantOf(r *replay.Result) map[string]float64 {
	o := &r.Outcome
	want := map[string]float64{
		"lmcache_replay_records":                                                                                float64(r.Records.Total),
		"lmcache_replay_records_done_total":                                                                     float64(r.Records.Replayed + r.Records.Failed + r.Records.Skipped),
		"lmcache_replay_records_failed_total":                                                                   float64(r.Records.Failed),
		"lmcache_replay_records_skipped_total":                                                                  float64(r.Records.Skipped),
		`lmcache_storage_prefetch_keys_total{found="l1"}`:                                                       float64(o[replay.L1HitKeys]),
		`lmcache_storage_prefetch_keys_total{found="l2"}`:                                                       float64(o[replay.L2HitKeys]),
		`lmcache_storage_prefetch_keys_total{found="miss"}`:                                                     float64(o[replay.MissedKeys]),
		`lmcache_storage_reservation_failures_total{reason="out_of_memory"}`:                                    float64(o[replay.OOMKeys]),
		`lmcache_storage_reservation_failures_total{reason="not_writable"}`:                                     float64(o[replay.RefusedKeys]),
		`lmcache_mp_l2_prefetch_lookup_requests_total`:                                                          float64(o[replay.Prefetches]),
		`lmcache_mp_l2_prefetch_lookup_objects_chunks_total`:                                                    float64(o[replay.RequestedKeys]),
		`lmcache_mp_l1_allocation_failure_chunks_total{during="l1_store",model_name="meta-llama/Llama-3.1-8B"}`: float64(o[replay.OOMKeys]),
	}
	for _, op := range r.Ops {
		name := op.Qualname[strings.LastIndex(op.Qualname, "StorageManager.")+len("StorageManager."):]
		name = strings.NewReplacer("__enter__", "enter", "__exit__", "exit").Replace(name)
		want[fmt.Sprintf("lmcache_replay_call_duration_seconds{op=%q}", name)] = float64(op.Count + op.Errors)
		want[fmt.Sprintf("lmcache_replay_call_lag_seconds{op=%q}", name)] = float64(op.Count + op.Errors)
	}
	return want
}

// wantInside returns the same of what happens beside the calls, until the end.
func wantInside(r *replay.Result) map[string]float64 {
	o, s := &r.Outcome, &r.Storage
	return map[string]float64{
		`lmcache_storage_policy_evicted_objects_total{l1_tag="_default",policy="LRU"}`: float64(s.EvictedKeys),
		`lmcache_storage_policy_evicted_bytes_total{l1_tag="_default",policy="LRU"}`:   float64(s.EvictedBytes),
		`lmcache_mp_l1_write_chunks_total{l1_tag="_default"}`:                          float64(o[replay.WrittenKeys] + s.L2LoadedKeys),
		`lmcache_storage_l1_written_bytes_total{l1_tag="_default"}`:                    float64(s.WrittenBytes + s.L2LoadedBytes),
		`lmcache_mp_l1_evicted_chunks_total{l1_tag="_default"}`:                        float64(s.EvictedKeys + s.TemporaryFreedKeys),
		`lmcache_mp_l2_prefetch_load_completed_chunks_total`:                           float64(s.L2LoadedKeys),
		`lmcache_mp_l1_eviction_loop_triggered_total`:                                  float64(s.EvictionPasses),
		`lmcache_mp_l1_memory_usage_bytes{backend="dram",l1_tag="_default"}`:           float64(s.L1UsedBytes),
		`lmcache_mp_event_bus_dropped_events_total`:                                    0,
		`lmcache_mp_event_bus_queue_depth`:                                             0,
		`lmcache_mp_l2_store_adapters{l1_tag="_default",state="active"}`:               2,
	}
}

// TestMetricsOfAReplay holds every counter that has one against the replay's own
// result.
func TestMetricsOfAReplay(t *testing.T) {
	path, out := watchedTrace(t), t.TempDir()
	dump := filepath.Join(out, "metrics.txt")
	program(t, replayFlags(path, out, "--virtual-time", "--quiet", "--prometheus-port", "0", "--metrics-sample-rate", "1", "--metrics-dump", dump)...)
	result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int64{"L1 hits": result.Outcome[replay.L1HitKeys], "L2 hits": result.Outcome[replay.L2HitKeys], "misses": result.Outcome[replay.MissedKeys],
		"refusals": result.Outcome[replay.OOMKeys], "evictions": result.Storage.EvictedKeys} {
		if n == 0 {
			t.Errorf("the replay has no %s: the comparison proves little", what)
		}
	}
	text, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	got := readExposition(t, bytes.NewReader(text))
	got.expect(t, wantOf(result))
	got.expect(t, wantInside(result))
	refused := 0.0
	for series, n := range got {
		if strings.HasPrefix(series, `lmcache_mp_l1_read_failure_chunks_total{during="l1_retrieve"`) {
			refused += n
		}
	}
	if want := float64(result.Outcome[replay.ReadRefusedKeys]); refused != want {
		t.Errorf("%v chunks could not be read, want %v", refused, want)
	}
	first := got[`lmcache_storage_l2_adapter_usage_bytes{adapter_index="0",l2_name="mock"}`]
	second := got[`lmcache_storage_l2_adapter_usage_bytes{adapter_index="1",l2_name="mock"}`]
	if first == 0 || second == 0 || first+second != got[`lmcache_mp_l2_usage_bytes{l2_name="mock"}`] {
		t.Errorf("two adapters of a type hold %v and %v bytes", first, second)
	}
}

// collector is an OTLP endpoint: the services of the protocol behind a gRPC
// server, which remember what they were sent.
type collector struct {
	collectormetrics.UnimplementedMetricsServiceServer
	traces  traceService
	address string

	mu      sync.Mutex
	metrics map[string]*metricspb.Metric // the last of each name
	service string
}

type traceService struct {
	collectortrace.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (c *collector) Export(_ context.Context, r *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range r.ResourceMetrics {
		for _, a := range res.Resource.Attributes {
			if a.Key == "service.name" {
				c.service = a.Value.GetStringValue()
			}
		}
		for _, scope := range res.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.metrics[m.Name] = m
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

func (s *traceService) Export(_ context.Context, r *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, res := range r.ResourceSpans {
		for _, scope := range res.ScopeSpans {
			s.spans = append(s.spans, scope.Spans...)
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{metrics: map[string]*metricspb.Metric{}, address: listener.Addr().String()}
	server := grpc.NewServer()
	collectormetrics.RegisterMetricsServiceServer(server, c)
	collectortrace.RegisterTraceServiceServer(server, &c.traces)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// sum adds the data points of a counter.
func (c *collector) sum(name string) (n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.metrics[name]; m != nil {
		for _, p := range m.GetSum().GetDataPoints() {
			n += p.GetAsDouble()
		}
	}
	return n
}

// checkSpans holds the spans against the calls of a replay: one span a call, and
// below those of a prefetch what the stores did for it.
func (c *collector) checkSpans(t *testing.T, calls int64, wantChildren map[string]string) {
	t.Helper()
	c.traces.mu.Lock()
	defer c.traces.mu.Unlock()
	byID, made := map[string]*tracepb.Span{}, int64(0)
	for _, s := range c.traces.spans {
		byID[string(s.SpanId)] = s
		if strings.HasPrefix(s.Name, "sm.") {
			made++
		}
	}
	if made != calls {
		t.Errorf("%d spans of %d calls", made, calls)
	}
	parents := map[string]string{}
	for _, s := range byID {
		p := byID[string(s.ParentSpanId)]
		if len(s.ParentSpanId) > 0 && p == nil {
			t.Errorf("the parent of %s did not arrive", s.Name)
		}
		if p == nil {
			continue
		}
		parents[s.Name] = p.Name
		if id := requestOf(s); !bytes.Equal(p.TraceId, s.TraceId) || id != requestOf(p) || strings.HasPrefix(s.Name, "l2.lo") && id == "" {
			t.Errorf("%s of request %q is below %s of %q", s.Name, id, p.Name, requestOf(p))
		}
	}
	for child, parent := range wantChildren {
		if parents[child] != parent {
			t.Errorf("the parent of %s is %q, want %s", child, parents[child], parent)
		}
	}
}

func requestOf(s *tracepb.Span) string {
	for _, a := range s.Attributes {
		if a.Key == "external_request_id" {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// child runs the program as a process of its own.
func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("lmcache", args...)
	cmd.Env = append(os.Environ(), "LMCACHE_LOG_LEVEL=INFO")
	return cmd
}

// TestCollectorOfAReplay sends a replay to a collector: its totals, and a span
// for every call with what the stores did below.
func TestCollectorOfAReplay(t *testing.T) {
	path, out, c := watchedTrace(t), t.TempDir(), startCollector(t)
	cmd := child(t, replayFlags(path, out, "--virtual-time", "--quiet", "--enable-tracing", "--otlp-endpoint", "http://"+c.address)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{
		"lmcache_replay.records_done":            result.Records.Total,
		"lmcache_storage.prefetch_keys":          result.Outcome[replay.RequestedKeys],
		"lmcache_mp.l2_prefetch_lookup":          result.Outcome[replay.Prefetches],
		"lmcache_mp.l2_prefetch_load_completed":  result.Storage.L2LoadedKeys,
		"lmcache_storage.policy_evicted_objects": result.Storage.EvictedKeys,
	} {
		if got := c.sum(name); got != float64(want) {
			t.Errorf("%s is %v at the collector, want %d", name, got, want)
		}
	}
	if c.service != "lmcache-replay" {
		t.Errorf("service.name is %q", c.service)
	}
	c.checkSpans(t, result.Records.Replayed+result.Records.Failed, map[string]string{
		"l2.lookup": "sm.submit_prefetch_task", "l2.load": "sm.submit_prefetch_task", "prefetch.completed": "sm.submit_prefetch_task",
		"sm.read_prefetched_results.enter": "sm.submit_prefetch_task", "sm.finish_read_prefetched": "sm.submit_prefetch_task",
		"sm.finish_write": "sm.reserve_write", "l2.store": "sm.finish_write",
	})
}

// TestCollectorOfAKilledReplay ends a replay with SIGTERM in the middle: what was
// done until then is at the collector.
func TestCollectorOfAKilledReplay(t *testing.T) {
	path, out, c := watchedTrace(t), t.TempDir(), startCollector(t)
	cmd := child(t, replayFlags(path, out, "--quiet", "--enable-tracing", "--otlp-endpoint", c.address)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, middle := bufio.NewReader(stderr), regexp.MustCompile(`\[40/\d+\] OK `)
	for told := false; ; {
		line, err := lines.ReadString('\n')
		if !told && middle.MatchString(line) {
			told = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("it ended with %v", err)
	}
	result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	done := result.Records.Replayed + result.Records.Failed
	if done < 40 || done >= result.Records.Total {
		t.Errorf("%d of %d records were replayed; the signal was to come in the middle", done, result.Records.Total)
	}
	if got := c.sum("lmcache_replay.records_done"); got != float64(done) {
		t.Errorf("the collector has %v records, want %d", got, done)
	}
	c.checkSpans(t, done, map[string]string{"l2.lookup": "sm.submit_prefetch_task", "l2.store": "sm.finish_write"})
}

// TestFullBusOfAReplay: with a queue of one event, and with none, the replay and
// what does not go through the queue are as ever, and what was dropped is counted.
func TestFullBusOfAReplay(t *testing.T) {
	path := watchedTraceAt(t, "100")
	for _, size := range []string{"1", "0"} {
		out := t.TempDir()
		dump := filepath.Join(out, "metrics.txt")
		cmd := child(t, replayFlags(path, out, "--quiet", "--prometheus-port", "0", "--metrics-dump", dump, "--event-bus-queue-size", size)...)
		log, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.Open(dump)
		if err != nil {
			t.Fatal(err)
		}
		got := readExposition(t, text)
		text.Close()
		want := map[string]float64{}
		for series, n := range wantOf(result) {
			if strings.HasPrefix(series, "lmcache_replay_records") || strings.HasPrefix(series, "lmcache_storage_") {
				want[series] = n
			}
		}
		got.expect(t, want)
		dropped := got["lmcache_mp_event_bus_dropped_events_total"]
		if dropped == 0 || !bytes.Contains(log, []byte("EventBus queue full (max_queue_size="+size+")")) {
			t.Errorf("%v events were dropped of a queue of %s:\n%s", dropped, size, log)
		}
		if n := got["lmcache_mp_l1_eviction_loop_ticks_total"]; size == "0" && n != 0 {
			t.Errorf("a queue without room handed out %v ticks", n)
		}
	}
}
