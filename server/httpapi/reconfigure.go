package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/lmcache/lmcache-go/sm"
)

type reconfigureJSON struct {
	Enabled  bool          `json:"enabled"`
	Backend  string        `json:"backend"`
	Num      int           `json:"num_adapters"`
	Adapters []adapterJSON `json:"adapters"`
}

func (a *API) reconfigureStatus(w http.ResponseWriter, r *http.Request) {
	s := reconfigureJSON{Enabled: a.opt.Reconfigure, Backend: r.PathValue("backend"), Adapters: []adapterJSON{}}
	for _, u := range a.opt.Storage.Status().Adapters {
		if u.Type == s.Backend {
			s.Adapters = append(s.Adapters, adapterOf(&u))
		}
	}
	s.Num = len(s.Adapters)
	answer(w, http.StatusOK, s)
}

// removeTime bounds the wait for the tasks of a store that is removed.
const removeTime = 30 * time.Second

// reconfigure adds a store (the operation add; the body is what --l2-adapter
// takes, its type may be left out) or removes one (remove; the body has its
// index). LMCache's operations differ by backend; none of its backends that this
// build has can be changed while it runs.
func (a *API) reconfigure(w http.ResponseWriter, r *http.Request) {
	backend, operation := r.PathValue("backend"), r.PathValue("operation")
	switch {
	case operation != "add" && operation != "remove":
		fail(w, http.StatusNotFound, fmt.Sprintf("unknown operation '%s' (add, remove)", operation))
		return
	case !a.opt.Reconfigure:
		fail(w, http.StatusForbidden, "stores cannot be changed over HTTP (--allow-reconfigure)")
		return
	}
	b, ok := readBody(w, r, false)
	if !ok {
		return
	}
	if operation == "add" {
		a.addStore(w, backend, b)
		return
	}
	id := b.number("index", true)
	if !b.ok(w) {
		return
	}
	for _, s := range a.opt.Storage.Status().Adapters {
		if s.ID == id && s.Type == backend {
			ctx, cancel := context.WithTimeout(r.Context(), removeTime)
			defer cancel()
			if err := a.opt.Storage.RemoveAdapter(ctx, id); err != nil {
				fail(w, http.StatusServiceUnavailable, err.Error())
				return
			}
			a.opt.Log.Info(fmt.Sprintf("L2 adapter %d (%s) removed", id, backend))
			a.reconfigureStatus(w, r)
			return
		}
	}
	fail(w, http.StatusNotFound, fmt.Sprintf("no L2 adapter %d of type %s", id, backend))
}

func (a *API) addStore(w http.ResponseWriter, backend string, b *body) {
	if kind := b.text("type", false); b.has("type") && kind != backend {
		fail(w, http.StatusBadRequest, fmt.Sprintf("type is '%s', the path says '%s'", kind, backend))
		return
	}
	b.raw["type"], _ = json.Marshal(backend)
	id, err := a.opt.Storage.AddAdapter(string(encode(b.raw)))
	var wrong *sm.AdapterError
	switch {
	case errors.As(err, &wrong):
		fail(w, http.StatusBadRequest, err.Error())
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	a.opt.Log.Info(fmt.Sprintf("L2 adapter %d (%s) added", id, backend))
	answer(w, http.StatusOK, struct {
		Status string `json:"status"`
		Index  int    `json:"index"`
	}{"ok", id})
}

// noDAX answers what is about memory of a kind that this build does not have.
func (a *API) noDAX(w http.ResponseWriter, _ *http.Request) {
	fail(w, http.StatusConflict, "L1 is not Device-DAX backed (--l1-devdax-path not set)")
}
