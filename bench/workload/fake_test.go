package workload_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// fakeManager is a storage manager in a map. It fails the test where a caller
// breaks the protocol: reads without a lock, finishes what is not reserved,
// takes a result twice.
type fakeManager struct {
	t        *testing.T
	clock    clock.Clock
	capacity int           // keys; a reservation that does not fit is out of memory as a whole; 0 is no limit
	delay    time.Duration // from submit to result; negative: never

	unreadable func(kv.ObjectKey) bool  // keys that a read refuses though they were hits
	reserveErr func(kv.ObjectKey) error // for the first key of a reservation

	resident map[kv.ObjectKey]int // read locks
	staged   map[kv.ObjectKey]bool
	pending  map[int64]*fakePrefetch
	next     int64
	stats    sm.Stats
	log      []string
}

type fakePrefetch struct {
	readyNS int64
	spec    *kv.PrefetchSpec
}

func newFake(t *testing.T, c clock.Clock) *fakeManager {
	return &fakeManager{t: t, clock: c, resident: map[kv.ObjectKey]int{}, staged: map[kv.ObjectKey]bool{},
		pending: map[int64]*fakePrefetch{}}
}

func (f *fakeManager) note(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf("%8.3f ", float64(f.clock.Now())/1e9)+fmt.Sprintf(format, args...))
}

// keyList is a short text that differs when the keys do.
func keyList(keys []kv.ObjectKey) string {
	var sum [32]byte
	for i, k := range keys {
		for j := range sum {
			sum[j] = sum[j]*31 + k.Hash[j] + byte(i)
		}
	}
	return fmt.Sprintf("rank %06x keys %d sum %x", keys[0].Rank&0xffffff, len(keys), sum[:4])
}

func (f *fakeManager) SubmitPrefetchTask(spec *kv.PrefetchSpec, id string, skipL2 bool) (sm.PrefetchHandle, error) {
	if err := spec.Validate(); err != nil {
		f.t.Errorf("submit of %s: %v", id, err)
	}
	f.note("submit %s %s", id, keyList(spec.Groups[0].Keys))
	h := sm.PrefetchHandle{ID: f.next, ExternalRequestID: id, SubmitNS: f.clock.Now()}
	f.next++
	ready := f.clock.Now() + int64(f.delay)
	if f.delay < 0 {
		ready = clock.Never
	}
	f.pending[h.ID] = &fakePrefetch{ready, spec}
	return h, nil
}

func (f *fakeManager) QueryPrefetchStatus(h sm.PrefetchHandle) (*sm.PrefetchResult, bool) {
	p := f.pending[h.ID]
	if p == nil {
		f.t.Errorf("query of prefetch %d, whose result was taken", h.ID)
		return nil, false
	}
	if f.clock.Now() < p.readyNS {
		return nil, false
	}
	delete(f.pending, h.ID)
	n := p.spec.Chunks()
	for _, g := range p.spec.Groups {
		n = min(n, slices.IndexFunc(append(g.Keys[:len(g.Keys):len(g.Keys)], kv.ObjectKey{}), func(k kv.ObjectKey) bool {
			_, ok := f.resident[k]
			return !ok
		}))
	}
	res := &sm.PrefetchResult{}
	for _, g := range p.spec.Groups {
		hits := kv.NewBitmap(len(g.Keys))
		for i := range n {
			hits.Set(i)
			f.resident[g.Keys[i]]++
		}
		res.Rows = append(res.Rows, sm.PrefetchRow{Hits: hits, L1: hits})
		f.stats.RequestedKeys += int64(len(g.Keys))
		f.stats.L1HitKeys += int64(n)
	}
	return res, true
}

type fakeRead struct {
	f     *fakeManager
	keys  []kv.ObjectKey
	codes []l1.Code
	left  bool
}

func (f *fakeManager) ReadPrefetched(keys []kv.ObjectKey) workload.Read {
	f.note("enter %s", keyList(keys))
	r := &fakeRead{f: f, keys: keys}
	for _, k := range keys {
		code := l1.Success
		if f.resident[k] == 0 {
			f.t.Errorf("read of %v, which is not locked", k)
			code = l1.KeyNotReadable
		} else if f.unreadable != nil && f.unreadable(k) {
			code = l1.KeyNotReadable
			f.resident[k]-- // as if its lock had timed out
		}
		r.codes = append(r.codes, code)
	}
	return r
}

func (r *fakeRead) Codes() []l1.Code { return r.codes }

func (r *fakeRead) Exit(error) {
	r.f.note("exit %s", keyList(r.keys))
	if r.left {
		r.f.t.Error("a read was left twice")
	}
	r.left = true
	if !slices.Contains(r.codes, l1.KeyNotReadable) {
		return
	}
	for i, k := range r.keys {
		if r.codes[i] == l1.Success {
			r.f.resident[k]--
		}
	}
}

func (f *fakeManager) FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code {
	f.note("finish-read %s", keyList(keys))
	codes := make([]l1.Code, len(keys))
	for i, k := range keys {
		if f.resident[k] -= readLocks; f.resident[k] < 0 {
			f.t.Errorf("finish of the read of %v, which is not locked", k)
		}
		codes[i] = l1.Success
	}
	return codes
}

func (f *fakeManager) ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error) {
	if len(keys) == 0 || layout.Bytes() == 0 || mode != kv.ModeNew {
		f.t.Errorf("reserve of %d keys, layout %v, mode %v", len(keys), layout.Desc(), mode)
	}
	f.note("reserve %s", keyList(keys))
	if f.reserveErr != nil {
		if err := f.reserveErr(keys[0]); err != nil {
			return nil, err
		}
	}
	results := make([]l1.WriteResult, len(keys))
	var fresh []int
	for i, k := range keys {
		_, present := f.resident[k]
		if present || f.staged[k] {
			results[i].Code = l1.KeyNotWritable
			f.stats.RefusedKeys++
		} else {
			fresh = append(fresh, i)
		}
	}
	code := l1.Success
	if f.capacity > 0 && len(f.resident)+len(f.staged)+len(fresh) > f.capacity {
		code = l1.OutOfMemory
	}
	for _, i := range fresh {
		results[i].Code = code
		if code == l1.Success {
			f.staged[keys[i]] = true
		}
	}
	return results, nil
}

func (f *fakeManager) FinishWrite(keys []kv.ObjectKey) []l1.Code {
	f.note("finish-write %s", keyList(keys))
	codes := make([]l1.Code, len(keys))
	for i, k := range keys {
		if !f.staged[k] {
			f.t.Errorf("finish of the write of %v, which is not reserved", k)
		}
		delete(f.staged, k)
		f.resident[k] = 0
		codes[i] = l1.Success
		f.stats.WrittenKeys++
	}
	return codes
}

func (f *fakeManager) Stats() sm.Stats {
	s := f.stats
	s.Resident = int64(len(f.resident))
	return s
}

// checkReleased fails the test if anything is still locked or reserved.
func (f *fakeManager) checkReleased() {
	f.t.Helper()
	for k, locks := range f.resident {
		if locks != 0 {
			f.t.Errorf("%v has %d read locks at the end", k, locks)
		}
	}
	if len(f.staged) > 0 {
		f.t.Errorf("%d reservations at the end", len(f.staged))
	}
}
