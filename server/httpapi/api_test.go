package httpapi_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/httpapi"
	"github.com/lmcache/lmcache-go/sm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine is an Engine whose answers the test sets.
type fakeEngine struct {
	report   engine.Report
	clears   []bool // force of each
	clearErr error
	chunks   int
	err      error
	pending  bool
	asked    int
}

func (e *fakeEngine) Report() engine.Report  { return e.report }
func (e *fakeEngine) Clear(force bool) error { e.clears = append(e.clears, force); return e.clearErr }
func (e *fakeEngine) Prefetch(model string, worldSize int, salt string, tokens []uint32) (string, int, error) {
	e.asked = len(tokens)
	return "0123456789abcdef0123456789abcdef", e.chunks, e.err
}

func (e *fakeEngine) PrefetchResult(id string) (found, total int, done, known bool) {
	return 1, 2, !e.pending, id != "nope"
}

// recordings is a Recordings whose file is on disk.
type recordings struct {
	state httpapi.RecordingState
	err   error
	name  string
	path  string
}

func (r *recordings) Start(name string) error {
	r.name = name
	r.state.Recording = r.err == nil
	return r.err
}
func (r *recordings) Stop() error                   { r.state.Recording = false; return r.err }
func (r *recordings) State() httpapi.RecordingState { return r.state }
func (r *recordings) Open() (httpapi.RecordingFile, error) {
	if r.path == "" {
		return nil, httpapi.ErrNoRecording
	}
	f, err := os.Open(r.path)
	return file{f}, err
}

type file struct{ *os.File }

func (f file) Size() int64  { info, _ := f.Stat(); return info.Size() }
func (f file) Name() string { return filepath.Base(f.File.Name()) }

type fixture struct {
	*httpapi.API
	engine     *fakeEngine
	recordings *recordings
	level      *slog.LevelVar
	sick       error
	manager    *sm.Manager
}

