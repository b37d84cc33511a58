package httpapi

import (
	"net/http"
	"strconv"

	"github.com/lmcache/lmcache-go/sm"
)

type statusJSON struct {
	Healthy       bool        `json:"is_healthy"`
	EngineType    string      `json:"engine_type"`
	ChunkSize     int         `json:"chunk_size"`
	HashAlgorithm string      `json:"hash_algorithm"`
	Sessions      int         `json:"active_sessions"`
	Storage       storageJSON `json:"storage_manager"`
	PrefetchJobs  int         `json:"active_prefetch_jobs"`
	P2PJobs       int         `json:"active_p2p_lookup_jobs"`
	P2P           bool        `json:"p2p_enabled"`
	P2PState      string      `json:"p2p_state"`
	P2PPeerCount  int         `json:"p2p_peer_count"`
	P2PPeers      []string    `json:"p2p_peers"`

	Liveness  livenessJSON           `json:"worker_liveness"`
	KVEvents  kvEventsJSON           `json:"kv_events"`
	Instances []int64                `json:"registered_non_cuda_instance_ids"`
	Contexts  map[string]contextJSON `json:"non_cuda_context_meta"`
}

type livenessJSON struct {
	Enabled bool  `json:"enabled"`
	Reap    float `json:"reap_timeout_seconds"`
	Grace   float `json:"registration_grace_seconds"`
	Tracked int   `json:"tracked_instances"`
}

// kvEventsJSON describes a log of events that this server does not keep.
type kvEventsJSON struct {
	Enabled       bool `json:"enabled"`
	Incarnation   int  `json:"incarnation"`
	Depth         int  `json:"log_depth"`
	Capacity      int  `json:"log_capacity"`
	NextSeq       int  `json:"next_seq"`
	LostMarkers   int  `json:"lost_markers"`
	UnboundStores int  `json:"unbound_stores"`
	Subscribers   int  `json:"subscribers"`
}

type contextJSON struct {
	Model     string `json:"model_name"`
	WorldSize int    `json:"world_size"`
	BlockSize int    `json:"block_size"`
	MLA       bool   `json:"use_mla"`
}

func (a *API) root(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, struct {
		Status  string `json:"status"`
		Service string `json:"service"`
	}{"ok", "LMCache HTTP API"})
}

// healthcheck tells the truth: LMCache's goes on saying healthy when the loop
// that serves requests has died.
func (a *API) healthcheck(w http.ResponseWriter, _ *http.Request) {
	if err := a.opt.Healthy(); err != nil {
		answer(w, http.StatusServiceUnavailable, struct {
			Status string `json:"status"`
			Reason string `json:"reason"`
		}{"unhealthy", err.Error()})
		return
	}
	answer(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"healthy"})
}

func (a *API) status(w http.ResponseWriter, _ *http.Request) {
	e := a.opt.Engine.Report()
	m := a.opt.Storage.Status()
	storage := storageOf(&m)
	s := statusJSON{
		Healthy: a.opt.Healthy() == nil && storage.Healthy, EngineType: "MPCacheServer",
		ChunkSize: e.ChunkSize, HashAlgorithm: e.Algorithm, Sessions: e.Sessions,
		Storage: storage, PrefetchJobs: e.Jobs, P2PState: "disabled", P2PPeers: []string{},
		Liveness:  livenessJSON{e.ReapAfter > 0, float(e.ReapAfter.Seconds()), float(e.Grace.Seconds()), len(e.Instances)},
		Instances: []int64{}, Contexts: map[string]contextJSON{},
	}
	for _, i := range e.Instances {
		c := &i.Context
		s.Instances = append(s.Instances, c.Instance)
		s.Contexts[strconv.FormatInt(c.Instance, 10)] = contextJSON{c.Model, c.WorldSize, c.BlockSize, c.MLA}
	}
	answer(w, http.StatusOK, s)
}

func (a *API) config(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(indented(encode(a.opt.Settings)))
}

type adapterConfigJSON struct {
	Index          int    `json:"index"`
	Type           string `json:"type_name"`
	Tier           string `json:"tier"`
	Primary        bool   `json:"primary"`
	Reconfigurable bool   `json:"reconfigurable"`
}

func (a *API) configAdapters(w http.ResponseWriter, _ *http.Request) {
	list := []adapterConfigJSON{}
	for i, s := range a.opt.Storage.Status().Adapters {
		list = append(list, adapterConfigJSON{s.ID, s.Type, "l2", i == 0, a.opt.Reconfigure})
	}
	answer(w, http.StatusOK, struct {
		Adapters []adapterConfigJSON `json:"adapters"`
	}{list})
}

