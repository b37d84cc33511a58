package client

// Status is what a server's /status says, as far as a description shows it.
// What LMCache 0.5.6 does not publish is a pointer, nil when it is absent.
//
// Source: reference server-protocol.md, section 4.
type Status struct {
	Healthy    bool   `json:"is_healthy"`
	EngineType string `json:"engine_type"`
	ChunkSize  int    `json:"chunk_size"`
	Sessions   int    `json:"active_sessions"`
	Storage    struct {
		L1 struct {
			TotalBytes float64 `json:"memory_total_bytes"`
			UsedBytes  float64 `json:"memory_used_bytes"`
			UsageRatio float64 `json:"memory_usage_ratio"`
			Objects    int     `json:"total_object_count"`
		} `json:"l1_manager"`
		Adapters []AdapterStatus `json:"l2_adapters"`
		// Eviction has the policy under the name that LMCache's description asks for,
		// L1Eviction under the one that its server publishes.
		Eviction   *EvictionStatus `json:"eviction_controller"`
		L1Eviction *EvictionStatus `json:"l1_eviction_controller"`
	} `json:"storage_manager"`
	// Contexts are the engines that registered device memory, by instance.
	Contexts map[string]ContextStatus `json:"cache_context_meta"`
}

// EvictionStatus is an eviction controller.
type EvictionStatus struct {
	Policy string `json:"eviction_policy"`
}

// AdapterStatus is a store below L1. Which fields there are depends on its kind.
type AdapterStatus struct {
	Type          string   `json:"type"`
	Healthy       bool     `json:"is_healthy"`
	Backend       *string  `json:"backend"`
	BasePath      *string  `json:"base_path"`
	Objects       *int     `json:"stored_object_count"`
	CapacityBytes *float64 `json:"max_capacity_bytes"`
	UsedBytes     *float64 `json:"current_size_bytes"`
	PoolSize      *int     `json:"pool_size"`
	PoolFree      *int     `json:"pool_free_slots"`
}

// ContextStatus is an engine's registered memory.
type ContextStatus struct {
	Model     string `json:"model_name"`
	WorldSize int    `json:"world_size"`
	Layout    struct {
		Layers        int           `json:"num_layers"`
		Blocks        int           `json:"num_blocks"`
		BytesPerToken int           `json:"cache_size_per_token"`
		Groups        []KernelGroup `json:"kernel_groups"`
	} `json:"kv_cache_layout"`
}

// KernelGroup is layers of one shape.
type KernelGroup struct {
	Kernel         int    `json:"kernel_group_idx"`
	Engine         int    `json:"engine_group_idx"`
	Object         int    `json:"object_group_idx"`
	Layers         int    `json:"num_layers"`
	TokensPerBlock int    `json:"tokens_per_block"`
	SlotsPerBlock  int    `json:"slots_per_block"`
	DType          string `json:"dtype"`
	MLA            bool   `json:"is_mla"`
	Attention      string `json:"attention_backend"`
	Shape          string `json:"engine_kv_shape"`
	TensorShape    string `json:"engine_kv_concrete_shape"`
}

// Policy returns the name of L1's eviction policy, or "" if the server does not
// say it.
func (s *Status) Policy() string {
	for _, e := range []*EvictionStatus{s.Storage.Eviction, s.Storage.L1Eviction} {
		if e != nil && e.Policy != "" {
			return e.Policy
		}
	}
	return ""
}
