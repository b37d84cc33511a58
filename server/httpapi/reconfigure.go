package httpapi

import "net/http"

type reconfigureJSON struct {
	Enabled  bool          `json:"enabled"`
	Backend  string        `json:"backend"`
	Num      int           `json:"num_adapters"`
	Adapters []adapterJSON `json:"adapters"`
}

func (a *API) reconfigureStatus(w http.ResponseWriter, r *http.Request) {
	s := reconfigureJSON{Enabled: a.opt.Reconfigure, Backend: r.PathValue("backend"), Adapters: []adapterJSON{}}
	for _, u := range a.opt.Storage.AdapterUsage() {
		if u.Name == s.Backend {
			s.Adapters = append(s.Adapters, adapterJSON{true, u.Name, u.UsedBytes, u.CapacityBytes})
		}
	}
	s.Num = len(s.Adapters)
	answer(w, http.StatusOK, s)
}

func (a *API) reconfigure(w http.ResponseWriter, _ *http.Request) {
	fail(w, http.StatusForbidden, "stores cannot be reconfigured here")
}

// noDAX answers what is about memory of a kind that this build does not have.
func (a *API) noDAX(w http.ResponseWriter, _ *http.Request) {
	fail(w, http.StatusConflict, "L1 is not Device-DAX backed (--l1-devdax-path not set)")
}
