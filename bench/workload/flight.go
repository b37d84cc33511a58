package workload

import (
	"fmt"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// phase is what a flight does next.
type phase uint8

const (
	submit  phase = iota
	poll          // a prefetch was submitted
	leave         // reads are entered
	reserve       // the prompt is computed
	finish        // reservations are held
)

// flight is a request being served.
type flight struct {
	id     string
	tokens int              // of the input
	keys   [][]kv.ObjectKey // one row a rank, in prefix order
	phase  phase

	handle   sm.PrefetchHandle
	submitNS int64 // on Clock
	hits     int   // chunks of the prefix that every rank has

	reads    []Read           // entered, one a rank
	clean    []bool           // every key of the read was readable
	reserved [][]kv.ObjectKey // to be finished, one row a rank; empty rows are left out

	stream    int
	output    int              // tokens
	generated [][]kv.ObjectKey // chunks that the output fills, one row a rank; nil if none
	decoded   bool             // what is stored now are those
}

func (f *flight) chunks() int { return len(f.keys[0]) }

// admit makes a request a flight, with its keys on every rank.
func (e *engine) admit(r *Request) *flight {
	f := &flight{id: r.ID, tokens: r.InputTokens, output: r.OutputTokens, stream: r.Stream, keys: make([][]kv.ObjectKey, e.Ranks)}
	full, n := len(r.Hashes), len(r.Hashes)+len(r.Generated)
	if n > full {
		f.generated = make([][]kv.ObjectKey, e.Ranks)
	}
	all := make([]kv.ObjectKey, n*e.Ranks)
	for rank := range f.keys {
		row := all[rank*n : (rank+1)*n : (rank+1)*n]
		packed := kv.PackRank(uint64(e.Ranks), uint64(rank), uint64(e.Ranks), uint64(rank))
		for i := range row {
			hash := &r.Generated
			at := i - full
			if at < 0 {
				hash, at = &r.Hashes, i
			}
			row[i] = kv.ObjectKey{Hash: (*hash)[at], HashLen: uint8(len((*hash)[at])), Scope: e.scope, Rank: packed}
		}
		f.keys[rank] = row[:full:full]
		if f.generated != nil {
			f.generated[rank] = row[full:]
		}
	}
	e.running++
	if f.stream != 0 {
		e.streams[f.stream] = true
	}
	e.result.admitted(r, e.running)
	return f
}

// advance serves f until it has to wait, and schedules what comes then.
func (e *engine) advance(f *flight) error {
	for {
		var wait int64
		var done bool
		var err error
		switch f.phase {
		case submit:
			if f.chunks() == 0 {
				wait, done = e.stored(f)
			} else {
				err = e.submit(f)
			}
		case poll:
			wait = e.poll(f)
		case leave:
			e.leave(f)
			wait = e.compute(f)
		case reserve:
			if wait, err = e.reserve(f); err == nil && len(f.reserved) == 0 {
				wait, done = e.stored(f)
			}
		case finish:
			e.finish(f)
			wait, done = e.stored(f)
		}
		switch {
		case err != nil:
			e.release(f)
			return err
		case done:
			e.done(f)
			return nil
		case wait > 0:
			e.schedule(e.Clock.Now()+wait, f)
			return nil
		}
	}
}

func (e *engine) done(f *flight) {
	e.running--
	delete(e.streams, f.stream)
	e.result.Completed++
	e.offer()
}

func (e *engine) submit(f *flight) error {
	spec := &kv.PrefetchSpec{Groups: make([]kv.KeyGroup, len(f.keys)), Readers: 1, Policy: kv.FetchPrefix, Lock: kv.Lock}
	for rank, keys := range f.keys {
		spec.Groups[rank] = kv.KeyGroup{Keys: keys, Layout: e.Layout, Window: kv.FullAttention}
	}
	f.submitNS = e.Clock.Now()
	var err error
	took := timed(e.Meter, &e.result.Submit, func() { f.handle, err = e.Manager.SubmitPrefetchTask(spec, f.id, false) })
	e.publish(event.Event{Text: "submit_prefetch_task", Duration: took, Keys: f.keys[0], Session: f.id, RequestID: f.handle.ID}, err)
	if err != nil {
		return fmt.Errorf("submit prefetch of request %s: %w", f.id, err)
	}
	f.phase = poll
	return nil
}

// poll asks for the prefetch's result; once it is there, or given up, it goes
// on to what follows. It returns how long to wait for that.
func (e *engine) poll(f *flight) (wait int64) {
	var res *sm.PrefetchResult
	var ok bool
	timed(e.Meter, &e.result.Query, func() { res, ok = e.Manager.QueryPrefetchStatus(f.handle) })
	waited := e.Clock.Now() - f.submitNS
	if !ok && waited < int64(e.PrefetchTimeout) {
		return int64(e.PollInterval)
	}
	if ok {
		e.result.PrefetchWait.record(waited)
		f.hits = hitPrefix(res)
	} else {
		e.result.PrefetchTimeouts++
	}
	e.result.looked(f.hits, f.chunks(), f.hits*e.workload.ChunkTokens())
	f.phase = leave
	if f.hits == 0 || !e.enter(f) {
		return 0
	}
	return e.copyTime(f.hits)
}

// hitPrefix returns how many leading chunks every row can serve.
func hitPrefix(res *sm.PrefetchResult) int {
	hits := -1
	for _, row := range res.Rows {
		if n := row.Hits.LeadingOnes(); hits < 0 || n < hits {
			hits = n
		}
	}
	return max(hits, 0)
}

// copyTime returns how long one worker copies so many chunks; workers copy at
// the same time.
func (e *engine) copyTime(chunks int) int64 {
	return workTime(float64(chunks)*float64(e.Layout.Bytes()), e.CopyBytesPerSecond, e.Speed)
}

// enter enters each worker's read of the hit prefix and reports whether all of
// it was readable. If not, the hits are none.
func (e *engine) enter(f *flight) bool {
	unreadable := 0
	for _, row := range f.keys {
		var r Read
		took := timed(e.Meter, &e.result.Enter, func() { r = e.Manager.ReadPrefetched(row[:f.hits]) })
		e.publish(event.Event{Text: "read_prefetched_results.enter", Duration: took, Keys: row[:f.hits], Session: f.id}, nil)
		bad := countNot(r.Codes(), l1.Success)
		f.reads = append(f.reads, r)
		f.clean = append(f.clean, bad == 0)
		unreadable += bad
	}
	e.result.UnreadableKeys += int64(unreadable)
	return unreadable == 0
}

// leave exits the reads that were entered and finishes those that were clean:
// a refused one has released its locks by itself. If any was refused, nothing
// counts as read.
func (e *engine) leave(f *flight) {
	readable := true
	for rank, r := range f.reads {
		took := timed(e.Meter, &e.result.Exit, func() { r.Exit(nil) })
		keys := f.keys[rank][:f.hits]
		e.publish(event.Event{Text: "read_prefetched_results.exit", Duration: took, Keys: keys, Session: f.id}, nil)
		if readable = readable && f.clean[rank]; f.clean[rank] {
			took := timed(e.Meter, &e.result.FinishRead, func() { e.Manager.FinishReadPrefetched(keys, 1) })
			e.publish(event.Event{Text: "finish_read_prefetched", Duration: took, Keys: keys, Session: f.id}, nil)
		}
	}
	f.reads, f.clean = nil, nil
	if !readable {
		f.hits = 0
	}
}

// compute returns how long the engine works on the tokens that were not read.
func (e *engine) compute(f *flight) (wait int64) {
	f.phase = reserve
	if f.hits == f.chunks() && f.generated == nil {
		return 0 // the request is done, and nobody waits for what it computes
	}
	rest := f.tokens - f.hits*e.workload.ChunkTokens()
	return workTime(float64(rest), e.PrefillTokensPerSecond, e.Speed)
}

// stored goes on behind a store: once the prompt's chunks are there the engine
// decodes, and then stores what it generated.
func (e *engine) stored(f *flight) (wait int64, done bool) {
	if f.decoded || f.generated == nil {
		return 0, true
	}
	f.decoded, f.phase = true, reserve
	return workTime(float64(f.output), e.DecodeTokensPerSecond, e.Speed), false
}

// toStore returns the chunks that were computed, one row a rank.
func (f *flight) toStore(rank int) []kv.ObjectKey {
	if f.decoded {
		return f.generated[rank]
	}
	return f.keys[rank][f.hits:]
}

// reserve reserves the chunks that were computed, and returns how long the
// workers copy into what they got.
func (e *engine) reserve(f *flight) (wait int64, err error) {
	most := 0
	for rank := range f.keys {
		keys := f.toStore(rank)
		if len(keys) == 0 {
			break // no rank has any
		}
		var results []l1.WriteResult
		took := timed(e.Meter, &e.result.Reserve, func() { results, err = e.Manager.ReserveWrite(keys, e.Layout, kv.ModeNew) })
		e.publish(event.Event{Text: "reserve_write", Duration: took, Keys: keys, Session: f.id}, err)
		if err != nil {
			return 0, fmt.Errorf("reserve write of request %s: %w", f.id, err)
		}
		if got := e.reserved(keys, results); len(got) > 0 {
			f.reserved = append(f.reserved, got)
			most = max(most, len(got))
		}
	}
	f.phase = finish
	return e.copyTime(most), nil
}

// reserved counts the outcomes and returns the keys that may be written.
func (e *engine) reserved(keys []kv.ObjectKey, results []l1.WriteResult) []kv.ObjectKey {
	refused := 0
	for _, r := range results {
		switch r.Code {
		case l1.Success:
		case l1.OutOfMemory:
			e.result.OOMKeys++
			refused++
		default:
			e.result.RefusedKeys++
			refused++
		}
	}
	e.result.ReservedKeys += int64(len(keys) - refused)
	if refused == 0 {
		return keys
	}
	got := make([]kv.ObjectKey, 0, len(keys)-refused)
	for i, r := range results {
		if r.Code == l1.Success {
			got = append(got, keys[i])
		}
	}
	return got
}

// finish makes what was reserved readable.
func (e *engine) finish(f *flight) {
	for _, keys := range f.reserved {
		var codes []l1.Code
		took := timed(e.Meter, &e.result.FinishWrite, func() { codes = e.Manager.FinishWrite(keys) })
		e.publish(event.Event{Text: "finish_write", Duration: took, Keys: keys, Session: f.id}, nil)
		bad := int64(countNot(codes, l1.Success))
		e.result.UnwrittenKeys += bad
		e.result.WrittenKeys += int64(len(keys)) - bad
	}
	f.reserved = nil
}

// release lets go of what a request that is cut short holds in L1. The locks
// of a prefetch whose result was not taken end by their time to live.
func (e *engine) release(f *flight) {
	e.leave(f)
	e.finish(f)
}

func countNot(codes []l1.Code, want l1.Code) int {
	n := 0
	for _, c := range codes {
		if c != want {
			n++
		}
	}
	return n
}
