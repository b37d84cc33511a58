package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/server/engine"
)

// maxWorldSize is what a packed rank has room for.
const maxWorldSize = 255

func (a *API) submitPrefetch(w http.ResponseWriter, r *http.Request) {
	b, ok := readBody(w, r, false)
	if !ok {
		return
	}
	model := b.text("model_name", true)
	world := b.number("world_size", true)
	tokens := field[[]uint32](b, "token_ids", true, "list_type", "Input should be a list of integers from 0 to 4294967295")
	salt := b.text("cache_salt", false)
	if b.has("world_size") && len(b.problems) == 0 && (world < 1 || world > maxWorldSize) {
		b.problems = append(b.problems, problem{Type: "value_error", Loc: []any{"body", "world_size"}, Msg: fmt.Sprintf("Input should be from 1 to %d", maxWorldSize), Input: world})
	}
	if !b.ok(w) {
		return
	}
	if _, err := kv.InternScope(model, salt); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	id, chunks, err := a.opt.Engine.Prefetch(model, world, salt, tokens)
	switch {
	case errors.Is(err, engine.ErrNoLayout):
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf(
			"no layout registered for model_name=%s world_size=%d; start a worker of that model first", pyfmt.Repr(model), world))
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	case chunks == 0:
		answer(w, http.StatusAccepted, struct {
			Chunks int    `json:"chunks"`
			Status string `json:"status"`
		}{0, "noop"})
	default:
		answer(w, http.StatusAccepted, struct {
			ID     string `json:"request_id"`
			Chunks int    `json:"chunks"`
			Status string `json:"status"`
		}{id, chunks, "submitted"})
	}
}

func (a *API) prefetchStatus(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	found, total, done, known := a.opt.Engine.PrefetchResult(id)
	switch {
	case !known:
		refuse(w, http.StatusNotFound, fmt.Sprintf("unknown prefetch request_id=%s (already completed or never submitted)", pyfmt.Repr(id)))
	case !done:
		answer(w, http.StatusOK, struct {
			ID     string `json:"request_id"`
			Status string `json:"status"`
		}{id, "pending"})
	default:
		answer(w, http.StatusOK, struct {
			ID     string `json:"request_id"`
			Status string `json:"status"`
			Found  int    `json:"found_keys"`
			Total  int    `json:"total_keys"`
		}{id, "completed", found, total})
	}
}
