package serving

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"time"
)

// filler is the token of LMCache's benchmark; requests differ in their first.
const filler = 9906

// sequence makes the requests of one engine: each twice, cold and warm.
type sequence struct {
	*engine
	ranks  []*paged
	result *Result
}

func newSequence(e *engine, result *Result) *sequence {
	s := &sequence{engine: e, result: result}
	for range e.opt.TPSize {
		s.ranks = append(s.ranks, newPaged(e.opt.Shape, e.chunk))
	}
	return s
}

// run makes request number seq. The lines that it prints go to out. It fails
// only when ctx ends or the connection is lost; what fails otherwise is counted.
func (s *sequence) run(ctx context.Context, seq int64, out *bytes.Buffer) error {
	fmt.Fprintf(out, "\n=== Request seq=%d ===\n", seq)
	cold, coldErr := s.pass(ctx, seq, "cold", out)
	if err := errors.Join(s.conn.Err(), sleep(ctx, s.opt.Interval)); err != nil {
		return err
	}
	warm, warmErr := s.pass(ctx, seq, "warm", out)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.result.Requests.Add(1)
	switch {
	case coldErr != nil || warmErr != nil: // counted already
	case cold == warm:
		s.result.ChecksumOK.Add(1)
		fmt.Fprintf(out, "  [seq %d] CHECKSUM MATCH OK\n", seq)
	default:
		s.result.ChecksumFail.Add(1)
		fmt.Fprintf(out, "  [seq %d] CHECKSUM MISMATCH!\n", seq)
	}
	return s.conn.Err()
}

// pass looks the request up, retrieves what is there, stores the rest, and
// returns the checksum of the engine's memory. In the warm pass that memory is
// cleared first, and all chunks must be there.
func (s *sequence) pass(ctx context.Context, seq int64, phase string, out *bytes.Buffer) (sum [md5.Size]byte, err error) {
	label := fmt.Sprintf("  [seq %d/%s]", seq, phase)
	warm := phase == "warm"
	tokens := make([]uint32, s.opt.NumTokens+1)
	for i := range tokens {
		tokens[i] = filler
	}
	tokens[0] = uint32(seq)
	r := s.request(fmt.Sprintf("req-%d-%s", seq, phase), tokens)

	start := time.Now()
	hits, err := s.lookup(ctx, r)
	took := time.Since(start)
	if err != nil {
		s.result.fail(ctx, &s.result.LookupFailures)
		fmt.Fprintf(out, "%s LOOKUP: %s\n", label, outcome(err, "lookup_failed"))
		return sum, err
	}
	fmt.Fprintf(out, "%s LOOKUP: %d/%d chunks hit (%.1f ms)\n", label, hits, r.chunks, ms(took))
	s.result.lookup(warm).record(took)
	s.result.Chunks.Add(int64(r.chunks))
	s.result.HitChunks.Add(int64(hits))
	if warm && hits < r.chunks {
		s.result.fail(ctx, &s.result.UnexpectedMisses)
	}

	for rank, memory := range s.ranks {
		if warm {
			memory.zero(r.chunks)
		} else {
			memory.fill(r.chunks, seq, s.contentRank(rank))
		}
	}
	if hits > 0 {
		start := time.Now()
		err = s.retrieveAll(ctx, r, hits)
		took := time.Since(start)
		fmt.Fprintf(out, "%s RETRIEVE: %s (%d tokens, %.1f ms, %d workers)\n", label, outcome(err, "retrieve_failed", "retrieved"), hits*s.chunk, ms(took), s.opt.TPSize)
		if err != nil {
			s.result.fail(ctx, &s.result.RetrieveFailures)
		} else if warm {
			s.result.WarmRetrieve.record(took)
		}
	}
	var sums []byte
	for _, memory := range s.ranks {
		sums = memory.appendSums(sums, r.chunks)
	}
	sum = md5.Sum(sums)
	fmt.Fprintf(out, "%s CHECKSUM: %x (%d chunks)\n", label, sum[:8], len(s.ranks)*r.chunks)
	if hits < r.chunks {
		start := time.Now()
		storeErr := s.storeAll(ctx, r, hits)
		took := time.Since(start)
		fmt.Fprintf(out, "%s STORE: %s (%d tokens, %.1f ms, %d writers)\n", label, outcome(storeErr, "store_failed", "stored"), (r.chunks-hits)*s.chunk, ms(took), s.opt.worldSize())
		if storeErr != nil {
			s.result.fail(ctx, &s.result.StoreFailures)
		} else if !warm {
			s.result.ColdStore.record(took)
		}
		err = errors.Join(err, storeErr)
	}
	if endErr := s.conn.EndSession(ctx, r.key.RequestID); endErr != nil {
		s.result.fail(ctx, &s.result.SessionFailures)
		err = errors.Join(err, endErr)
	}
	return sum, err
}

// contentRank is the rank whose content a rank has.
func (s *sequence) contentRank(rank int) int {
	if s.opt.MLA {
		return 0
	}
	return rank
}

func (s *sequence) retrieveAll(ctx context.Context, r *request, hits int) error {
	var errs []error
	for rank, memory := range s.ranks {
		err := s.retrieve(ctx, r, rank, hits, memory.scatter)
		if err == nil {
			s.result.RetrievedBytes.Add(int64(hits) * int64(s.chunkSize))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *sequence) storeAll(ctx context.Context, r *request, hits int) error {
	var errs []error
	for rank, memory := range s.ranks[:s.opt.worldSize()] {
		stored, err := s.store(ctx, r, rank, hits, r.chunks, memory.gather)
		s.result.StoredBytes.Add(int64(stored) * int64(s.chunkSize))
		if err == nil {
			s.result.UnstoredChunks.Add(int64(r.chunks - hits - stored))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// outcome is the word that LMCache's benchmark prints: one of a failure, timeout
// where there was no answer, or that of success.
func outcome(err error, failed string, done ...string) string {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return done[0]
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return failed
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }
