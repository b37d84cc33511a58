package serving

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/server/client"
	"github.com/lmcache/lmcache-go/server/wire"
)

// engine is one client: a scheduler and its ranks on one connection. It belongs
// to one goroutine.
type engine struct {
	opt       *Options
	conn      *client.Client
	pool      *client.Pool
	chunk     int   // tokens
	instance  int64 // of rank 0
	ranks     int   // registered
	chunkSize int   // bytes of an object
}

// errRefused says that the server answered, and that the answer was no.
var errRefused = errors.New("the server refused")

// dial connects one engine; it has no rank yet.
func dial(ctx context.Context, opt *Options, number int, latencies *requestLatencies) (*engine, error) {
	conn, err := client.Dial(ctx, opt.Endpoint, client.Options{Timeout: opt.Timeout, Observe: latencies.observe})
	if err != nil {
		return nil, err
	}
	e := &engine{opt: opt, conn: conn, instance: opt.FirstInstance + int64(number*opt.TPSize)}
	if e.chunk, err = conn.ChunkSize(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if e.chunk%opt.Shape.BlockSize != 0 {
		return nil, errors.Join(fmt.Errorf("%w: chunks of %d tokens do not consist of blocks of %d", ErrOptions, e.chunk, opt.Shape.BlockSize), conn.Close())
	}
	e.chunkSize = opt.Shape.ChunkBytes(e.chunk)
	return e, nil
}

// register registers the next rank, and maps the pool with the first.
func (e *engine) register(ctx context.Context) error {
	shape := e.opt.Shape
	pool, err := e.conn.Register(ctx, &wire.Context{
		Instance: e.instance + int64(e.ranks), Model: e.opt.Model, WorldSize: e.opt.worldSize(),
		BlockSize: shape.BlockSize, Layers: shape.Layers, Hidden: shape.Hidden(), DType: shape.typeName(),
		MLA: e.opt.MLA, PhysicalSlots: e.chunk,
	})
	if err != nil {
		return err
	}
	e.ranks++
	if e.pool == nil {
		e.pool, err = client.OpenPool(pool)
	}
	return err
}

// close unregisters every rank, reports each to done, and hangs up.
func (e *engine) close(done func(instance int64, err error)) error {
	// The run may have been interrupted; the server is told nevertheless.
	ctx, cancel := context.WithTimeout(context.Background(), e.opt.Timeout)
	defer cancel()
	var errs []error
	for rank := range e.ranks {
		err := e.conn.Unregister(ctx, e.instance+int64(rank))
		done(e.instance+int64(rank), err)
		errs = append(errs, err)
	}
	if e.pool != nil {
		errs = append(errs, e.pool.Close())
	}
	return errors.Join(append(errs, e.conn.Close())...)
}

// request is one request of an engine: the key that its requests share.
type request struct {
	key    wire.Key
	chunks int // full ones
}

func (e *engine) request(id string, tokens []uint32) *request {
	chunks := len(tokens) / e.chunk
	return &request{chunks: chunks, key: wire.Key{
		Model: e.opt.Model, WorldSize: e.opt.worldSize(), Worker: wire.AllWorkers, Tokens: tokens,
		End: chunks * e.chunk, RequestID: id, Salt: e.opt.Salt, Readers: e.opt.readers(),
	}}
}

// ranged returns the key of a rank, and of chunks [from, to).
func (e *engine) ranged(r *request, rank, from, to int) *wire.Key {
	k := r.key
	k.Worker, k.Start, k.End = rank, from*e.chunk, to*e.chunk
	if e.opt.MLA {
		k.Worker = 0
	}
	return &k
}

// Polls of a lookup's status, as LMCache's benchmark makes them.
const (
	maxPolls     = 50
	pollInterval = 50 * time.Millisecond
)

// lookup looks the request up and returns the chunks of the prefix that every
// rank has.
func (e *engine) lookup(ctx context.Context, r *request) (hits int, err error) {
	if err := e.conn.Lookup(ctx, &r.key, e.opt.TPSize); err != nil {
		return 0, err
	}
	for poll := range maxPolls {
		if poll > 0 {
			if err := sleep(ctx, pollInterval); err != nil {
				return 0, err
			}
		}
		hits, ok, err := e.conn.PrefetchStatus(ctx, r.key.RequestID)
		switch {
		case err != nil:
			return 0, err
		case ok && (hits < 0 || hits > r.chunks):
			return 0, fmt.Errorf("lookup: %w: %d of %d chunks hit", client.ErrReply, hits, r.chunks)
		case ok:
			return hits, nil
		}
	}
	return 0, &client.TimeoutError{Op: wire.OpQueryPrefetchStatus, Wait: maxPolls * pollInterval}
}

// store stores chunks [from, to) of a rank: write puts a chunk into its slot.
// It returns how many the server wanted: none that it has.
func (e *engine) store(ctx context.Context, r *request, rank, from, to int, write func(chunk int, slot []byte)) (stored int, err error) {
	k, instance := e.ranged(r, rank, from, to), e.instance+int64(rank)
	prepared, shared, err := e.conn.PrepareStore(ctx, k, instance)
	switch {
	case err != nil:
		return 0, err
	case !shared:
		return 0, client.ErrNoPool
	case len(prepared.Slots) == 0:
		return 0, nil
	}
	for i := range prepared.Slots {
		slot, err := e.pool.Slot(&prepared.Slots[i], e.chunkSize)
		if err == nil && (prepared.Chunks[i] < 0 || prepared.Chunks[i] >= to-from) {
			err = fmt.Errorf("prepare_store: %w: chunk %d of %d", client.ErrReply, prepared.Chunks[i], to-from)
		}
		if err == nil {
			err = mmapio.Guard(func() { write(from+prepared.Chunks[i], slot) })
		}
		if err != nil {
			return 0, err // what was reserved is released when the rank unregisters
		}
	}
	ok, err := e.conn.CommitStore(ctx, k, instance)
	if err == nil && !ok {
		err = fmt.Errorf("commit_store: %w", errRefused)
	}
	return len(prepared.Slots), err
}

// retrieve retrieves chunks [0, to) of a rank: read gets each with its slot.
func (e *engine) retrieve(ctx context.Context, r *request, rank, to int, read func(chunk int, slot []byte)) error {
	k, instance := e.ranged(r, rank, 0, to), e.instance+int64(rank)
	slots, ok, err := e.conn.PrepareRetrieve(ctx, k, instance)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("prepare_retrieve: %w", errRefused)
	case len(slots) != to:
		err = fmt.Errorf("prepare_retrieve: %w: %d slots for %d chunks", client.ErrReply, len(slots), to)
	}
	for i := 0; i < len(slots) && err == nil; i++ {
		var slot []byte
		if slot, err = e.pool.Slot(&slots[i], e.chunkSize); err == nil {
			err = mmapio.Guard(func() { read(i, slot) })
		}
	}
	return errors.Join(err, e.conn.CommitRetrieve(ctx, k, instance)) // the locks go back whatever was read
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
