package client

import (
	"context"
	"fmt"
	"time"

	"github.com/lmcache/lmcache-go/server/wire"
)

// The requests of table 2.3. Each waits for its answer; to have several on
// their way, make them from several goroutines.

type encoding = func(*wire.Encoder, uint64) [][]byte

func ignore(*wire.Reply) error { return nil }

func plain(op wire.Op) encoding {
	return func(e *wire.Encoder, uid uint64) [][]byte { return e.Plain(uid, op) }
}

func keyed(op wire.Op, k *wire.Key, n int64) encoding {
	return func(e *wire.Encoder, uid uint64) [][]byte { return e.Keyed(uid, op, k, n) }
}

func session(op wire.Op, requestID string) encoding {
	return func(e *wire.Encoder, uid uint64) [][]byte { return e.Session(uid, op, requestID) }
}

// Noop makes a request that does nothing.
func (c *Client) Noop(ctx context.Context) error {
	return c.do(ctx, wire.OpNoop, 0, plain(wire.OpNoop), func(r *wire.Reply) error {
		text, err := r.Text()
		if err == nil && text != "OK" {
			err = fmt.Errorf("it says %q", text)
		}
		return err
	})
}

// Ping says that an instance lives; a client that has none is not known.
func (c *Client) Ping(ctx context.Context, instance int64, known bool) error {
	return c.do(ctx, wire.OpPing, 0,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.Ping(uid, instance, known) },
		func(r *wire.Reply) error {
			alive, err := r.Bool()
			if err == nil && !alive {
				err = fmt.Errorf("it says false")
			}
			return err
		})
}

// ChunkSize asks for the number of tokens of a chunk.
func (c *Client) ChunkSize(ctx context.Context) (tokens int, err error) {
	err = c.do(ctx, wire.OpGetChunkSize, 0, plain(wire.OpGetChunkSize), func(r *wire.Reply) (err error) {
		var known bool
		if tokens, known, err = r.Count(); err == nil && (!known || tokens < 1) {
			err = fmt.Errorf("chunks of %d tokens", tokens)
		}
		return err
	})
	return tokens, err
}

// Experimental asks for the experimental features that are on.
func (c *Client) Experimental(ctx context.Context) (names []string, err error) {
	err = c.do(ctx, wire.OpGetExperimental, 0, plain(wire.OpGetExperimental), func(r *wire.Reply) (err error) {
		names, err = r.Names()
		return err
	})
	return names, err
}

// Register registers an engine, and returns where its objects will be; the zero
// Pool if the server has no shared memory.
func (c *Client) Register(ctx context.Context, engine *wire.Context) (pool wire.Pool, err error) {
	err = c.do(ctx, wire.OpRegister, 0,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.Register(uid, engine) },
		func(r *wire.Reply) (err error) {
			pool, err = r.Pool()
			return err
		})
	return pool, err
}

// Unregister takes a registration back, and lets go of what the engine holds.
func (c *Client) Unregister(ctx context.Context, instance int64) error {
	return c.do(ctx, wire.OpUnregister, 0,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.Unregister(uid, instance) }, ignore)
}

// Lookup begins to look up the key's full chunks; those that are there are
// locked for Readers reads on every rank.
func (c *Client) Lookup(ctx context.Context, k *wire.Key, tpSize int) error {
	return c.do(ctx, wire.OpLookup, 0, keyed(wire.OpLookup, k, int64(tpSize)), ignore)
}

// PrefetchStatus asks what the request's lookup has found; ok is false while it
// runs. An answer makes the server forget the lookup.
func (c *Client) PrefetchStatus(ctx context.Context, requestID string) (hits int, ok bool, err error) {
	err = c.do(ctx, wire.OpQueryPrefetchStatus, 0, session(wire.OpQueryPrefetchStatus, requestID), func(r *wire.Reply) (err error) {
		hits, ok, err = r.Count()
		return err
	})
	return hits, ok, err
}

