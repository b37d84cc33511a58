package sm

import (
	"slices"

	"github.com/lmcache/lmcache-go/kv"
)

// l1Tag is what every L1 here is made of.
var l1Tag = kv.MemoryTag{Segment: "dram", Residency: "local"}

// storeTag returns what a store is made of, by its adapter's configuration.
//
// Source: tried with the release candidate 0.5.7rc2, the only one that has such
// tags: mock, fs, fs_native and resp. That valkey and s3 are as resp, and
// raw_block as fs, is an inference.
func storeTag(fields map[string]any) kv.MemoryTag {
	tag := kv.MemoryTag{Segment: "storage", Residency: "local"}
	switch fields["type"] {
	case "resp", "valkey", "s3":
		tag.Residency = "remote"
	case "fault_inject":
		if inner, ok := fields["inner"].(map[string]any); ok {
			return storeTag(inner)
		}
	}
	return tag
}

// allows reports whether a request that names tags, or none (nil), may use what
// has tag.
func allows(tags []kv.MemoryTag, tag kv.MemoryTag) bool {
	return tags == nil || slices.Contains(tags, tag)
}

// hasStoreFor reports whether there is a store that a request allows.
func (m *Manager) hasStoreFor(tags []kv.MemoryTag) bool {
	return slices.ContainsFunc(m.stores.list(), func(a *adapter) bool { return allows(tags, a.memory) })
}
