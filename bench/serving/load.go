package serving

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
)

// Load says what RunWorkload makes of a workload.
type Load struct {
	// Open opens the workload for a server's chunk size.
	Open func(chunkTokens int) (workload.Workload, error)
	// Speed divides the times of arrival; 1 if zero. A request that finds every
	// client busy is late.
	Speed float64
	// NoArrivals starts a request whenever a client has nothing to do.
	NoArrivals  bool
	MaxRequests int // all if zero
	// NoPayload leaves the bytes in the pool as they are: what is measured is the
	// server, and nothing is compared.
	NoPayload bool
}

// job is a request on its way to a client.
type job struct {
	id     string
	hashes [][32]byte
	tail   int // tokens behind the last full chunk
	due    time.Time
}

// RunWorkload makes the requests of a workload, by as many clients as the
// options say, and otherwise returns what Run does. A chunk's tokens follow from
// the hash that the workload gives it, so that equal prefixes are equal tokens;
// so does what is stored for it. Lookups may miss: that is what caches do.
func RunWorkload(ctx context.Context, opt Options, load Load) (_ *Result, err error) {
	opt.NumTokens = 0
	if opt, err = opt.withDefaults(); err != nil {
		return nil, err
	}
	opt.NumTokens = 0
	if load.Speed == 0 {
		load.Speed = 1
	}
	if !(load.Speed > 0) || load.MaxRequests < 0 {
		return nil, fmt.Errorf("%w: speed and requests must be above 0", ErrOptions)
	}
	result := newResult()
	engines, err := connect(ctx, &opt, result)
	if err != nil {
		return nil, err
	}
	lines := &lineWriter{w: opt.Lines}
	defer func() { err = errors.Join(err, hangUp(engines, lines)) }()
	work, err := load.Open(engines[0].chunk)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()

	opt.Progress.result.Store(result)
	start := time.Now()
	jobs := make(chan job)
	var clients sync.WaitGroup
	for _, e := range engines {
		clients.Go(func() {
			for j := range jobs {
				begin := time.Now()
				if !j.due.IsZero() {
					result.Late.record(begin.Sub(j.due))
				}
				e.serve(ctx, &j, load.NoPayload, result)
				if ctx.Err() == nil {
					result.Whole.record(time.Since(begin))
					result.Requests.Add(1)
				}
			}
		})
	}
	err = dispatch(ctx, work, &load, start, engines[0].chunk, jobs)
	close(jobs)
	clients.Wait()
	result.Duration = time.Since(start)
	result.Description = work.Facts()
	return result, err
}

// dispatch hands the requests to whoever is free, each at its time.
func dispatch(ctx context.Context, work workload.Workload, load *Load, start time.Time, chunk int, jobs chan<- job) error {
	for n := 0; load.MaxRequests == 0 || n < load.MaxRequests; n++ {
		if !work.Next() {
			return work.Err()
		}
		r := work.Request()
		// The request's memory is used again by Next.
		j := job{id: r.ID, hashes: append([][32]byte(nil), r.Hashes...), tail: r.InputTokens - len(r.Hashes)*chunk}
		if !load.NoArrivals {
			j.due = start.Add(time.Duration(float64(r.ArrivalNS) / load.Speed))
			if err := sleep(ctx, time.Until(j.due)); err != nil {
				return err
			}
		}
		select {
		case jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// serve makes one request: what is there is retrieved, the rest stored.
func (e *engine) serve(ctx context.Context, j *job, noPayload bool, result *Result) {
	r := e.request(j.id, tokensOf(j, e.chunk))
	if r.chunks == 0 {
		return // as an engine does
	}
	begin := time.Now()
	hits, err := e.lookup(ctx, r)
	if err != nil {
		result.fail(ctx, &result.LookupFailures)
		return
	}
	result.ColdLookup.record(time.Since(begin))
	result.Chunks.Add(int64(r.chunks))
	result.HitChunks.Add(int64(hits))
	for rank := range e.opt.TPSize {
		if hits == 0 {
			break
		}
		begin, bad := time.Now(), 0
		err := e.retrieve(ctx, r, rank, hits, func(chunk int, slot []byte) {
			if !noPayload && !isContent(slot, e.content(j, chunk, rank)) {
				bad++
			}
		})
		switch {
		case err != nil:
			result.fail(ctx, &result.RetrieveFailures)
			continue
		case bad > 0:
			result.ChecksumFail.Add(1)
		case !noPayload:
			result.ChecksumOK.Add(1)
		}
		result.WarmRetrieve.record(time.Since(begin))
		result.RetrievedBytes.Add(int64(hits) * int64(e.chunkSize))
	}
	for rank := range e.opt.worldSize() {
		if hits == r.chunks {
			break
		}
		begin := time.Now()
		stored, err := e.store(ctx, r, rank, hits, r.chunks, func(chunk int, slot []byte) {
			if !noPayload {
				setContent(slot, e.content(j, chunk, rank))
			}
		})
		if err != nil {
			result.fail(ctx, &result.StoreFailures)
			continue
		}
		result.ColdStore.record(time.Since(begin))
		result.StoredBytes.Add(int64(stored) * int64(e.chunkSize))
		result.UnstoredChunks.Add(int64(r.chunks - hits - stored))
	}
	if err := e.conn.EndSession(ctx, r.key.RequestID); err != nil {
		result.fail(ctx, &result.SessionFailures)
	}
}

// vocabulary is how many tokens there are.
const vocabulary = 128_000

// tokensOf makes tokens of a request, those of a chunk from its hash. The tail,
// which no chunk holds, is all one token.
func tokensOf(j *job, chunk int) []uint32 {
	tokens := make([]uint32, 0, len(j.hashes)*chunk+j.tail)
	for _, hash := range j.hashes {
		random := rand.NewChaCha8(hash)
		for range chunk {
			tokens = append(tokens, uint32(random.Uint64()%vocabulary))
		}
	}
	for range j.tail {
		tokens = append(tokens, 0)
	}
	return tokens
}

// content is what the object of a chunk on a rank consists of.
func (e *engine) content(j *job, chunk, rank int) [32]byte {
	c := j.hashes[chunk]
	if !e.opt.MLA {
		binary.LittleEndian.PutUint32(c[28:], binary.LittleEndian.Uint32(c[28:])^uint32(rank+1))
	}
	return c
}

// setContent fills slot with repetitions of c.
func setContent(slot []byte, c [32]byte) {
	for n := copy(slot, c[:]); n < len(slot); n *= 2 {
		copy(slot[n:], slot[:n])
	}
}

// isContent reports whether slot holds what setContent wrote.
func isContent(slot []byte, c [32]byte) bool {
	n := min(len(slot), len(c))
	return bytes.Equal(slot[:n], c[:n]) && bytes.Equal(slot[n:], slot[:len(slot)-n]) // periodic
}
