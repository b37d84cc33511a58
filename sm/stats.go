package sm

import "github.com/lmcache/lmcache-go/l1"

// Stats are counts since New, and the present state.
type Stats struct {
	UsedBytes, CapacityBytes int64 // of L1; staged objects count
	Resident, Staged         int64 // objects

	// Of completed prefetches. Bytes are logical sizes.
	RequestedKeys, RequestedBytes int64
	L1HitKeys, L1HitBytes         int64
	L2HitKeys, L2HitBytes         int64
	PendingPrefetches             int64 // submitted, without a result yet

	// Of reservations and finishes.
	ReservedKeys, ReservedBytes int64
	RefusedKeys                 int64 // present, locked, or forbidden by the mode
	OOMKeys, OOMBytes           int64
	WrittenKeys, WrittenBytes   int64

	EvictionPasses              int64 // cycles that found L1 at the watermark or above
	EvictedKeys, EvictedBytes   int64 // bytes as placed, padding included
	TemporaryFreedKeys          int64 // objects that went with their last read lock
	L2StoredKeys, L2StoredBytes int64 // newly written to stores
	L2LoadedKeys, L2LoadedBytes int64 // read from stores, hits or not

	L2EvictionPasses              int64 // cycles that found a store at its watermark or above
	L2EvictedKeys, L2EvictedBytes int64
}

// Stats returns the counts. Each is exact; calls that run meanwhile may be in
// some and not yet in others.
func (m *Manager) Stats() Stats {
	u := m.tiers.usage()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.UsedBytes, s.CapacityBytes, s.Resident, s.Staged = u.UsedBytes, u.CapacityBytes, u.Resident, u.Staged
	s.PendingPrefetches = int64(len(m.pending))
	return s
}

func (m *Manager) count(add func(*Stats)) {
	m.mu.Lock()
	add(&m.stats)
	m.mu.Unlock()
}

func (m *Manager) countPrefetch(p *prefetch, res *PrefetchResult) {
	var requested, l1Bytes, l2Bytes int64
	for row, layout := range p.layouts {
		size := layout.Bytes()
		requested += size * int64(p.grid.cols)
		l1Bytes += size * int64(res.Rows[row].L1.Count())
		l2Bytes += size * int64(res.Rows[row].L2.Count())
	}
	m.count(func(s *Stats) {
		s.RequestedKeys += int64(len(p.keys))
		s.RequestedBytes += requested
		s.L1HitKeys += int64(res.L1Hits)
		s.L1HitBytes += l1Bytes
		s.L2HitKeys += int64(res.L2Hits)
		s.L2HitBytes += l2Bytes
	})
}

// Snapshot returns the whole state of L1, for tests and inspection; of several
// L1s one after the other.
func (m *Manager) Snapshot() l1.Snapshot { return m.tiers.snapshot() }