func newFixture(t *testing.T, adapters ...string) *fixture {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes = 1 << 20
	cfg.Eviction.Policy = sm.IsolatedLRU
	cfg.L2Adapters = adapters
	m, err := sm.New(cfg, sm.Options{Clock: clock.Real{}, Memory: sm.ScratchMemory, Adapters: l2.Registry{"mock": mock.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	f := &fixture{engine: &fakeEngine{chunks: 2}, recordings: &recordings{}, level: &slog.LevelVar{}, manager: m}
	f.API = httpapi.New(httpapi.Options{
		Engine: f.engine, Storage: m, Healthy: func() error { return f.sick },
		Settings: map[string]any{"mp": map[string]int{"chunk_size": 256}}, Recordings: f.recordings,
		Level: f.level, Version: "0.5.6", Commit: "g3e11e108",
	})
	return f
}

func (f *fixture) ask(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

const oneMock = `{"type":"mock","max_size_gb":0.001,"mock_bandwidth_gb":1}`

// The answers are LMCache's, byte for byte: reference server-protocol.md,
// section 4.
func TestAnswers(t *testing.T) {
	const key = `{"chunk_hash_hex":"00ff","model_name":"m","kv_rank":16777472}`
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"root", "GET", "/", "", 200, `{"status":"ok","service":"LMCache HTTP API"}`},
		{"health", "GET", "/healthcheck", "", 200, `{"status":"healthy"}`},
		{"unknown path", "GET", "/nope", "", 404, `{"detail":"Not Found"}`},
		{"below a path", "GET", "/status/x", "", 404, `{"detail":"Not Found"}`},
		{"environment", "GET", "/env", "", 404, `{"detail":"Not Found"}`},
		{"wrong method", "POST", "/status", "", 405, `{"detail":"Method Not Allowed"}`},
		{"HEAD", "HEAD", "/status", "", 405, `{"detail":"Method Not Allowed"}`},
		{"version", "GET", "/version", "", 200, `"0.5.6-g3e11e108"`},
		{"release", "GET", "/lmc_version", "", 200, `"0.5.6"`},
		{"commit", "GET", "/commit_id", "", 200, `"g3e11e108"`},
		{"config", "GET", "/config", "", 200, "{\n  \"mp\": {\n    \"chunk_size\": 256\n  }\n}"},
		{"config, older", "GET", "/conf", "", 200, "{\n  \"mp\": {\n    \"chunk_size\": 256\n  }\n}"},
		{"adapters", "GET", "/config/adapters", "", 200, `{"adapters":[]}`},

		{"clear", "POST", "/cache/clear", "", 200, `{"status":"ok","cleared":{"tier":"l1"}}`},
		{"clear, CLI", "POST", "/cache/clear", `{"tier":"l1"}`, 200, `{"status":"ok","cleared":{"tier":"l1"}}`},
		{"clear, older", "POST", "/clear-cache", "", 200, `{"status":"ok","cleared":{"tier":"l1"}}`},
		{"clear, oldest", "POST", "/api/clear-cache", "", 200, `{"status":"ok","cleared":{"tier":"l1"}}`},
		{"clear L2", "POST", "/cache/clear", `{"tier":"l2"}`, 400, `{"detail":"tier 'l2' not supported; only 'l1'"}`},
		{"clear what", "POST", "/cache/clear", `{"tier":"x"}`, 422, `{"detail":[{"type":"literal_error","loc":["body","tier"],"msg":"Input should be 'l1' or 'l2'","input":"x","ctx":{"expected":"'l1' or 'l2'"}}]}`},
		{"clear, no JSON", "POST", "/cache/clear", `{`, 422, `{"detail":[{"type":"json_invalid","loc":["body",1],"msg":"JSON decode error","input":{},"ctx":{"error":"unexpected end of JSON input"}}]}`},
		{"clear, a list", "POST", "/cache/clear", `[1]`, 422, `{"detail":[{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid dictionary or object to extract fields from","input":[1]}]}`},
		{"checksums", "POST", "/cache/checksums", `{"block_ids":[1]}`, 501, `{"detail":"checksum not supported for this engine type"}`},
		{"objects without L2", "GET", "/cache/objects", "", 503, `{"detail":"no L2 adapters configured"}`},
		{"objects of L1", "GET", "/cache/objects?tier=l1", "", 400, `{"detail":"tier 'l1' not supported; only 'l2'"}`},
		{"objects, page", "GET", "/cache/objects?page_size=0", "", 422, `{"detail":[{"type":"greater_than_equal","loc":["query","page_size"],"msg":"Input should be greater than or equal to 1","input":"0","ctx":{"ge":"1"}}]}`},
		{"delete", "DELETE", "/cache/objects", `{"keys":[]}`, 200, `{"deleted":0,"skipped":0,"ok":true}`},
		{"delete without keys", "DELETE", "/cache/objects", `{}`, 422, `{"detail":[{"type":"missing","loc":["body","keys"],"msg":"Field required","input":{}}]}`},
		{"delete a bad hash", "DELETE", "/cache/objects", `{"keys":[{"chunk_hash_hex":"xyz","model_name":"m","kv_rank":1}]}`, 422, ""},
		{"delete from a store that is not", "DELETE", "/cache/objects", `{"keys":[` + key + `],"adapter":3}`, 400, `{"detail":"no L2 adapter 3"}`},

		{"prefetch", "POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[1,2,3]}`, 202, `{"request_id":"0123456789abcdef0123456789abcdef","chunks":2,"status":"submitted"}`},
		{"prefetch, bad token", "POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[-1]}`, 422, ""},
		{"prefetch, bad salt", "POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[],"cache_salt":"a/b"}`, 400, ""},
		{"prefetch, world", "POST", "/cache/prefetches", `{"model_name":"m","world_size":0,"token_ids":[]}`, 422, ""},
		{"prefetched", "GET", "/cache/prefetches/ab", "", 200, `{"request_id":"ab","status":"completed","found_keys":1,"total_keys":2}`},
		{"prefetch unknown", "GET", "/cache/prefetches/nope", "", 404, `{"detail":"unknown prefetch request_id='nope' (already completed or never submitted)"}`},

		{"quotas", "GET", "/quota", "", 200, `{"users":{}}`},
		{"quota of nobody", "GET", "/quota/bob", "", 200, `{"cache_salt":"bob","limit_gb":0.0,"current_usage_gb":0.0,"exists":false}`},
		{"no quota to remove", "DELETE", "/quota/bob", "", 200, `{"cache_salt":"bob","status":"not_found"}`},
		{"quota, no JSON", "PUT", "/quota/bob", "x", 400, `{"error":"invalid JSON body"}`},
		{"quota, no limit", "PUT", "/quota/bob", `{"a":1}`, 400, `{"error":"body must be {'limit_gb': <float>}"}`},
		{"quota, a list", "PUT", "/quota/bob", `[]`, 400, `{"error":"body must be {'limit_gb': <float>}"}`},
		{"quota, text", "PUT", "/quota/bob", `{"limit_gb":"1"}`, 400, `{"error":"limit_gb must be numeric"}`},
		{"quota, bool", "PUT", "/quota/bob", `{"limit_gb":true}`, 400, `{"error":"limit_gb must be numeric"}`},
		{"quota, negative", "PUT", "/quota/bob", `{"limit_gb":-1}`, 400, `{"error":"limit_gb must be non-negative"}`},
		{"quota, huge", "PUT", "/quota/bob", `{"limit_gb":1e30}`, 400, `{"error":"limit_gb must be below 2^33"}`},
		{"quota, bad salt", "PUT", "/quota/a@b", `{"limit_gb":1}`, 400, ""},

		{"reconfigure", "GET", "/reconfigure/fs/l2/status", "", 200, `{"enabled":false,"backend":"fs","num_adapters":0,"adapters":[]}`},
		{"reconfigure is off", "POST", "/reconfigure/fs/l2/add", `{}`, 403, ""},
		{"DAX", "GET", "/reconfigure/dax/l1/status", "", 409, `{"error":"L1 is not Device-DAX backed (--l1-devdax-path not set)"}`},
		{"DAX add", "POST", "/reconfigure/dax/l1/add", "", 409, `{"error":"L1 is not Device-DAX backed (--l1-devdax-path not set)"}`},
		{"no metrics", "GET", "/metrics", "", 404, `{"detail":"Not Found"}`},
		{"metrics reset", "POST", "/metrics/reset", "", 200, "ok"},
		{"level", "GET", "/loglevel", "", 200, "=== Loggers and Levels ===\nlmcache: INFO\n"},
		{"level of one", "GET", "/loglevel?logger_name=lmcache", "", 200, "lmcache: INFO"},
		{"bad level", "GET", "/loglevel?level=loud", "", 400, "Invalid log level: loud"},
		{"threads health", "GET", "/periodic-threads-health", "", 200, `{"healthy":true,"unhealthy_count":0,"unhealthy_threads":[]}`},
		{"no thread", "GET", "/periodic-threads/nope", "", 404, `{"error":"Thread not found: nope"}`},
		{"script", "POST", "/run_script", "", 404, "run_script API is not enabled: this server runs no scripts"},

		{"no recording", "GET", "/trace", "", 200, `{"recording":false,"calls":0,"dropped_calls":0,"size_bytes":0}`},
		{"nothing to download", "GET", "/trace/download", "", 404, `{"detail":"nothing was recorded yet"}`},
		{"record where", "POST", "/trace/start", `{"name":1}`, 422, `{"detail":[{"type":"string_type","loc":["body","name"],"msg":"Input should be a valid string","input":1}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			w := f.ask(c.method, c.path, c.body)
			if got := w.Body.String(); w.Code != c.status || c.want != "" && got != c.want {
				t.Errorf("%s %s: %d %s; want %d %s", c.method, c.path, w.Code, got, c.status, c.want)
			}
			if w.Code == http.StatusMethodNotAllowed && w.Header().Get("Allow") != "GET" {
				t.Errorf("Allow: %q; want GET", w.Header().Get("Allow"))
			}
		})
	}
}

func TestQuotas(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ method, path, body, want string }{
		{"PUT", "/quota/alice", `{"limit_gb":1.5}`, `{"cache_salt":"alice","limit_gb":1.5,"status":"ok"}`},
		{"PUT", "/quota/_default", `{"limit_gb":2}`, `{"cache_salt":"_default","limit_gb":2.0,"status":"ok"}`},
		{"GET", "/quota/alice", "", `{"cache_salt":"alice","limit_gb":1.5,"current_usage_gb":0.0,"exists":true}`},
		{"GET", "/quota", "", `{"users":{"_default":{"limit_gb":2.0,"current_usage_gb":0.0},"alice":{"limit_gb":1.5,"current_usage_gb":0.0}}}`},
		{"DELETE", "/quota/alice", "", `{"cache_salt":"alice","status":"removed"}`},
		{"DELETE", "/quota/alice", "", `{"cache_salt":"alice","status":"not_found"}`},
	} {
		if w := f.ask(c.method, c.path, c.body); w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%s %s: %d %s; want 200 %s", c.method, c.path, w.Code, w.Body, c.want)
		}
	}
	if list := f.manager.Quotas().List(); len(list) != 1 || list[0].Bytes != 2<<30 {
		t.Errorf("quotas of the storage manager: %v; want one of 2 GiB", list)
	}
}

func TestStores(t *testing.T) {
	f := newFixture(t, oneMock)
	const key = `{"chunk_hash_hex":"00ff","model_name":"m","kv_rank":16777472,"object_group_id":0,"cache_salt":""}`
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/config/adapters", "", `{"adapters":[{"index":0,"type_name":"mock","tier":"l2","primary":true,"reconfigurable":false}]}`},
		{"GET", "/reconfigure/fs/l2/status", "", `{"enabled":false,"backend":"fs","num_adapters":0,"adapters":[]}`},
		{"DELETE", "/cache/objects", `{"keys":[` + key + `]}`, `{"deleted":0,"skipped":0,"ok":true}`},
		{"DELETE", "/cache/objects", `{"keys":[` + key + `],"tier":"all","adapter":0}`, `{"deleted":0,"skipped":0,"ok":true}`},
	} {
		if w := f.ask(c.method, c.path, c.body); w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%s %s: %d %s; want 200 %s", c.method, c.path, w.Code, w.Body, c.want)
		}
	}
}

func TestWhatTheEngineIsAsked(t *testing.T) {
	f := newFixture(t)
	f.ask("POST", "/cache/clear", `{"tier":"l1","force":true}`)
	f.ask("POST", "/cache/clear", `{"tier":"l2","force":true}`)
	f.ask("POST", "/cache/clear", ``)
	if len(f.engine.clears) != 2 || !f.engine.clears[0] || f.engine.clears[1] {
		t.Errorf("clears by force: %v; want [true false]", f.engine.clears)
	}
	if f.ask("POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[4294967295,2]}`); f.engine.asked != 2 {
		t.Errorf("prefetch of %d tokens; want 2", f.engine.asked)
	}
	f.engine.chunks = 0
	if w := f.ask("POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[]}`); w.Code != 202 || w.Body.String() != `{"chunks":0,"status":"noop"}` {
		t.Errorf("prefetch of no chunk: %d %s", w.Code, w.Body)
	}
	f.engine.err = engine.ErrNoLayout
	if w := f.ask("POST", "/cache/prefetches", `{"model_name":"m","world_size":1,"token_ids":[]}`); w.Code != 503 || !strings.HasPrefix(w.Body.String(), `{"detail":"no layout registered for model_name='m' world_size=1; `) {
		t.Errorf("prefetch without a layout: %d %s", w.Code, w.Body)
	}
	f.engine.pending = true
	if w := f.ask("GET", "/cache/prefetches/ab", ""); w.Body.String() != `{"request_id":"ab","status":"pending"}` {
		t.Errorf("pending prefetch: %s", w.Body)
	}
}

func TestHealthTellsTheTruth(t *testing.T) {
	f := newFixture(t)
	f.sick = errors.New("request loop ended")
	if w := f.ask("GET", "/healthcheck", ""); w.Code != 503 || w.Body.String() != `{"status":"unhealthy","reason":"request loop ended"}` {
		t.Errorf("healthcheck: %d %s", w.Code, w.Body)
	}
	if w := f.ask("GET", "/status", ""); !strings.HasPrefix(w.Body.String(), `{"is_healthy":false,`) {
		t.Errorf("status: %s", w.Body)
	}
	if w := f.ask("GET", "/periodic-threads-health", ""); w.Code != 200 || w.Body.String() != `{"healthy":false,"unhealthy_count":1,"unhealthy_threads":["request-loop"]}` {
		t.Errorf("threads: %d %s", w.Code, w.Body)
	}
}

func TestLogLevel(t *testing.T) {
	f := newFixture(t)
	if w := f.ask("GET", "/loglevel?logger_name=lmcache.server&level=debug", ""); w.Body.String() != "lmcache.server: DEBUG" || f.level.Level() != slog.LevelDebug {
		t.Errorf("set: %s, level %v", w.Body, f.level.Level())
	}
	r := httptest.NewRequest("GET", "/loglevel?level=error", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != 403 || f.level.Level() != slog.LevelDebug {
		t.Errorf("set by another site's page: %d, level %v", w.Code, f.level.Level())
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	f := newFixture(t)
	r := httptest.NewRequest("POST", "/cache/clear", nil)
	r.Header.Set("Origin", "https://example.org")
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != 403 || len(f.engine.clears) != 0 {
		t.Errorf("clear by another site's page: %d %s, %d clears", w.Code, w.Body, len(f.engine.clears))
	}
}

func TestHugeBody(t *testing.T) {
	f := newFixture(t)
	r := httptest.NewRequest("POST", "/cache/prefetches", io.MultiReader(strings.NewReader(`{"token_ids":[`), strings.NewReader(strings.Repeat("1,", 17<<20))))
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != 413 {
		t.Errorf("34 MB body: %d; want 413", w.Code)
	}
}

func TestRecordings(t *testing.T) {
	f := newFixture(t)
	f.recordings.state = httpapi.RecordingState{Level: "storage", Path: "/x/run.lct", Started: time.Unix(0, 0), Calls: 3, Bytes: 7}
	if w := f.ask("POST", "/trace/start", `{"name":"run.lct"}`); w.Code != 200 || f.recordings.name != "run.lct" ||
		w.Body.String() != `{"recording":true,"level":"storage","path":"/x/run.lct","started":"1970-01-01T00:00:00Z","calls":3,"dropped_calls":0,"size_bytes":7}` {
		t.Errorf("start: %d %s, name %q", w.Code, w.Body, f.recordings.name)
	}
	if w := f.ask("POST", "/trace/stop", ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"recording":false,`) {
		t.Errorf("stop: %d %s", w.Code, w.Body)
	}
	for err, status := range map[error]int{httpapi.ErrRecording: 409, httpapi.ErrExists: 409, httpapi.ErrName: 400, os.ErrPermission: 500} {
		f.recordings.err = err
		if w := f.ask("POST", "/trace/start", ""); w.Code != status {
			t.Errorf("start with %v: %d; want %d", err, w.Code, status)
		}
	}
	f.recordings.path = filepath.Join(t.TempDir(), "run.lct")
	if err := os.WriteFile(f.recordings.path, []byte("LMCTRACE and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := f.ask("GET", "/trace/download", "")
	if w.Code != 200 || w.Body.String() != "LMCTRACE and more" || w.Header().Get("Content-Length") != "17" ||
		w.Header().Get("Content-Disposition") != `attachment; filename="run.lct"` || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Errorf("download: %d %q %v", w.Code, w.Body, w.Header())
	}
}