func (a *API) version() string {
	if a.opt.Commit == "" {
		return a.opt.Version
	}
	return a.opt.Version + "-" + a.opt.Commit
}

// text answers with a bare JSON string.
func (a *API) text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s) }
}

// Child reports of the storage manager.
type (
	storageJSON struct {
		Healthy     bool                    `json:"is_healthy"`
		L1          map[string]l1JSON       `json:"l1_managers"`
		Stores      map[string]storeJSON    `json:"store_controllers"`
		Evictions   map[string]evictionJSON `json:"l1_eviction_controllers"`
		Prefetch    prefetchJSON            `json:"prefetch_controller"`
		L2Eviction  l2EvictionJSON          `json:"l2_eviction_controller"`
		L2          []adapterJSON           `json:"l2_adapters"`
		NumL2       int                     `json:"num_l2_adapters"`
		L1Usage     [2]int64                `json:"l1_usage"`
		ByBackend   map[string]int64        `json:"l1_capacity_bytes_by_backend"`
		OneL1       *l1JSON                 `json:"l1_manager,omitempty"`
		OneStore    *storeJSON              `json:"store_controller,omitempty"`
		OneEviction *evictionJSON           `json:"l1_eviction_controller,omitempty"`
		// Older is the name that LMCache's own describe asks for, which 0.5.6 has
		// not any more.
		Older *evictionJSON `json:"eviction_controller,omitempty"`
	}
	l1JSON struct {
		Healthy        bool             `json:"is_healthy"`
		Objects        int64            `json:"total_object_count"`
		WriteLocked    int64            `json:"write_locked_count"`
		ReadLocked     int64            `json:"read_locked_count"`
		Temporary      int64            `json:"temporary_count"`
		StagingObjects int64            `json:"staging_object_count"`
		StagingBytes   int64            `json:"staging_bytes"`
		Used           int64            `json:"memory_used_bytes"`
		Total          int64            `json:"memory_total_bytes"`
		Configured     int64            `json:"memory_configured_bytes"`
		ByBackend      map[string]int64 `json:"capacity_bytes_by_backend"`
		Ratio          float            `json:"memory_usage_ratio"`
		WriteTTL       int64            `json:"write_ttl_seconds"`
		ReadTTL        int64            `json:"read_ttl_seconds"`
	}
	storeJSON struct {
		Healthy  bool  `json:"is_healthy"`
		Alive    bool  `json:"thread_alive"`
		Pending  int64 `json:"pending_keys_count"`
		InFlight int64 `json:"in_flight_task_count"`
		countsJSON
	}
	prefetchJSON struct {
		Healthy     bool  `json:"is_healthy"`
		Alive       bool  `json:"thread_alive"`
		MaxInFlight int   `json:"max_in_flight"`
		Submitted   int64 `json:"submission_queue_size"`
		Pending     int64 `json:"pending_queue_size"`
		InFlight    int64 `json:"in_flight_request_count"`
		InLookup    int64 `json:"lookup_phase_count"`
		InLoad      int64 `json:"load_phase_count"`
		Results     int64 `json:"completed_results_count"`
		countsJSON
	}
	// countsJSON says how many adapters a controller works with.
	countsJSON struct {
		All      int `json:"num_l2_adapters"`
		Active   int `json:"num_active_adapters"`
		Draining int `json:"num_draining_adapters"`
	}
	evictionJSON struct {
		Healthy   bool   `json:"is_healthy"`
		Alive     bool   `json:"thread_alive"`
		Policy    string `json:"eviction_policy"`
		Watermark float  `json:"trigger_watermark"`
		Ratio     float  `json:"eviction_ratio"`
	}
	l2EvictionJSON struct {
		Healthy  bool                  `json:"is_healthy"`
		Alive    bool                  `json:"thread_alive"`
		Adapters []adapterEvictionJSON `json:"adapters"`
	}
	adapterEvictionJSON struct {
		Policy    string `json:"eviction_policy"`
		Watermark float  `json:"trigger_watermark"`
		Ratio     float  `json:"eviction_ratio"`
		Usage     float  `json:"current_usage"`
		Used      int64  `json:"total_bytes_used"`
		Capacity  int64  `json:"total_capacity_bytes"`
		Salts     int    `json:"num_cache_salt_buckets"`
	}
	adapterJSON struct {
		Healthy  bool   `json:"is_healthy"`
		Type     string `json:"type"`
		ID       int    `json:"index"`
		Error    string `json:"error,omitempty"`
		Draining bool   `json:"draining,omitempty"`
		Backend  string `json:"backend,omitempty"`
		Objects  *int64 `json:"stored_object_count,omitempty"`
		Locked   *int64 `json:"locked_key_count,omitempty"`
		Used     int64  `json:"current_size_bytes"`
		Capacity int64  `json:"max_capacity_bytes"`
		Slots    int64  `json:"pool_size,omitempty"`
		Free     int64  `json:"pool_free_slots,omitempty"`
	}
)

