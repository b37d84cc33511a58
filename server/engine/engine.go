// Package engine is what requests to the server mean: it keeps who is
// registered, which lookups run, what was prepared and not yet committed, and
// calls the storage manager. It knows neither sockets nor encodings.
//
// Source: reference server-protocol.md, sections 2.3, 2.4 and 3.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/server/tokenhash"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/sm"
)

// Storage is what an Engine needs of an sm.Manager.
type Storage interface {
	SubmitPrefetchTask(spec *kv.PrefetchSpec, externalRequestID string, skipL2 bool) (sm.PrefetchHandle, error)
	QueryPrefetchStatus(h sm.PrefetchHandle) (*sm.PrefetchResult, bool)
	WaitPrefetchStatus(ctx context.Context, h sm.PrefetchHandle) (*sm.PrefetchResult, bool)
	ReadPrefetched(keys []kv.ObjectKey) *sm.PrefetchedRead
	FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code
	ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error)
	FinishWrite(keys []kv.ObjectKey) []l1.Code
	AbandonWrite(keys []kv.ObjectKey)
	Touch(keys []kv.ObjectKey)
	Clear(force bool)
}

// Config configures New. Durations of 0 are the defaults.
type Config struct {
	Storage   Storage     // required
	Clock     clock.Clock // required, that of Storage
	ChunkSize int         // tokens; 256 if 0
	Algorithm string      // of chunk hashes; tokenhash.Blake3 if empty

	// Pool is the memory of Storage that engines share; without one they cannot
	// store nor retrieve.
	Pool wire.Pool

	// WriteTTL is how long Storage keeps a reservation: one that has lapsed is not
	// committed, since it may be another's by then. 0 if it never lapses.
	WriteTTL time.Duration

	SessionTTL time.Duration // from the first request on; 600 s
	// ReapAfter is how long an instance that has pinged may stay silent, negative
	// for ever; 120 s. Grace is that for one that never has, at least ReapAfter;
	// 3600 s.
	ReapAfter, Grace time.Duration

	Bus *event.Bus   // hears of requests and lookups; nil for nobody
	Log *slog.Logger // discarded if nil
}

// Engine answers requests. It is safe for concurrent use.
type Engine struct {
	c       Config
	storage Storage
	clock   clock.Clock
	log     *slog.Logger
	hasher  *tokenhash.Hasher
	reaper  clock.Task

	mu        sync.Mutex // guards all below, and what is in them unless they say otherwise; no call of storage is made under it
	instances map[int64]*instance
	layouts   map[deployment]*sharedLayout
	sessions  aged[*session]
	warmings  aged[*warming]
}

// Errors of requests that upstream's server leaves unanswered.
var (
	ErrNoPool       = errors.New("there is no shared memory pool")
	ErrUnregistered = errors.New("the instance is not registered")
	ErrRange        = errors.New("the range is not whole chunks of the tokens")
	ErrKey          = errors.New("no such key can be")
	ErrNoLayout     = errors.New("no layout registered")
)

// New returns an engine that serves at once. The caller must Close it, before
// its Storage.
func New(c Config) (*Engine, error) {
	if c.ChunkSize == 0 {
		c.ChunkSize = 256
	}
	if c.Algorithm == "" {
		c.Algorithm = tokenhash.Blake3
	}
	orDefault(&c.SessionTTL, 600*time.Second)
	orDefault(&c.ReapAfter, 120*time.Second)
	orDefault(&c.Grace, 3600*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	hasher, err := tokenhash.New(c.Algorithm, c.ChunkSize)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		c: c, storage: c.Storage, clock: c.Clock, log: c.Log, hasher: hasher,
		instances: map[int64]*instance{}, layouts: map[deployment]*sharedLayout{},
		sessions: newAged[*session](maxSessions, c.SessionTTL),
		warmings: newAged[*warming](maxWarming, c.SessionTTL),
	}
	e.reaper = c.Clock.Go(c.Clock.Now()+e.scanEvery(), e.reap)
	return e, nil
}

func orDefault(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

// Close ends what runs in the background.
func (e *Engine) Close() { e.reaper.Stop() }

// ChunkSize returns the tokens of a chunk.
func (e *Engine) ChunkSize() int { return e.c.ChunkSize }

// Experimental lists the experimental features, of which there are none.
func (e *Engine) Experimental() []string { return nil }

// ReportBlockAllocation takes what an engine says of its blocks, which nothing
// here depends on.
func (e *Engine) ReportBlockAllocation(int64, string, []wire.BlockAllocation) {}

// Clear drops the objects of L1 that nobody holds, or with force all.
func (e *Engine) Clear(force bool) error {
	e.storage.Clear(force)
	return nil
}

// Report says how an Engine is.
type Report struct {
	ChunkSize        int
	Algorithm        string
	Sessions         int // requests that have not ended
	Jobs             int // lookups and prefetches that nobody has had the answer of
	ReapAfter, Grace time.Duration
	Instances        []InstanceReport // by id
}

// InstanceReport says who is registered.
type InstanceReport struct {
	Context       wire.Context
	Pinged        bool
	Silent        time.Duration // since its last sign of life
	Stores, Reads int           // prepared and not committed
}
