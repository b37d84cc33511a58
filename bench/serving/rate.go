package serving

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/server/client"
)

// RateOps are the requests that Rate can make.
var RateOps = []string{"noop", "ping", "lookup"}

// Rate makes so many requests of one kind, as fast as the server answers with
// inFlight of them on their way on each connection. A lookup is one of NumTokens
// tokens and the end of its session, two requests, and counts as one. The shape
// says what is registered for lookups.
func Rate(ctx context.Context, opt Options, op string, inFlight int, requests int64) (*Result, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	if inFlight < 1 || requests < 1 {
		return nil, fmt.Errorf("%w: %d requests, %d in flight, must be at least 1", ErrOptions, requests, inFlight)
	}
	result := newResult()
	var engines []*engine
	defer func() {
		for _, e := range engines {
			_ = e.close(func(int64, error) {})
		}
	}()
	for number := range opt.Clients {
		e, err := dial(ctx, &opt, number, &result.requests)
		if err != nil {
			return nil, err
		}
		engines = append(engines, e)
		if op == "lookup" {
			if err := e.register(ctx); err != nil && !errors.Is(err, client.ErrNoPool) {
				return nil, err
			}
		}
	}
	opt.Progress.result.Store(result)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next    atomic.Int64
		workers sync.WaitGroup
	)
	start := time.Now()
	for _, e := range engines {
		for range inFlight {
			workers.Go(func() {
				tokens := make([]uint32, opt.NumTokens)
				for ctx.Err() == nil {
					n := next.Add(1) - 1
					if n >= requests {
						return
					}
					begin := time.Now()
					if err := e.one(ctx, op, n, tokens); err != nil {
						result.fail(ctx, &result.SessionFailures)
						cancel(err)
						return
					}
					result.Whole.record(time.Since(begin))
					result.Requests.Add(1)
				}
			})
		}
	}
	workers.Wait()
	result.Duration = time.Since(start)
	return result, context.Cause(ctx)
}

// one makes request n.
func (e *engine) one(ctx context.Context, op string, n int64, tokens []uint32) error {
	switch op {
	case "noop":
		return e.conn.Noop(ctx)
	case "ping":
		return e.conn.Ping(ctx, 0, false)
	case "lookup":
		tokens[0] = uint32(n)
		r := e.request(fmt.Sprintf("rate-%d", n), tokens)
		if err := e.conn.Lookup(ctx, &r.key, e.opt.TPSize); err != nil {
			return err
		}
		return e.conn.EndSession(ctx, r.key.RequestID)
	}
	return fmt.Errorf("%w: no operation %q", ErrOptions, op)
}
