package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/sm"
)

// Engine is what the request front-ends serve, as far as this one needs it.
// Implementations are safe for concurrent use.
type Engine interface {
	// Report says how the engine is.
	Report() engine.Report
	// Clear drops the objects of L1 that nobody holds, or with force all.
	Clear(force bool) error
	// Prefetch begins to load the full chunks of tokens into L1, to stay there
	// without locks. It returns how many chunks that are; with none there is
	// nothing to ask for later. It fails with engine.ErrNoLayout if nobody has said what
	// objects of that model look like.
	Prefetch(model string, worldSize int, salt string, tokens []uint32) (id string, chunks int, err error)
	// PrefetchResult returns what came of it, once. known is false for an id that
	// was never given or was asked for already.
	PrefetchResult(id string) (found, total int, done, known bool)
}

// Options configures New.
type Options struct {
	Engine  Engine      // required
	Storage *sm.Manager // required

	// Healthy returns what is wrong with the server, nil if nothing is; nil stands
	// for a server that is always well.
	Healthy func() error
	// Settings is what GET /config shows: a value for encoding/json.
	Settings any
	// Recordings starts and stops recordings; nil refuses to.
	Recordings Recordings
	// Metrics answers a scrape; nil has no metrics.
	Metrics http.Handler
	// Level is the level of the program's log, which POST /loglevel sets; nil if
	// that cannot be.
	Level *slog.LevelVar
	// Reconfigure allows POST /reconfigure, which makes and removes stores below
	// L1: who may do that may write files.
	Reconfigure bool

	Version string       // as GET /lmc_version says it
	Commit  string       // as GET /commit_id does; empty if unknown
	Log     *slog.Logger // discarded if nil
}

// API answers the requests. It is an http.Handler.
type API struct {
	opt     Options
	mux     *http.ServeMux
	handler http.Handler
}

// maxBody bounds the body of a request: a prefetch of a million tokens has 7 MB.
const maxBody = 32 << 20

// New returns the front-end.
func New(opt Options) *API {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Healthy == nil {
		opt.Healthy = func() error { return nil }
	}
	a := &API{opt: opt, mux: http.NewServeMux()}
	for path, m := range a.routes() {
		a.mux.Handle(path, m)
	}
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "cross-origin request refused")
	}))
	a.handler = cross.Handler(http.HandlerFunc(a.serve))
	return a
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.opt.Log.Error("HTTP request failed", "method", r.Method, "path", r.URL.Path, "panic", p)
			refuse(w, http.StatusInternalServerError, "Internal Server Error")
		}
	}()
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	if _, pattern := a.mux.Handler(r); pattern == "" {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	a.mux.ServeHTTP(w, r)
}

// methods are the handlers of one path, by method.
type methods map[string]http.HandlerFunc

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(m)), ", "))
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	h(w, r)
}

// routes is the table of paths.
func (a *API) routes() map[string]methods {
	get := func(h http.HandlerFunc) methods { return methods{http.MethodGet: h} }
	post := func(h http.HandlerFunc) methods { return methods{http.MethodPost: h} }
	table := map[string]methods{
		"/{$}":         get(a.root),
		"/healthcheck": get(a.healthcheck),
		"/status":      get(a.status),
		"/version":     get(a.text(a.version())),
		"/lmc_version": get(a.text(a.opt.Version)),
		"/commit_id":   get(a.text(a.opt.Commit)),

		"/config":          get(a.config),
		"/config/adapters": get(a.configAdapters),

		"/cache/clear":           post(a.clear),
		"/cache/checksums":       post(a.checksums),
		"/cache/objects":         {http.MethodGet: a.listObjects, http.MethodDelete: a.deleteObjects},
		"/cache/prefetches":      post(a.submitPrefetch),
		"/cache/prefetches/{id}": get(a.prefetchStatus),

		"/quota":        get(a.quotas),
		"/quota/{salt}": {http.MethodGet: a.quota, http.MethodPut: a.setQuota, http.MethodDelete: a.deleteQuota},

		"/reconfigure/{backend}/l2/status":      get(a.reconfigureStatus),
		"/reconfigure/{backend}/l2/{operation}": post(a.reconfigure),
		"/reconfigure/dax/l1/status":            get(a.noDAX),
		"/reconfigure/dax/l1/add":               post(a.noDAX),
		"/reconfigure/dax/l1/remove":            post(a.noDAX),

		"/metrics":       get(a.metrics),
		"/metrics/reset": post(a.resetMetrics),

		"/loglevel":                get(a.logLevel),
		"/threads":                 get(a.threads),
		"/periodic-threads":        get(a.periodicThreads),
		"/periodic-threads/{name}": get(a.periodicThread),
		"/periodic-threads-health": get(a.periodicHealth),
		"/run_script":              post(a.runScript),

		"/trace":          get(a.recording),
		"/trace/start":    post(a.startRecording),
		"/trace/stop":     post(a.stopRecording),
		"/trace/download": get(a.downloadRecording),
	}
	for older, path := range map[string]string{
		"/conf":            "/config",
		"/clear-cache":     "/cache/clear",
		"/api/healthcheck": "/healthcheck",
		"/api/status":      "/status",
		"/api/clear-cache": "/cache/clear",
		"/api/quota":       "/quota", "/api/quota/{salt}": "/quota/{salt}",
	} {
		table[older] = table[path]
	}
	table["/kvcache/check"], table["/api/kvcache/check"] = get(a.checksums), get(a.checksums)
	return table
}

// answer writes v as JSON without blanks.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(v)) // who asked has gone: nobody is left to tell
}

// encode returns v as JSON, as LMCache's framework writes it: <, > and & as they
// are, no newline at the end.
func encode(v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // values of our own types encode
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// refuse answers with the reason in "detail".
func refuse(w http.ResponseWriter, status int, detail string) {
	answer(w, status, struct {
		Detail string `json:"detail"`
	}{detail})
}

// fail answers with the reason in "error", as some handlers of LMCache do.
func fail(w http.ResponseWriter, status int, reason string) {
	answer(w, status, struct {
		Error string `json:"error"`
	}{reason})
}

// plain answers with text.
func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// indented returns compact JSON in lines, by two blanks a level.
func indented(compact []byte) []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, compact, "", "  "); err != nil {
		panic(err) // it was encoded by us
	}
	return b.Bytes()
}
