package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/pprof"
	"strings"
)

// The names that Python's levels have.
var levels = map[string]slog.Level{
	"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARN": slog.LevelWarn, "WARNING": slog.LevelWarn,
	"ERROR": slog.LevelError, "CRITICAL": 12, "FATAL": 12,
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	case l < 12:
		return "ERROR"
	}
	return "CRITICAL"
}

// loggerName is the one logger of this program; LMCache has one a module.
const loggerName = "lmcache"

// logLevel shows the level, or sets it: with GET and parameters, as LMCache does.
func (a *API) logLevel(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	name, level := q.Get("logger_name"), q.Get("level")
	switch {
	case a.opt.Level == nil:
		plain(w, http.StatusNotImplemented, "the log level cannot be seen here")
		return
	case name != "" && name != "root" && name != loggerName && !strings.HasPrefix(name, loggerName+"."):
		plain(w, http.StatusNotFound, "Logger not found: "+name)
		return
	case level != "":
		l, ok := levels[strings.ToUpper(level)]
		if !ok {
			plain(w, http.StatusBadRequest, "Invalid log level: "+level)
			return
		}
		if err := http.NewCrossOriginProtection().Check(asPost(r)); err != nil {
			refuse(w, http.StatusForbidden, "cross-origin request refused") // a GET that changes something
			return
		}
		a.opt.Level.Set(l)
		a.opt.Log.Info(fmt.Sprintf("log level set to %s", levelName(l)))
	}
	if name == "" && level == "" {
		plain(w, http.StatusOK, "=== Loggers and Levels ===\n"+loggerName+": "+levelName(a.opt.Level.Level())+"\n")
		return
	}
	if name == "" {
		name = loggerName
	}
	plain(w, http.StatusOK, name+": "+levelName(a.opt.Level.Level()))
}

// asPost is r as a request that changes something.
func asPost(r *http.Request) *http.Request {
	post := *r
	post.Method = http.MethodPost
	return &post
}

// threads shows the goroutines, equal ones together.
func (a *API) threads(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := pprof.Lookup("goroutine").WriteTo(w, 1); err != nil {
		a.opt.Log.Debug("GET /threads", "err", err)
	}
}

func (a *API) metrics(w http.ResponseWriter, r *http.Request) {
	if a.opt.Metrics == nil {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	a.opt.Metrics.ServeHTTP(w, r)
}

// resetMetrics does what LMCache's does: nothing to the metrics of /metrics, which
// never go back.
func (a *API) resetMetrics(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusOK, "ok")
}

func (a *API) runScript(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusNotFound, "run_script API is not enabled: this server runs no scripts")
}