// dram is the backend of every L1 of this build, as LMCache names it.
const dram = "dram"

func share(used, total int64) float {
	if total <= 0 {
		return 0
	}
	return float(float64(used) / float64(total))
}

func storageOf(m *sm.Status) storageJSON {
	s := storageJSON{
		Healthy: m.Healthy, L1: map[string]l1JSON{}, Stores: map[string]storeJSON{}, Evictions: map[string]evictionJSON{},
		L2: []adapterJSON{}, ByBackend: map[string]int64{},
		L2Eviction: l2EvictionJSON{Healthy: true, Alive: true, Adapters: []adapterEvictionJSON{}},
	}
	draining := map[string]int{} // by tag of the L1
	for i := range m.Adapters {
		a := &m.Adapters[i]
		s.L2 = append(s.L2, adapterOf(a))
		if a.Draining {
			draining[a.L1Tag]++
		}
		if e := a.Eviction; e != nil {
			s.L2Eviction.Adapters = append(s.L2Eviction.Adapters, adapterEvictionJSON{e.Policy, float(e.Watermark), float(e.Ratio),
				share(a.UsedBytes, a.CapacityBytes), a.UsedBytes, a.CapacityBytes, a.Salts})
		}
	}
	s.NumL2 = len(s.L2)
	gone := 0
	for _, n := range draining {
		gone += n
	}
	p := &m.Prefetch
	s.Prefetch = prefetchJSON{m.Healthy, m.Healthy, p.MaxInFlight, 0, p.Queued, p.InFlight, p.InLookup, p.InLoad, p.Results, countsJSON{s.NumL2, s.NumL2 - gone, gone}}
	for i := range m.Tiers {
		t := &m.Tiers[i]
		s.L1[t.Tag] = l1JSON{
			t.Healthy, t.Resident + t.Staged, t.WriteLocked, t.ReadLocked, t.Temporary, t.Staged, t.StagingBytes,
			t.UsedBytes, t.CapacityBytes, t.ConfiguredBytes, map[string]int64{dram: t.CapacityBytes}, share(t.UsedBytes, t.CapacityBytes),
			int64(t.WriteTTL.Seconds()), int64(t.ReadTTL.Seconds()),
		}
		s.Stores[t.Tag] = storeJSON{true, true, t.PendingKeys, t.StoreTasks, countsJSON{t.Stores + draining[t.Tag], t.Stores, draining[t.Tag]}}
		e := &t.Eviction
		s.Evictions[t.Tag] = evictionJSON{e.Running, e.Running, e.Policy, float(e.Watermark), float(e.Ratio)}
		s.L1Usage[0] += t.UsedBytes
		s.L1Usage[1] += t.CapacityBytes
		s.ByBackend[dram] += t.CapacityBytes
	}
	if len(m.Tiers) == 1 {
		tag := m.Tiers[0].Tag
		l, store, eviction := s.L1[tag], s.Stores[tag], s.Evictions[tag]
		s.OneL1, s.OneStore, s.OneEviction, s.Older = &l, &store, &eviction, &eviction
	}
	return s
}

func adapterOf(a *sm.AdapterStatus) adapterJSON {
	j := adapterJSON{Healthy: a.Healthy, Type: a.Type, ID: a.ID, Draining: a.Draining, Backend: a.Backend,
		Used: a.UsedBytes, Capacity: a.CapacityBytes, Slots: a.Slots, Free: a.FreeSlots}
	if a.Err != nil {
		j.Error = a.Err.Error()
	}
	if a.Objects >= 0 {
		j.Objects = &a.Objects
	}
	if a.Locked >= 0 {
		j.Locked = &a.Locked
	}
	return j
}
