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
	MaxRequests int // beside those of a warm-up; all if zero
	// NoPayload leaves the bytes in the pool as they are: what is measured is the
	// server, and nothing is compared.
	NoPayload bool
}

// job is a request on its way to a client.
type job struct {
	id     string
	hashes [][32]byte // of the prompt's chunks, then of those that the answer fills
	prompt int        // how many of them are the prompt's
	tail   int        // tokens behind the prompt's last full chunk
	stream int
	due    time.Time
}

// RunWorkload makes the requests of a workload, by as many clients as the
// options say, and otherwise returns what Run does. A chunk's tokens follow from
// the hash that the workload gives it, so that equal prefixes are equal tokens;
// so does what is stored for it. Lookups may miss: that is what caches do. What a
// warm-up did is in the Result by itself, but for what failed in it.
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
	d := dispatcher{load: &load, work: work, chunk: engines[0].chunk, result: result, jobs: make(chan job), gate: newGate()}
	d.start = time.Now()
	running, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	var clients sync.WaitGroup
	for _, e := range engines {
		clients.Go(func() {
			for j := range d.jobs {
				begin := time.Now()
				if !j.due.IsZero() {
					result.Late.record(begin.Sub(j.due))
				}
				e.serve(ctx, &j, load.NoPayload, result)
				if ctx.Err() == nil {
					result.Whole.record(time.Since(begin))
					result.Requests.Add(1)
				}
				d.gate.leave(j.stream)
				if err := e.conn.Err(); err != nil {
					lost(err)
				}
			}
		})
	}
	if err = d.run(running); errors.Is(err, context.Canceled) {
		err = context.Cause(running)
	}
	close(d.jobs)
	clients.Wait()
	result.Duration = time.Since(d.start)
	result.Description = work.Facts()
	return result, err
}

// dispatcher hands the requests to whoever is free, each at its time and when
// what it waits for is done. It belongs to one goroutine.
type dispatcher struct {
	load   *Load
	work   workload.Workload
	chunk  int
	start  time.Time // of the warm-up, then of what is measured
	result *Result
	jobs   chan job
	gate   *gate
}

func (d *dispatcher) run(ctx context.Context) error {
	for n := 0; d.load.MaxRequests == 0 || n < d.load.MaxRequests; {
		if !d.work.Next() {
			return d.work.Err()
		}
		r := d.work.Request()
		if r.Fence {
			if err := d.gate.wait(ctx, func() bool { return d.gate.running == 0 }); err != nil {
				return err
			}
			d.result.begin(time.Since(d.start))
			d.start = time.Now()
		}
		if !r.Warmup {
			n++
		}
		j := job{
			id: r.ID, prompt: len(r.Hashes), tail: r.InputTokens - len(r.Hashes)*d.chunk, stream: r.Stream,
			// The request's memory is used again by Next.
			hashes: append(append(make([][32]byte, 0, len(r.Hashes)+len(r.Generated)), r.Hashes...), r.Generated...),
		}
		if !d.load.NoArrivals {
			j.due = d.start.Add(time.Duration(float64(r.ArrivalNS) / d.load.Speed))
			if err := sleep(ctx, time.Until(j.due)); err != nil {
				return err
			}
		}
		if r.Warmup || r.Limit > 0 {
			j.due = time.Time{} // in a closed loop nothing is late
		}
		if err := d.gate.enter(ctx, r.Limit, r.Stream); err != nil {
			return err
		}
		select {
		case d.jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// gate counts the requests that were handed out and are not done.
type gate struct {
	mu      sync.Mutex
	running int
	streams map[int]bool  // those with a request that runs
	changed chan struct{} // has an element after one was done; one goroutine waits
}

func newGate() *gate { return &gate{streams: map[int]bool{}, changed: make(chan struct{}, 1)} }

// wait waits until ready, which is called with the lock held.
func (g *gate) wait(ctx context.Context, ready func() bool) error {
	for {
		g.mu.Lock()
		ok := ready()
		g.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-g.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter waits until fewer than limit requests run, if it is not 0, and none of
// the stream, if that is not 0. The request then runs.
func (g *gate) enter(ctx context.Context, limit, stream int) error {
	return g.wait(ctx, func() bool {
		if limit > 0 && g.running >= limit || stream != 0 && g.streams[stream] {
			return false
		}
		g.running++
		if stream != 0 {
			g.streams[stream] = true
		}
		return true
	})
}

// leave says that a request of the stream is done.
func (g *gate) leave(stream int) {
	g.mu.Lock()
	g.running--
	delete(g.streams, stream)
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default: // there is one that was not looked at
	}
}

// serve makes one request: what is there of the prompt is retrieved, the rest
// stored, and then what the answer fills.
func (e *engine) serve(ctx context.Context, j *job, noPayload bool, result *Result) {
	r := e.request(j.id, tokensOf(j.hashes[:j.prompt], j.tail, e.chunk))
	if len(j.hashes) == 0 {
		return // as an engine does
	}
	if r.chunks == 0 || e.read(ctx, r, j, noPayload, result) {
		if j.prompt < len(j.hashes) {
			e.write(ctx, e.request(j.id, tokensOf(j.hashes, 0, e.chunk)), j, j.prompt, noPayload, result)
		}
	}
	if err := e.conn.EndSession(ctx, r.key.RequestID); err != nil {
		result.fail(ctx, &result.SessionFailures)
	}
}

// read looks the prompt up, retrieves what is there and stores the rest. It
// reports whether the lookup was answered.
func (e *engine) read(ctx context.Context, r *request, j *job, noPayload bool, result *Result) bool {
	begin := time.Now()
	hits, err := e.lookup(ctx, r)
	if err != nil {
		result.fail(ctx, &result.LookupFailures)
		return false
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
	if hits < r.chunks {
		e.write(ctx, r, j, hits, noPayload, result)
	}
	return true
}

// write stores the request's chunks from that one on.
func (e *engine) write(ctx context.Context, r *request, j *job, from int, noPayload bool, result *Result) {
	for rank := range e.opt.worldSize() {
		begin := time.Now()
		stored, err := e.store(ctx, r, rank, from, r.chunks, func(chunk int, slot []byte) {
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
		result.UnstoredChunks.Add(int64(r.chunks - from - stored))
	}
}

// vocabulary is how many tokens there are.
const vocabulary = 128_000

// tokensOf makes tokens of a request, those of a chunk from its hash. The tail,
// which no chunk holds, is all one token.
func tokensOf(hashes [][32]byte, tail, chunk int) []uint32 {
	tokens := make([]uint32, 0, len(hashes)*chunk+tail)
	for _, hash := range hashes {
		random := rand.NewChaCha8(hash)
		for range chunk {
			tokens = append(tokens, uint32(random.Uint64()%vocabulary))
		}
	}
	for range tail {
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
