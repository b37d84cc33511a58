package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeFront is a request socket that takes connections and no requests.
type fakeFront struct {
	net.Listener
	order *order
	end   chan error
	once  sync.Once
}

func (f *fakeFront) Addr() string           { return f.Listener.Addr().String() }
func (f *fakeFront) Serve(mq.Service) error { return <-f.end }
func (f *fakeFront) Stats() mq.Stats        { return mq.Stats{InFlight: 3} }
func (f *fakeFront) Close() error {
	f.order.add("requests")
	f.once.Do(func() { close(f.end) })
	return f.Listener.Close()
}

// fakeEngine is an engine that a test calls itself.
type fakeEngine struct {
	mq.Service // nil: nobody asks
	order      *order
	manager    *sm.Manager
}

func (e *fakeEngine) Report() engine.Report  { return engine.Report{ChunkSize: 256} }
func (e *fakeEngine) Clear(force bool) error { e.manager.Clear(force); return nil }
func (e *fakeEngine) Prefetch(string, int, string, []uint32) (string, int, error) {
	return "", 0, engine.ErrNoLayout
}
func (e *fakeEngine) PrefetchResult(string) (int, int, bool, bool) { return 0, 0, false, false }

// Close makes one more call, as an engine does that gives back what clients left
// half done.
func (e *fakeEngine) Close() {
	e.order.add("engine")
	e.manager.FinishWrite(nil)
}

// order is what was closed, in order.
type order struct {
	mu   sync.Mutex
	list []string
}

func (o *order) add(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, s)
}

type fixture struct {
	cfg   Config
	opt   Options
	order order
	log   bytes.Buffer
	front *fakeFront
	trace string
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{cfg: DefaultConfig(), trace: filepath.Join(t.TempDir(), "run.lct")}
	f.cfg.Host, f.cfg.Port, f.cfg.HTTPPort = "127.0.0.1", 0, 0
	f.cfg.Storage.L1.SizeBytes, f.cfg.Storage.Eviction.Policy = 1<<20, "LRU"
	ring := t.TempDir()
	f.opt = Options{
		Storage: sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory},
		Recording: RecordingOptions{Level: "storage", Path: f.trace, Folder: filepath.Dir(f.trace), Create: func(path string) (*trace.Recorder, error) {
			return trace.Create(path, trace.Options{RingDir: ring, Overflow: trace.OverflowBlock})
		}},
		Log: slog.New(slog.NewTextHandler(&f.log, nil)),
	}
	f.opt.make = makers{
		front: func(addr string, _ Config, _ *slog.Logger) (front, error) {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return nil, err
			}
			f.front = &fakeFront{Listener: l, order: &f.order, end: make(chan error, 1)}
			return f.front, nil
		},
		service: func(_ Config, m *sm.Manager, _ sm.Options) (service, error) {
			return &fakeEngine{order: &f.order, manager: m}, nil
		},
	}
	return f
}

// start runs a server; the returned function ends it as a signal does.
func (f *fixture) start(t *testing.T) (*Server, func() error) {
	t.Helper()
	s, err := New(f.cfg, f.opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ran, s.Close())
	})
	t.Cleanup(func() { stop() })
	return s, stop
}

