package httpapi

import (
	"net/http"
	"strconv"
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
	storage := a.storage()
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
	for i, s := range a.opt.Storage.AdapterUsage() {
		list = append(list, adapterConfigJSON{i, s.Name, "l2", i == 0, a.opt.Reconfigure})
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
		Healthy bool `json:"is_healthy"`
		NumL2   int  `json:"num_l2_adapters"`
	}
	evictionJSON struct {
		Healthy   bool   `json:"is_healthy"`
		Alive     bool   `json:"thread_alive"`
		Policy    string `json:"eviction_policy"`
		Watermark float  `json:"trigger_watermark"`
		Ratio     float  `json:"eviction_ratio"`
	}
	adapterJSON struct {
		Healthy  bool   `json:"is_healthy"`
		Type     string `json:"type"`
		Used     int64  `json:"current_size_bytes"`
		Capacity int64  `json:"max_capacity_bytes"`
	}
)

// dram is the backend of every L1 of this build, as LMCache names it.
const dram = "dram"

func (a *API) storage() storageJSON {
	s := storageJSON{
		Healthy: true, L1: map[string]l1JSON{}, Stores: map[string]storeJSON{}, Evictions: map[string]evictionJSON{},
		L2: []adapterJSON{}, ByBackend: map[string]int64{},
	}
	tiers := a.opt.Config.Tiers()
	for i, u := range a.opt.Storage.L1Usage() {
		t := tiers[i]
		l := l1JSON{
			Healthy: true, Objects: u.Resident + u.Staged, StagingObjects: u.Staged, StagingBytes: u.StagingBytes,
			Used: u.UsedBytes, Total: u.CapacityBytes, Configured: t.L1.SizeBytes, ByBackend: map[string]int64{dram: u.CapacityBytes},
			WriteTTL: t.L1.WriteTTLSeconds, ReadTTL: t.L1.ReadTTLSeconds,
		}
		if u.CapacityBytes > 0 {
			l.Ratio = float(float64(u.UsedBytes) / float64(u.CapacityBytes))
		}
		s.L1[u.Tag] = l
		s.Stores[u.Tag] = storeJSON{true, len(a.opt.Config.L2Adapters)}
		s.Evictions[u.Tag] = evictionJSON{true, true, t.Eviction.Policy, float(t.Eviction.Watermark), float(t.Eviction.Ratio)}
		s.L1Usage[0] += u.UsedBytes
		s.L1Usage[1] += u.CapacityBytes
		s.ByBackend[dram] += u.CapacityBytes
	}
	for _, u := range a.opt.Storage.AdapterUsage() {
		s.L2 = append(s.L2, adapterJSON{true, u.Name, u.UsedBytes, u.CapacityBytes})
	}
	s.NumL2 = len(s.L2)
	if len(tiers) == 1 {
		tag := tiers[0].Tag
		l, store, eviction := s.L1[tag], s.Stores[tag], s.Evictions[tag]
		s.OneL1, s.OneStore, s.OneEviction, s.Older = &l, &store, &eviction, &eviction
	}
	return s
}
