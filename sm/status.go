package sm

import (
	"fmt"
	"time"

	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
)

// Status says how a Manager is.
//
// Source: reference storage-manager.md, section 2.6.
type Status struct {
	Healthy  bool // all below are
	Tiers    []TierStatus
	Prefetch PrefetchStatus
	Adapters []AdapterStatus // in cascade order
}

// TierStatus says how one L1 is, with its eviction and its store controller.
type TierStatus struct {
	Tag     string
	Healthy bool // the accounting adds up
	l1.Usage
	l1.Counts
	ConfiguredBytes   int64
	WriteTTL, ReadTTL time.Duration
	Eviction          EvictionStatus

	PendingKeys int64 // wait to be submitted to stores
	StoreTasks  int64 // run
	Stores      int   // L2 adapters that have its tag and are not being removed
}

// EvictionStatus says how an eviction is configured.
type EvictionStatus struct {
	EvictionConfig
	Running bool // cycles run by themselves
}

// PrefetchStatus says what the prefetch controller has to do.
type PrefetchStatus struct {
	MaxInFlight int
	Queued      int64 // requests that wait for their turn
	InFlight    int64 // the sum of the next two
	InLookup    int64
	InLoad      int64
	Results     int64 // that nobody has asked for yet
}

// AdapterStatus says how one store is.
type AdapterStatus struct {
	ID       int // see AddAdapter
	Type     string
	L1Tag    string
	Healthy  bool
	Draining bool // being removed
	Shared   bool // see Adapter
	l2.Usage
	l2.Report
	Stores, Loads int64 // tasks that run

	Eviction *EvictionStatus // nil if the store evicts nothing
	Salts    int             // cache salts that have a byte in it, if it evicts
}

// Status returns the present state. It looks at every object of L1, in parts, and
// asks every store.
func (m *Manager) Status() Status {
	m.mu.Lock()
	s := Status{Healthy: !m.closed}
	results := int64(len(m.results))
	m.mu.Unlock()
	for _, t := range m.tiers {
		ts := TierStatus{
			Tag: t.cfg.Tag, Healthy: t.l1.Balanced(), Usage: t.l1.Usage(), Counts: t.l1.Counts(), ConfiguredBytes: t.cfg.L1.SizeBytes,
			WriteTTL: time.Duration(t.cfg.L1.WriteTTLSeconds) * time.Second, ReadTTL: time.Duration(t.cfg.L1.ReadTTLSeconds) * time.Second,
			Eviction:    EvictionStatus{t.cfg.Eviction, s.Healthy && t.eviction.task != nil},
			PendingKeys: t.store.pendingKeys(), Stores: int(t.stores.Load()),
		}
		for _, a := range m.stores.of(t) {
			ts.StoreTasks += a.stores.Load()
		}
		s.Healthy = s.Healthy && ts.Healthy
		s.Tiers = append(s.Tiers, ts)
	}
	s.Prefetch = m.prefetch.status()
	s.Prefetch.Results = results
	for _, a := range m.stores.list() {
		as := a.status()
		s.Healthy = s.Healthy && as.Healthy
		s.Adapters = append(s.Adapters, as)
	}
	return s
}

func (a *adapter) status() AdapterStatus {
	s := AdapterStatus{
		ID: a.id, Type: a.cfg.Type, L1Tag: a.m.tiers[a.tier].cfg.Tag, Draining: a.draining(), Shared: a.cfg.Shared,
		Usage: a.Usage(), Report: l2.Report{Objects: -1, Locked: -1}, Stores: a.stores.Load(), Loads: a.loads.Load(),
	}
	if r, ok := a.Adapter.(l2.Reporter); ok {
		s.Report = r.Report()
	}
	s.Healthy = s.Err == nil
	if a.eviction.policy != nil {
		s.Eviction = &EvictionStatus{a.eviction.cfg, a.eviction.task != nil && !a.eviction.stopped.Load()}
		bytes := map[string]int64{}
		a.eviction.bytesBySalt(bytes)
		s.Salts = len(bytes)
	}
	return s
}

// ListL2 returns a page of what a store holds of a model, of every model if that
// is empty; the first for an empty token, and up to limit objects. It fails with
// l2.ErrNoListing where the store cannot be asked.
func (m *Manager) ListL2(id int, model, token string, limit int) (l2.Page, error) {
	if limit <= 0 {
		return l2.Page{}, fmt.Errorf("page_size must be positive (got %d)", limit)
	}
	a, err := m.use(id)
	if err != nil {
		return l2.Page{}, err
	}
	defer a.release()
	return a.Adapter.(l2.Lister).List(model, token, limit)
}
