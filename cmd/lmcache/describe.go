package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/server/client"
)

func newDescribe(a *app) *cobra.Command {
	var (
		url string
		out metricFlags
	)
	cmd := &cobra.Command{
		Use:   "describe kvcache [flags]",
		Short: "Show what a cache server is and holds",
		Args:  cobra.ArbitraryArgs,
	}
	section(cmd, "Flags", func(flags *pflag.FlagSet) {
		flags.StringVar(&url, "url", "http://localhost:8080", "the server's HTTP `URL`")
		out.define(flags)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := oneTarget(args, "kvcache"); err != nil {
			return err
		}
		status, err := client.NewAdmin(url).Status(cmd.Context())
		if err != nil {
			return a.sayHTTP(err)
		}
		return out.emit(a, describe(url, status))
	}
	return cmd
}

const bytesPerGB = 1 << 30 // LMCache's GB

// describe lays a status out as LMCache's command does. Where its server leaves
// the eviction policy out, ours reads the name that it does publish.
func describe(url string, s *client.Status) *metrics {
	m := &metrics{title: "LMCache KV Cache Service", width: 50}
	m.add("health", "Health", health(s.Healthy))
	m.add("url", "URL", url)
	m.add("engine_type", "Engine type", s.EngineType)
	m.add("chunk_size", "Chunk size", s.ChunkSize)
	memory := &s.Storage.L1
	m.add("l1_capacity_gb", "L1 capacity (GB)", rounded(memory.TotalBytes/bytesPerGB, 2))
	m.add("l1_used_gb", "L1 used (GB)", fmt.Sprintf("%.2f (%.1f%%)", memory.UsedBytes/bytesPerGB, 100*memory.UsageRatio))
	var policy any
	if p := s.Policy(); p != "" {
		policy = p
	}
	m.add("eviction_policy", "Eviction policy", policy)
	m.add("cached_objects", "Cached objects", memory.Objects)
	m.add("active_sessions", "Active sessions", s.Sessions)
	describeModels(m, s.Contexts)
	for _, l2 := range s.Storage.Adapters {
		rows := []metricRow{{"type", "Type", l2.Type}, {"health", "Health", health(l2.Healthy)}}
		rows = appendKnown(rows, "backend", "Backend", l2.Backend)
		rows = appendKnown(rows, "base_path", "Base path", l2.BasePath)
		rows = appendKnown(rows, "stored_object_count", "Stored objects", l2.Objects)
		rows = appendKnown(rows, "max_capacity_gb", "Capacity (GB)", inGB(l2.CapacityBytes))
		rows = appendKnown(rows, "current_size_gb", "Used (GB)", inGB(l2.UsedBytes))
		rows = appendKnown(rows, "pool_size", "Pool size", l2.PoolSize)
		rows = appendKnown(rows, "pool_free_slots", "Pool free slots", l2.PoolFree)
		m.listed("l2_adapters", "L2: "+l2.Type, rows...)
	}
	return m
}

// describeModels adds a section a model, and one for each of its kernel groups.
// The workers of a model are one entry.
func describeModels(m *metrics, contexts map[string]client.ContextStatus) {
	number := func(id string) int { n, _ := strconv.Atoi(id); return n }
	ids := slices.SortedFunc(maps.Keys(contexts), func(a, b string) int {
		return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
	})
	workers := map[string][]string{}
	for _, id := range ids {
		workers[contexts[id].Model] = append(workers[contexts[id].Model], id)
	}
	for _, id := range ids {
		c := contexts[id]
		if workers[c.Model][0] != id {
			continue
		}
		m.listed("models", "Model: "+c.Model,
			metricRow{"model", "Model", c.Model},
			metricRow{"world_size", "World size", c.WorldSize},
			metricRow{"gpu_ids", "GPU IDs", strings.Join(workers[c.Model], ", ")},
			metricRow{"num_layers", "Num layers", c.Layout.Layers},
			metricRow{"num_blocks", "Num blocks", c.Layout.Blocks},
			metricRow{"cache_size_per_token", "Cache size per token (bytes)", c.Layout.BytesPerToken})
		for _, g := range c.Layout.Groups {
			m.listed("kernel_groups", fmt.Sprintf("Kernel group %d (%s)", g.Kernel, c.Model),
				metricRow{"model", "Model", c.Model},
				metricRow{"kernel_group_idx", "Kernel group index", g.Kernel},
				metricRow{"engine_group_idx", "Engine group index", g.Engine},
				metricRow{"object_group_idx", "Object group index", g.Object},
				metricRow{"num_layers", "Num layers", g.Layers},
				metricRow{"tokens_per_block", "Tokens per block", g.TokensPerBlock},
				metricRow{"slots_per_block", "Slots per block", g.SlotsPerBlock},
				metricRow{"dtype", "Dtype", g.DType},
				metricRow{"is_mla", "MLA", g.MLA},
				metricRow{"attention_backend", "Attention backend", g.Attention},
				metricRow{"engine_kv_shape", "Engine KV shape", g.Shape},
				metricRow{"engine_kv_concrete_shape", "Engine KV tensor shape", g.TensorShape})
		}
	}
}

func health(ok bool) string {
	if ok {
		return "OK"
	}
	return "UNHEALTHY"
}

// appendKnown adds a row for what the server said.
func appendKnown[T any](rows []metricRow, key, label string, value *T) []metricRow {
	if value == nil {
		return rows
	}
	return append(rows, metricRow{key, label, any(*value)})
}

func inGB(bytes *float64) *float64 {
	if bytes == nil {
		return nil
	}
	gb := rounded(*bytes/bytesPerGB, 2)
	return &gb
}
