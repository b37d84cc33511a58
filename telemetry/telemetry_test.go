package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(t *testing.T, model, salt string, n int) kv.ObjectKey {
	t.Helper()
	scope, err := kv.InternScope(model, salt)
	if err != nil {
		t.Fatal(err)
	}
	k, err := kv.NewObjectKey(fmt.Appendf(nil, "%08d", n), scope, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func start(t *testing.T, opt telemetry.Options) (*telemetry.Telemetry, *clock.Virtual) {
	t.Helper()
	c := clock.NewVirtual(1e18)
	opt.Clock, opt.Lossless, opt.QueueSize = c, true, 100
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Host == "" {
		opt.Host = "127.0.0.1"
	}
	if opt.SampleRate == 0 {
		opt.SampleRate = 1
	}
	opt.InstanceID, opt.Service = "test", "lmcache"
	tel, err := telemetry.Start(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Close(); err != nil {
			t.Error(err)
		}
	})
	return tel, c
}

func scrape(t *testing.T, tel *telemetry.Telemetry, query string, header ...string) (body, contentType string) {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+tel.Addr().String()+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("scrape: %s, %v", resp.Status, err)
	}
	return string(b), resp.Header.Get("Content-Type")
}

// family is what the listings say of one.
type family struct {
	kind   string
	labels map[string]bool
}

var (
	typeLine   = regexp.MustCompile(`^# TYPE (\S+) (\S+)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*?)\})?(?: .*)?$`)
	labelName  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="`)
)

// families reads an exposition, with or without values.
func families(text string) map[string]*family {
	all, last := map[string]*family{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := typeLine.FindStringSubmatch(line); m != nil {
			last = m[1]
			all[last] = &family{m[2], map[string]bool{}}
		} else if m := sampleLine.FindStringSubmatch(line); m != nil && !strings.HasPrefix(line, "#") && all[last] != nil {
			for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
				all[last].labels[l[1]] = true
			}
		}
	}
	return all
}