// WaitPrefetchStatus does so once the lookup is done, but no later than after
// wait.
func (c *Client) WaitPrefetchStatus(ctx context.Context, requestID string, wait time.Duration) (hits int, ok bool, err error) {
	err = c.do(ctx, wire.OpWaitPrefetchStatus, wait,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.Wait(uid, requestID, wait) },
		func(r *wire.Reply) (err error) {
			hits, ok, err = r.Count()
			return err
		})
	return hits, ok, err
}

// FreeLookupLocks gives back what the request's lookup locked in the key's
// range.
func (c *Client) FreeLookupLocks(ctx context.Context, k *wire.Key, tpSize int) error {
	return c.do(ctx, wire.OpFreeLookupLocks, 0, keyed(wire.OpFreeLookupLocks, k, int64(tpSize)), ignore)
}

// EndSession says that the request is done.
func (c *Client) EndSession(ctx context.Context, requestID string) error {
	return c.do(ctx, wire.OpEndSession, 0, session(wire.OpEndSession, requestID), ignore)
}

// PrepareStore reserves the chunks of the key's range that are not there, and
// returns where to write them. None are returned if all are there, and also if
// they do not fit: the server makes no difference. Shared is false if it wants
// the bytes with the commit.
func (c *Client) PrepareStore(ctx context.Context, k *wire.Key, instance int64) (p wire.PreparedStore, shared bool, err error) {
	err = c.do(ctx, wire.OpPrepareStore, 0, keyed(wire.OpPrepareStore, k, instance), func(r *wire.Reply) (err error) {
		p, shared, err = r.PreparedStore()
		if err == nil && len(p.Slots) != len(p.Chunks) {
			err = fmt.Errorf("%d slots for %d chunks", len(p.Slots), len(p.Chunks))
		}
		return err
	})
	return p, shared, err
}

// CommitStore makes what was prepared readable; false if nothing was.
func (c *Client) CommitStore(ctx context.Context, k *wire.Key, instance int64) (stored bool, err error) {
	err = c.do(ctx, wire.OpCommitStore, 0,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.CommitStore(uid, k, instance, nil) },
		func(r *wire.Reply) (err error) {
			stored, err = r.Bool()
			return err
		})
	return stored, err
}

// PrepareRetrieve returns where the chunks of the key's range are, in order; ok
// is false if one is missing or was not locked by a lookup of the request.
func (c *Client) PrepareRetrieve(ctx context.Context, k *wire.Key, instance int64) (slots []wire.Slot, ok bool, err error) {
	err = c.do(ctx, wire.OpPrepareRetrieve, 0, keyed(wire.OpPrepareRetrieve, k, instance), func(r *wire.Reply) (err error) {
		slots, ok, err = r.PreparedRetrieve()
		return err
	})
	return slots, ok, err
}

// CommitRetrieve gives the read locks back.
func (c *Client) CommitRetrieve(ctx context.Context, k *wire.Key, instance int64) error {
	return c.do(ctx, wire.OpCommitRetrieve, 0, keyed(wire.OpCommitRetrieve, k, instance), func(r *wire.Reply) error {
		_, err := r.Bool()
		return err
	})
}

// Clear drops what is in L1 and not in use; with force all of it.
func (c *Client) Clear(ctx context.Context, force bool) error {
	return c.do(ctx, wire.OpClear, 0,
		func(e *wire.Encoder, uid uint64) [][]byte { return e.Clear(uid, force) }, ignore)
}

// ReportBlockAllocation tells the server of an engine's blocks.
func (c *Client) ReportBlockAllocation(ctx context.Context, instance int64, model string, list []wire.BlockAllocation) error {
	return c.do(ctx, wire.OpReportBlockAllocation, 0,
		func(e *wire.Encoder, uid uint64) [][]byte {
			return e.ReportBlockAllocation(uid, instance, model, list)
		}, ignore)
}
