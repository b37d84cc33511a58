package serving

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Run makes the requests Start to End of LMCache's benchmark. It fails if the
// server cannot be used as such, or if ctx ends before the last request is done;
// operations that failed are counted in the Result, which is nil only if nothing
// was started. Without an End the end of ctx is a good one.
func Run(ctx context.Context, opt Options) (*Result, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	result := newResult()
	engines, err := connect(ctx, &opt, result)
	if err != nil {
		return nil, err
	}
	lines := &lineWriter{w: opt.Lines}
	opt.Progress.result.Store(result)
	start := time.Now()
	var (
		next    atomic.Int64
		clients sync.WaitGroup
	)
	next.Store(opt.Start)
	for _, e := range engines {
		s := newSequence(e, result)
		clients.Go(func() {
			for first := true; ; first = false {
				seq := next.Add(1) - 1
				if opt.End >= 0 && seq >= opt.End || !first && sleep(ctx, opt.Interval) != nil {
					return
				}
				var out bytes.Buffer
				err := s.run(ctx, seq, &out)
				lines.write(out.Bytes())
				if err != nil {
					return
				}
			}
		})
	}
	clients.Wait()
	result.Duration = time.Since(start)
	err = hangUp(engines, lines)
	if opt.End >= 0 {
		err = errors.Join(ctx.Err(), err)
	}
	return result, err
}

// connect connects and registers the engines, and prints what they are.
func connect(ctx context.Context, opt *Options, result *Result) (engines []*engine, err error) {
	w := &lineWriter{w: opt.Lines}
	w.printf("Connecting to LMCache MP Server at %s (mode=cpu) ...\n", opt.Endpoint)
	defer func() {
		if err != nil {
			err = errors.Join(err, hangUp(engines, &lineWriter{w: opt.Lines}))
			engines = nil
		}
	}()
	for number := range opt.Clients {
		e, err := dial(ctx, opt, number, &result.requests)
		if err != nil {
			return engines, err
		}
		engines = append(engines, e)
		if number == 0 {
			if err := describe(opt, e.chunk, w); err != nil {
				return engines, err
			}
		}
		for rank := range opt.TPSize {
			who := fmt.Sprintf("rank %d", rank)
			if opt.Clients > 1 {
				who = fmt.Sprintf("client %d, rank %d", number, rank)
			}
			if opt.NumTokens > 0 {
				w.printf("[%s] Allocated %d KV tensors on cpu\n", who, opt.Shape.Layers)
			}
			if err := e.register(ctx); err != nil {
				w.printf("[%s] REGISTER_KV_CACHE: FAILED\n", who)
				return engines, err
			}
			w.printf("[%s] REGISTER_KV_CACHE: OK\n", who)
		}
	}
	return engines, nil
}

// describe prints what the requests are, and checks that they fit the shape.
func describe(opt *Options, chunk int, w *lineWriter) error {
	shape := opt.Shape
	w.printf("Server chunk_size = %d\nResolved KV shape spec: %s\n", chunk, shape)
	for _, note := range opt.Notes {
		w.printf("  [info] %s\n", note)
	}
	if opt.NumTokens > 0 { // else they differ, and no memory of an engine holds them
		tokens := opt.NumTokens + 1
		chunks := tokens / chunk
		switch most := shape.Blocks * shape.BlockSize / chunk; {
		case chunks == 0:
			return fmt.Errorf("%w: %d tokens are less than a chunk of %d", ErrOptions, tokens, chunk)
		case chunks > most:
			return fmt.Errorf("%w: %d tokens are %d chunks of %d, the shape's %d blocks of %d hold %d", ErrOptions, tokens, chunks, chunk, shape.Blocks, shape.BlockSize, most)
		}
		w.printf("Each request: %d tokens (%d full chunks)\n", tokens, chunks)
	}
	w.printf("KV shape: %d layers, %d heads x %d, dtype=%s, blocks=%dx%d, kv=%d\n", shape.Layers, shape.Heads, shape.HeadSize, shape.typeName(), shape.Blocks, shape.BlockSize, shape.KV)
	return nil
}

// hangUp unregisters all engines and closes their connections.
func hangUp(engines []*engine, w *lineWriter) error {
	var errs []error
	w.printf("\n")
	for _, e := range engines {
		errs = append(errs, e.close(func(instance int64, err error) {
			word := "OK"
			if err != nil {
				word = "FAILED"
			}
			w.printf("[iid %d] UNREGISTER_KV_CACHE: %s\n", instance, word)
		}))
	}
	return errors.Join(errs...)
}

// lineWriter writes whole lines of several goroutines.
type lineWriter struct {
	mu sync.Mutex
	w  interface{ Write([]byte) (int, error) }
}

func (l *lineWriter) write(text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(text) // a reader that is gone is found out by who prints the result
}

func (l *lineWriter) printf(format string, args ...any) {
	l.write(fmt.Appendf(nil, format, args...))
}