// everything publishes every event that feeds a metric of LMCache's.
func everything(t *testing.T, tel *telemetry.Telemetry, c *clock.Virtual) {
	a := []kv.ObjectKey{key(t, "demo/model-a", "", 1), key(t, "demo/model-a", "", 2)}
	publish := func(e event.Event) {
		tel.Bus().Publish(&e)
		tel.Bus().Flush()
		if err := c.SleepUntil(context.Background(), c.Now()+int64(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	const tag = "_default"
	publish(event.Event{Type: event.L1WriteFinished, L1Tag: tag, Keys: a, Sizes: []int64{10, 20}})
	publish(event.Event{Type: event.L1ReadFinished, L1Tag: tag, Keys: a})
	publish(event.Event{Type: event.L1KeysEvicted, L1Tag: tag, Keys: a, Sizes: []int64{10, 20}})
	publish(event.Event{Type: event.L1WriteFinishedAndRead, L1Tag: tag, Keys: a, Sizes: []int64{1, 2}})
	publish(event.Event{Type: event.L1EvictionLoopTick, Triggered: true})
	publish(event.Event{Type: event.L1AllocationFailed, During: "l1_store", Keys: a})
	publish(event.Event{Type: event.L1ReadFailed, During: "l1_retrieve", Reason: "not_found", Keys: a})
	publish(event.Event{Type: event.SMWriteFinished, Keys: a})
	publish(event.Event{Type: event.SMReadPrefetchedFinished, Keys: a})
	publish(event.Event{Type: event.L2StoreSubmitted, L2Name: "mock", TaskID: 7, Keys: a, Bytes: 100})
	publish(event.Event{Type: event.L2StoreCompleted, L2Name: "mock", TaskID: 7, Keys: a, Count: 2, Bytes: 100})
	publish(event.Event{Type: event.L2LookupSubmitted, Keys: a, Adapters: 1})
	publish(event.Event{Type: event.L2LoadSubmitted, Keys: a, Adapters: 1})
	publish(event.Event{Type: event.L2LoadTaskSubmitted, L2Name: "mock", Count: 2, Bytes: 100})
	publish(event.Event{Type: event.L2LoadTaskCompleted, L2Name: "mock"})
	publish(event.Event{Type: event.L2LoadCompleted, Keys: a})
	publish(event.Event{Type: event.L2PrefetchFailed, Keys: a, Reason: "l1_oom"})
	publish(event.Event{Type: event.L2KeysEvicted, L2Name: "mock", Keys: a})
}

func state() telemetry.State {
	return telemetry.State{
		L1: []telemetry.L1State{{Tag: "_default", Backend: "dram", UsedBytes: 50, StagingBytes: 5, TotalBytes: 100,
			Eviction: telemetry.Eviction{Policy: "LRU", EvictedObjects: 6, EvictedBytes: 60}}},
		Adapters: []telemetry.AdapterState{{Name: "mock", L1Tag: "_default", UsedBytes: 3, Stores: 1, Loads: 1, LoadBytes: 1, Eviction: telemetry.Eviction{Policy: "ARC", EvictedBytes: 8}}, {Index: 1, Name: "mock", L1Tag: "_default", UsedBytes: 4}},
		Front:    &telemetry.FrontState{Requests: map[string]uint64{"lookup": 7}, Refused: map[string]uint64{"malformed": 1}, Disconnected: map[string]uint64{"slow reader": 1}, InFlight: 2, Waiting: 3, Clients: 4},
	}
}

// served publishes every event of a server that feeds a metric of LMCache's.
func served(t *testing.T, tel *telemetry.Telemetry, c *clock.Virtual) {
	of := &event.Served{Model: "test-model", Device: "cpu", Engine: "1000", Worker: "1000", TransferKey: "r#1",
		RequestedTokens: 512, HitTokens: 256, L1HitTokens: 128, L2HitTokens: 128}
	for _, e := range []event.Event{
		{Type: event.RequestStart},
		{Type: event.LookupStart, Served: of},
		{Type: event.LookupEnd, Served: of, Count: 2, L1Hits: 1, L2Hits: 1},
		{Type: event.RetrieveSubmitted, Served: of}, {Type: event.RetrieveStart, Served: of},
		{Type: event.RetrieveEnd, Served: of, Count: 2, Bytes: 1e9},
		{Type: event.StoreSubmitted, Served: of}, {Type: event.StoreStart, Served: of},
		{Type: event.StoreEnd, Served: of, Count: 2, Bytes: 1e9},
		{Type: event.RequestEnd},
	} {
		e.Session = "r"
		tel.Bus().Publish(&e)
		if err := c.SleepUntil(t.Context(), c.Now()+int64(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	tel.Bus().Flush()
}

// TestListing compares with what release 0.5.6 exposed: every family, its type,
// its labels, and which are there before anything happened.
func TestListing(t *testing.T) {
	t.Run("replay", func(t *testing.T) { testListing(t, "testdata/replay-0.5.6.txt", false) })
	t.Run("server", func(t *testing.T) { testListing(t, "testdata/server-0.5.6.txt", true) })
}

func testListing(t *testing.T, path string, server bool) {
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(golden), "## at start")
	atStart, later, ok := strings.Cut(rest, "## after the first matching event")
	if !ok {
		t.Fatal("the listing has no sections")
	}
	tel, c := start(t, telemetry.Options{Metrics: true})
	tel.Watch(state)
	if server {
		tel.WatchServer(func() telemetry.ServerState { return telemetry.ServerState{PrefetchJobs: 1} })
	}

	inFlight := []string{"lmcache_mp_num_inflight_l2_stores", "lmcache_mp_num_inflight_l2_loads", "lmcache_mp_inflight_load_memory_usage_bytes"}
	first, _ := scrape(t, tel, "/metrics")
	got := families(first)
	for name := range families(atStart) {
		if name != "target_info" && got[name] == nil {
			t.Errorf("%s is not there at the start", name)
		}
	}
	for name := range families(later) {
		if got[name] != nil && !slices.Contains(inFlight, name) {
			t.Errorf("%s is there before the first event", name)
		}
	}

	everything(t, tel, c)
	if server {
		served(t, tel, c)
	}
	last, _ := scrape(t, tel, "/anything")
	got = families(last)
	want := families(atStart + later)
	var unseen []string // LMCache's server has these too, but not in that run
	if server {
		unseen = append(inFlight, "lmcache_mp_l1_read_failure_chunks_total", "lmcache_mp_l2_prefetch_failure_chunks_total", "lmcache_mp_l2_evicted_objects_chunks_total")
	}
	if len(want) < 35 {
		t.Fatalf("only %d families in the listing", len(want))
	}
	for name, w := range want {
		g := got[name]
		if g == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if g.kind != w.kind {
			t.Errorf("%s is a %s, want %s", name, g.kind, w.kind)
		}
		if name != "target_info" && fmt.Sprint(g.labels) != fmt.Sprint(w.labels) {
			t.Errorf("%s has labels %v, want %v", name, g.labels, w.labels)
		}
	}
	for name := range got {
		if want[name] == nil && strings.HasPrefix(name, "lmcache_mp_") && !slices.Contains(unseen, name) {
			t.Errorf("%s is no name of LMCache's", name)
		}
	}
	for line := range strings.Lines(atStart + later) {
		if strings.HasPrefix(line, "# HELP lmcache_mp") && !strings.Contains(last, line) {
			t.Errorf("help text: no %s", line)
		}
	}
	if server {
		for _, line := range []string{
			`lmcache_mp_active_prefetch_jobs 1`,
			`lmcache_mp_lookup_requested_tokens_total{cache_salt="",model_name="test-model"} 512`,
			`lmcache_mp_num_chunks_loaded_total{cache_salt="",model_name="test-model",worker_id="1000"} 2`,
			`lmcache_mp_l0_l1_load_throughput_GB_per_second_sum{device="cpu",engine_id="1000",model_name="test-model"} 1`,
		} {
			if !strings.Contains(last, "\n"+line+"\n") {
				t.Errorf("no line %s", line)
			}
		}
	}
	for _, line := range []string{
		`lmcache_mp_l1_read_chunks_total{l1_tag="_default"} 2`,
		`lmcache_storage_policy_evicted_objects_total{l1_tag="_default",policy="LRU"} 6`,
		`lmcache_storage_l2_policy_evicted_bytes_total{adapter_index="0",l2_name="mock",policy="ARC"} 8`,
		`lmcache_storage_l1_written_bytes_total{l1_tag="_default"} 33`,
		`lmcache_storage_l1_removed_bytes_total{l1_tag="_default"} 30`,
		`lmcache_mp_l2_usage_bytes{l2_name="mock"} 7`,
		`lmcache_storage_l2_adapter_usage_bytes{adapter_index="1",l2_name="mock"} 4`,
		`lmcache_mp_l1_usage_ratio{backend="dram",l1_tag="_default"} 0.5`,
		`lmcache_mp_l1_chunk_evict_reuse_gap_seconds_sum{l1_tag="_default"} 2`,
		`lmcache_mp_real_reuse_gap_seconds_sum{cache_salt=""} 2`,
	} {
		if !strings.Contains(last, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(last)
	}
}

// TestEndpoint: what a scraper may ask for.
func TestEndpoint(t *testing.T) {
	tel, _ := start(t, telemetry.Options{Metrics: true, RunName: "blue"})
	tel.Watch(state)
	body, kind := scrape(t, tel, "/")
	if !strings.HasPrefix(kind, "text/plain; version=0.0.4") || !strings.Contains(body, `lmcache_run_name="blue"`) {
		t.Errorf("content type %q, target_info in:\n%s", kind, body)
	}
	body, kind = scrape(t, tel, "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(kind, "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("OpenMetrics: content type %q, ends %q", kind, body[max(0, len(body)-20):])
	}
	body, _ = scrape(t, tel, "/metrics?name[]=lmcache_mp_l1_usage_ratio")
	if got := families(body); len(got) != 1 || got["lmcache_mp_l1_usage_ratio"] == nil {
		t.Errorf("name[] gave %v", got)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Post("http://"+tel.Addr().String()+"/metrics", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
	_, err = telemetry.Start(telemetry.Options{Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler), Metrics: true, Host: "127.0.0.1",
		Port: tel.Addr().(*net.TCPAddr).Port, SampleRate: 1})
	if err == nil || !strings.Contains(err.Error(), tel.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
}

// TestDump: the file has what was published before.
func TestDump(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.txt")
	tel, c := start(t, telemetry.Options{Metrics: true, Port: -1, Dump: path})
	tel.Watch(state)
	everything(t, tel, c)
	if err := tel.WriteDump(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), "lmcache_mp_l1_eviction_loop_triggered_total 1\n") {
		t.Errorf("%v:\n%s", err, b)
	}
}

// TestOff: nothing of a nil Telemetry does anything.
func TestOff(t *testing.T) {
	tel, err := telemetry.Start(telemetry.Options{Disabled: true, Metrics: true})
	if tel != nil || err != nil {
		t.Fatal(tel, err)
	}
	tel.Watch(state)
	if tel.Bus() != nil || tel.Addr() != nil || tel.WriteDump() != nil || tel.Close() != nil {
		t.Error("it does")
	}
}

// collector is an OTLP endpoint.
type collector struct {
	collectormetrics.UnimplementedMetricsServiceServer
	traces

	mu      sync.Mutex
	metrics map[string]bool
	byScope map[string]map[string]*metricspb.Metric
}

type traces struct {
	collectortrace.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (c *collector) Export(_ context.Context, r *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range r.ResourceMetrics {
		for _, scope := range res.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.metrics[m.Name] = true
				if c.byScope[scope.Scope.Name] == nil {
					c.byScope[scope.Scope.Name] = map[string]*metricspb.Metric{}
				}
				c.byScope[scope.Scope.Name][m.Name] = m
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

func (c *traces) Export(_ context.Context, r *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, res := range r.ResourceSpans {
		for _, scope := range res.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

// TestCollector pushes to a collector: all metrics arrive with the last flush,
// and the spans of a request form one tree, whichever was heard of first.
func TestCollector(t *testing.T) {
	c, address := startCollector(t)
	tel, clk := start(t, telemetry.Options{Metrics: true, Spans: true, Endpoint: "http://" + address + "/ignored"})
	if tel.Addr() != nil {
		t.Error("there is a Prometheus endpoint too")
	}
	tel.Watch(state)
	everything(t, tel, clk)
	keys := []kv.ObjectKey{key(t, "m", "", 100), key(t, "m", "", 101)}
	for _, e := range []event.Event{
		{Type: event.CallDispatched, Text: "reserve_write", Keys: keys, Duration: 5},
		{Type: event.L2StoreSubmitted, L2Name: "mock", TaskID: 9, Keys: keys, Bytes: 10}, // before the call has returned
		{Type: event.CallDispatched, Text: "finish_write", Keys: keys, Duration: 5},
		{Type: event.L2StoreCompleted, L2Name: "mock", TaskID: 9, Count: 2, Keys: keys},
		{Type: event.L2LookupSubmitted, RequestID: 42, Session: "req", Keys: keys, Adapters: 1},
		{Type: event.CallDispatched, Text: "submit_prefetch_task", RequestID: 42, Session: "req", Keys: keys, Duration: 5},
		{Type: event.L2LoadTaskSubmitted, RequestID: 42, L2Name: "mock", Count: 2, Bytes: 9},
		{Type: event.L2LoadSubmitted, RequestID: 42, Keys: keys, Adapters: 1},
		{Type: event.L2LoadTaskCompleted, RequestID: 42, L2Name: "mock"},
		{Type: event.L2LoadCompleted, RequestID: 42, L2Name: "mock", Keys: keys},
		{Type: event.CallDispatched, Text: "finish_read_prefetched", Keys: keys, Duration: 5, Lost: 1},
	} {
		tel.Bus().Publish(&e)
	}
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"lmcache_mp.l1_read", "lmcache_mp.l2_store_throughput", "lmcache_mp.l1_usage_ratio"} {
		if !c.metrics[want] {
			t.Errorf("metric %s did not arrive", want)
		}
	}
	byID := map[string]*tracepb.Span{}
	for _, s := range c.spans {
		if byID[string(s.SpanId)] != nil {
			t.Errorf("two spans have one id: %s", s.Name)
		}
		byID[string(s.SpanId)] = s
	}
	parents := map[string]string{}
	for _, s := range c.spans {
		if strings.HasPrefix(s.Name, "l2.l") && s.Attributes != nil && !slices.ContainsFunc(s.Attributes, func(a *commonpb.KeyValue) bool {
			return a.Key == "external_request_id" && a.Value.GetStringValue() == "req"
		}) && byID[string(s.ParentSpanId)] != nil {
			t.Errorf("%s does not name its request: %v", s.Name, s.Attributes)
		}
		if p := byID[string(s.ParentSpanId)]; p != nil {
			if string(p.TraceId) != string(s.TraceId) {
				t.Errorf("%s is in another trace than its parent", s.Name)
			}
			parents[s.Name] = p.Name
		}
	}
	for child, parent := range map[string]string{
		"l2.lookup": "sm.submit_prefetch_task", "l2.load": "sm.submit_prefetch_task",
		"sm.finish_read_prefetched": "sm.submit_prefetch_task", "l2.store": "sm.finish_write",
	} {
		if parents[child] != parent {
			t.Errorf("the parent of %s is %q, want %s", child, parents[child], parent)
		}
	}
}

// startCollector serves a collector and returns its address.
func startCollector(t *testing.T) (*collector, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{metrics: map[string]bool{}, byScope: map[string]map[string]*metricspb.Metric{}}
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
	return c, listener.Addr().String()
}

// TestServerSpans: a request is a trace with LMCache's spans, and what the stores
// do for it is below its lookup. It ends with its last transfer.
func TestServerSpans(t *testing.T) {
	c, address := startCollector(t)
	tel, clk := start(t, telemetry.Options{Spans: true, Endpoint: address})
	of := &event.Served{Model: "m", Device: "cpu", Engine: "7", TransferKey: "r#1", RequestedTokens: 512, HitTokens: 256, L2HitTokens: 256}
	keys := []kv.ObjectKey{key(t, "m", "", 1), key(t, "m", "", 2)}
	for _, e := range []event.Event{
		{Type: event.RequestStart, Session: "r"},
		{Type: event.LookupStart, Session: "r", Served: of},
		{Type: event.L2LookupSubmitted, Session: "r", RequestID: 3, Keys: keys, Adapters: 1},
		{Type: event.L2LoadTaskSubmitted, Session: "r", RequestID: 3, L2Name: "mock", Count: 2, Bytes: 9},
		{Type: event.L2LoadSubmitted, Session: "r", RequestID: 3, Keys: keys, Adapters: 1},
		{Type: event.L2LoadCompleted, Session: "r", RequestID: 3, L2Name: "mock", Keys: keys[:1], Failed: keys[1:]},
		{Type: event.LookupEnd, Session: "r", Served: of, Count: 2, L2Hits: 1},
		{Type: event.StoreSubmitted, Session: "r", Served: of},
		{Type: event.StoreStart, Session: "r", Served: of, Keys: keys},
		{Type: event.L2StoreSubmitted, L2Name: "mock", TaskID: 5, Keys: keys, Bytes: 9},
		{Type: event.RequestEnd, Session: "r"}, // the store still runs
		{Type: event.L2StoreCompleted, L2Name: "mock", TaskID: 5, Keys: keys, Count: 2},
		{Type: event.TimeoutRaised, Session: "r", Reason: "LMCacheTimeoutError", Text: "too late"},
		{Type: event.StoreEnd, Session: "r", Served: of, Count: 2, Bytes: 9},
		{Type: event.RequestStart, Session: "open at the end"},
	} {
		tel.Bus().Publish(&e)
		if err := clk.SleepUntil(t.Context(), clk.Now()+int64(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	byID, byName := map[string]*tracepb.Span{}, map[string]*tracepb.Span{}
	for _, s := range c.spans {
		byID[string(s.SpanId)] = s
		if s.Name != "request" || s.EndTimeUnixNano > s.StartTimeUnixNano {
			byName[s.Name] = s
		}
	}
	text := func(name, attribute string) string {
		if s := byName[name]; s != nil {
			for _, a := range s.Attributes {
				if v := a.Value; a.Key == attribute {
					if v.GetStringValue() != "" {
						return v.GetStringValue()
					}
					return fmt.Sprint(float64(v.GetIntValue()) + v.GetDoubleValue())
				}
			}
		}
		return "nothing"
	}
	for child, parent := range map[string]string{"mp.lookup_prefetch": "request", "mp.store": "request", "timeout": "request",
		"l2.lookup": "mp.lookup_prefetch", "l2.load": "mp.lookup_prefetch", "l2.store": "mp.store"} {
		s := byName[child]
		if s == nil {
			t.Errorf("no span %s", child)
			continue
		}
		if p := byID[string(s.ParentSpanId)]; p == nil || p.Name != parent || string(p.TraceId) != string(s.TraceId) {
			t.Errorf("the parent of %s is %v, want %s", child, p, parent)
		} else if s.EndTimeUnixNano > p.EndTimeUnixNano && parent == "request" {
			t.Errorf("%s ends after its request", child)
		}
	}
	for _, want := range [][3]string{
		{"request", "session_id", "r"}, {"request", "hit_rate", "0.5"}, {"request", "l2_hit_keys", "1"},
		{"mp.lookup_prefetch", "found_count", "2"}, {"mp.lookup_prefetch", "session_id", "r"},
		{"mp.store", "stored_count", "2"}, {"mp.store", "transfer_key", "r#1"}, {"mp.store", "engine_id", "7"},
	} {
		if got := text(want[0], want[1]); got != want[2] {
			t.Errorf("%s of %s is %s, want %s", want[1], want[0], got, want[2])
		}
	}
	if s := byName["timeout"]; s != nil && (len(s.Events) != 1 || s.Events[0].Name != "exception" || s.Status.GetMessage() != "too late") {
		t.Errorf("the timeout is %v", s)
	}
	if s := byName["l2.load"]; s != nil && s.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("a load that lost an object is %v", s)
	}
	if n := len(c.spans); n != 8 {
		t.Errorf("%d spans, want 8 with the request that was open at the end", n)
	}
}

// calls publishes n calls of a replay, more than wait for export at once.
func calls(t *testing.T, tel *telemetry.Telemetry, n int) {
	t.Helper()
	for i := range n {
		tel.Bus().Publish(&event.Event{Type: event.CallDispatched, Text: "finish_write", Duration: int64(i), Keys: []kv.ObjectKey{key(t, "m", "", i)}})
	}
}

// TestNoSpanIsLost: on simulated time, where nobody is late, all spans arrive.
func TestNoSpanIsLost(t *testing.T) {
	const n = 50_000
	c, address := startCollector(t)
	tel, _ := start(t, telemetry.Options{Spans: true, Endpoint: address})
	calls(t, tel, n)
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	if len(c.spans) != n {
		t.Errorf("%d of %d spans arrived", len(c.spans), n)
	}
}

// TestSpansWithoutCollector: nor does anybody wait for a collector that is not
// there, and what was lost is told.
func TestSpansWithoutCollector(t *testing.T) {
	const n = 50_000
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var log bytes.Buffer // written to by the exporter's goroutine, read when that has ended
	tel, _ := start(t, telemetry.Options{Spans: true, Endpoint: address, Log: slog.New(slog.NewTextHandler(&log, nil))})
	began := time.Now()
	calls(t, tel, n)
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if want := fmt.Sprintf("%d of %d spans did not arrive at %s", n, n, address); !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %q:\n%s", want, &log)
	}
	if lines := strings.Count(log.String(), "\n"); lines > 10 {
		t.Errorf("the log has %d lines:\n%s", lines, &log)
	}
}

// TestCollectorDown: a run is not delayed, and ends soon.
func TestCollectorDown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	tel, c := start(t, telemetry.Options{Metrics: true, Spans: true, Endpoint: addr})
	everything(t, tel, c)
	began := time.Now()
	if err := tel.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("Close took %v", took)
	}
}