func ask(t *testing.T, s *Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+s.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func records(t *testing.T, path string) *trace.Summary {
	t.Helper()
	s, err := tracefile.Summarize(path, func(text string) { t.Errorf("%s: %s", path, text) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTraceHasAllCallsAtTheEnd(t *testing.T) {
	f := newFixture(t)
	s, stop := f.start(t)
	if code, body := ask(t, s, "GET", "/healthcheck", ""); code != 200 {
		t.Fatalf("healthcheck: %d %s", code, body)
	}
	s.manager.FinishWrite(make([]kv.ObjectKey, 1))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if sum := records(t, f.trace); !sum.Sealed || sum.Records != 2 {
		t.Errorf("trace: sealed %v, %d records; want 2 in a sealed one", sum.Sealed, sum.Records)
	}
	if got := strings.Join(f.order.list, " "); got != "requests engine" {
		t.Errorf("closed: %s; want requests engine", got)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestTakenPorts(t *testing.T) {
	for _, which := range []string{"port", "http-port"} {
		t.Run(which, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f := newFixture(t)
			*map[string]*int{"port": &f.cfg.Port, "http-port": &f.cfg.HTTPPort}[which] = l.Addr().(*net.TCPAddr).Port
			_, err = New(f.cfg, f.opt)
			var port *PortError
			if !errors.As(err, &port) || port.Flag != which || strings.Contains(err.Error(), "\n") ||
				!strings.HasSuffix(err.Error(), ": address already in use (--"+which+" chooses another port)") {
				t.Errorf("New: %v; want that the port is in use, in one line", err)
			}
			if _, err := os.Stat(f.trace); err == nil {
				t.Error("a trace was created before the ports were bound")
			}
		})
	}
}

func TestHealthOfADeadRequestLoop(t *testing.T) {
	f := newFixture(t)
	s, err := New(f.cfg, f.opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Errorf("healthy server: %v", err)
	}
	f.front.end <- errors.New("socket broke")
	if err := s.Run(t.Context()); err == nil || err.Error() != "request loop: socket broke" {
		t.Errorf("Run: %v; want that the request loop ended", err)
	}
	if err := s.Healthy(); err == nil || err.Error() != "socket broke" {
		t.Errorf("health: %v; want the reason", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if sum := records(t, f.trace); !sum.Sealed {
		t.Error("the trace is not sealed")
	}
}

func TestRecordingsOverHTTP(t *testing.T) {
	f := newFixture(t)
	f.opt.Recording.Path = ""
	s, stop := f.start(t)
	folder := f.opt.Recording.Folder
	s.manager.FinishWrite(nil) // nobody records it
	for _, c := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"GET", "/trace", "", 200, `{"recording":false,"calls":0,`},
		{"GET", "/trace/download", "", 404, ""},
		{"POST", "/trace/stop", "", 409, "no recording runs"},
		{"POST", "/trace/start", `{"name":"../x.lct"}`, 400, "not a plain file name"},
		{"POST", "/trace/start", `{"name":".hidden"}`, 400, "not a plain file name"},
		{"POST", "/trace/start", `{"name":"a.lct"}`, 200, `{"recording":true,"level":"storage","path":"` + filepath.Join(folder, "a.lct") + `"`},
		{"POST", "/trace/start", `{"name":"b.lct"}`, 409, "a recording runs already"},
	} {
		if code, body := ask(t, s, c.method, c.path, c.body); code != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %s %s: %d %s; want %d with %s", c.method, c.path, c.body, code, body, c.status, c.has)
		}
	}
	s.manager.FinishWrite(nil)
	if code, _ := ask(t, s, "POST", "/trace/stop", ""); code != 200 {
		t.Errorf("stop: %d", code)
	}
	if sum := records(t, filepath.Join(folder, "a.lct")); !sum.Sealed || sum.Records != 1 {
		t.Errorf("a.lct: sealed %v, %d records; want 1 in a sealed one", sum.Sealed, sum.Records)
	}
	if code, body := ask(t, s, "POST", "/trace/start", `{"name":"a.lct"}`); code != 409 || !strings.Contains(body, "exists already") {
		t.Errorf("a second a.lct: %d %s", code, body)
	}
	for range 2 { // two names of our own, also within a second
		if code, body := ask(t, s, "POST", "/trace/start", ""); code != 200 {
			t.Errorf("start: %d %s", code, body)
		}
		if code, body := ask(t, s, "POST", "/trace/stop", ""); code != 200 {
			t.Errorf("stop: %d %s", code, body)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(folder, "lmcache-trace-*.lct")); len(files) != 2 {
		t.Errorf("recordings: %v; want two of our names", files)
	}
	if code, body := ask(t, s, "POST", "/trace/start", `{"name":"c.lct"}`); code != 200 {
		t.Fatalf("start: %d %s", code, body)
	}
	s.manager.FinishWrite(nil)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if sum := records(t, filepath.Join(folder, "c.lct")); !sum.Sealed || sum.Records != 2 {
		t.Errorf("c.lct: sealed %v, %d records; want 2 in a sealed one", sum.Sealed, sum.Records)
	}
	if err := s.recordings.Start(""); !errors.Is(err, errShutdown) {
		t.Errorf("start after the end: %v", err)
	}
}

// A download while calls are made is a trace that every tool takes.
func TestDownloadWhileRecording(t *testing.T) {
	f := newFixture(t)
	s, _ := f.start(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20_000 {
			s.manager.FinishWrite(nil)
		}
	}()
	for last, running := int64(0), true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		code, body := ask(t, s, "GET", "/trace/download", "")
		if code != 200 {
			t.Fatalf("download: %d %s", code, body)
		}
		path := filepath.Join(t.TempDir(), "part.lct")
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		sum := records(t, path)
		if sum.Records < last || sum.Damage != nil {
			t.Fatalf("download: %d records after %d, damage %v", sum.Records, last, sum.Damage)
		}
		last = sum.Records
	}
}

func TestConfigOverHTTP(t *testing.T) {
	f := newFixture(t)
	f.opt.Recording.Path = ""
	f.opt.Observability = map[string]bool{"enabled": true}
	s, _ := f.start(t)
	_, body := ask(t, s, "GET", "/config", "")
	for _, want := range []string{"{\n  \"mp\": {\n", "    \"chunk_size\": 256,\n", "    \"shm_name\": \"\",\n",
		"  \"storage_manager\": {\n", "\"size_in_bytes\": 1048576", "\"http_port\": " + strconv.Itoa(portOf(s.HTTPAddr())), "  \"coordinator\": {}\n}"} {
		if !strings.Contains(body, want) {
			t.Errorf("/config has no %q:\n%s", want, body)
		}
	}
	if code, body := ask(t, s, "GET", "/metrics", ""); code != 200 || !strings.Contains(body, "go_goroutines ") {
		t.Errorf("/metrics without telemetry: %d %.200s", code, body)
	}
}

func TestSegmentName(t *testing.T) {
	for name, want := range map[string]string{"": "", "/": "", "x": "lmcache_l1_pool_x", "/x": "lmcache_l1_pool_x", "lmcache_l1_pool_7": "lmcache_l1_pool_7"} {
		if got := SegmentName(name); got != want {
			t.Errorf("SegmentName(%q): %q; want %q", name, got, want)
		}
	}
}

func TestMetricsOverHTTP(t *testing.T) {
	f := newFixture(t)
	f.opt.Recording.Path = ""
	f.opt.Telemetry = func() (*telemetry.Telemetry, error) {
		return telemetry.Start(telemetry.Options{Clock: clock.Real{}, Log: f.opt.Log, QueueSize: 100, Metrics: true, SampleRate: 1, Port: -1, Handler: true,
			Endpoint: "http://127.0.0.1:1", Patience: time.Millisecond}) // nobody collects there
	}
	f.opt.Watch = func(m *sm.Manager) func() telemetry.State {
		return func() telemetry.State { return telemetry.State{OOMKeys: 5} }
	}
	s, _ := f.start(t)
	code, body := ask(t, s, "GET", "/metrics", "")
	for _, want := range []string{"lmcache_storage_reservation_failures_total", "lmcache_server_requests_in_flight", "go_goroutines "} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("/metrics: %d, no %s in\n%s", code, want, body)
		}
	}
	if !regexp.MustCompile(`(?m)^lmcache_server_requests_in_flight(\{.*\})? 3$`).MatchString(body) {
		t.Errorf("/metrics does not show 3 requests in flight:\n%s", body)
	}
}
