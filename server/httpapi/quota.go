package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"

	"github.com/lmcache/lmcache-go/kv"
)

// defaultSalt stands for the empty salt in paths and answers.
const defaultSalt = "_default"

// salt returns the salt of the path; it answers and reports false for one that
// cannot be.
func salt(w http.ResponseWriter, r *http.Request) (name string, s kv.Salt, ok bool) {
	name = r.PathValue("salt")
	text := name
	if name == defaultSalt {
		text = ""
	}
	s, err := kv.InternSalt(text)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return "", 0, false
	}
	return name, s, true
}

type quotaState struct {
	Limit gibibytes `json:"limit_gb"`
	Usage gibibytes `json:"current_usage_gb"`
}

func (a *API) quotas(w http.ResponseWriter, _ *http.Request) {
	users := map[string]quotaState{}
	usage := a.opt.Storage.BytesBySalt()
	for _, q := range a.opt.Storage.Quotas().List() {
		name := q.Salt.String()
		if name == "" {
			name = defaultSalt
		}
		users[name] = quotaState{gibibytes(q.Bytes), gibibytes(usage[q.Salt])}
	}
	answer(w, http.StatusOK, struct {
		Users map[string]quotaState `json:"users"`
	}{users})
}

func (a *API) quota(w http.ResponseWriter, r *http.Request) {
	name, s, ok := salt(w, r)
	if !ok {
		return
	}
	limit, exists := a.opt.Storage.Quotas().Get(s)
	answer(w, http.StatusOK, struct {
		Salt string `json:"cache_salt"`
		quotaState
		Exists bool `json:"exists"`
	}{name, quotaState{gibibytes(limit), gibibytes(a.opt.Storage.BytesBySalt()[s])}, exists})
}

func (a *API) setQuota(w http.ResponseWriter, r *http.Request) {
	name, s, ok := salt(w, r)
	if !ok {
		return
	}
	data, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "body too large")
		return
	}
	var fields map[string]any
	if err != nil || !json.Valid(data) {
		fail(w, http.StatusBadRequest, "invalid JSON body")
		return
	}
	_ = json.Unmarshal(data, &fields) // what is no object has no fields
	value, ok := fields["limit_gb"]
	gb, isNumber := value.(float64)
	var bytes int64
	switch {
	case !ok:
		fail(w, http.StatusBadRequest, "body must be {'limit_gb': <float>}")
		return
	case !isNumber:
		fail(w, http.StatusBadRequest, "limit_gb must be numeric")
		return
	case math.IsInf(gb, 0):
		fail(w, http.StatusBadRequest, "limit_gb must be finite")
		return
	case gb < 0:
		fail(w, http.StatusBadRequest, "limit_gb must be non-negative")
		return
	}
	if bytes, ok = bytesOf(gb); !ok {
		fail(w, http.StatusBadRequest, "limit_gb must be below 2^33")
		return
	}
	if err := a.opt.Storage.Quotas().Set(s, bytes); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, http.StatusOK, struct {
		Salt   string `json:"cache_salt"`
		Limit  float  `json:"limit_gb"`
		Status string `json:"status"`
	}{name, float(gb), "ok"})
}

func (a *API) deleteQuota(w http.ResponseWriter, r *http.Request) {
	name, s, ok := salt(w, r)
	if !ok {
		return
	}
	status := "not_found"
	if a.opt.Storage.Quotas().Delete(s) {
		status = "removed"
	}
	answer(w, http.StatusOK, struct {
		Salt   string `json:"cache_salt"`
		Status string `json:"status"`
	}{name, status})
}
