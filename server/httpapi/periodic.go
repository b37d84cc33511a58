package httpapi

import (
	"net/http"
)

// threadJSON is one loop that runs in the background.
type threadJSON struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
}

// loops lists what runs in the background for as long as the server does.
func (a *API) loops() []threadJSON {
	list := []threadJSON{{"request-loop", a.opt.Healthy() == nil}}
	s := a.opt.Storage.Status()
	for _, t := range s.Tiers {
		list = append(list, threadJSON{"l1-eviction-" + t.Tag, t.Eviction.Running}, threadJSON{"store-" + t.Tag, s.Healthy})
	}
	return append(list, threadJSON{"prefetch", s.Healthy})
}

func (a *API) periodicThreads(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, struct {
		Threads []threadJSON `json:"threads"`
	}{a.loops()})
}

func (a *API) periodicThread(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	for _, t := range a.loops() {
		if t.Name == name {
			answer(w, http.StatusOK, t)
			return
		}
	}
	fail(w, http.StatusNotFound, "Thread not found: "+name)
}

// periodicHealth is always 200, as LMCache's is: /healthcheck is the one to probe.
func (a *API) periodicHealth(w http.ResponseWriter, _ *http.Request) {
	unhealthy := []string{}
	for _, t := range a.loops() {
		if !t.Healthy {
			unhealthy = append(unhealthy, t.Name)
		}
	}
	answer(w, http.StatusOK, struct {
		Healthy   bool     `json:"healthy"`
		Count     int      `json:"unhealthy_count"`
		Unhealthy []string `json:"unhealthy_threads"`
	}{len(unhealthy) == 0, len(unhealthy), unhealthy})
}
