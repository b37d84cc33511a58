package replay

import (
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
)

// pendingPrefetches holds the prefetches whose result is not there yet. A
// trace does not say when the recording server asked for a result, and asking
// changes nothing but to take it, so the replay asks between records.
type pendingPrefetches struct {
	list []pendingPrefetch // in no order; entries beyond len keep their rows for reuse
	turn int               // the next one to ask for, when not all are asked
}

type pendingPrefetch struct {
	handle sm.PrefetchHandle
	keys   int64   // a row
	rows   []int64 // bytes of a key of each row
}

// add remembers a submitted prefetch, which counts as unfinished until ask has
// its result. It keeps nothing of spec.
func (p *pendingPrefetches) add(h sm.PrefetchHandle, spec *kv.PrefetchSpec, o *Outcome) {
	n := len(p.list)
	if n < cap(p.list) {
		p.list = p.list[:n+1]
	} else {
		p.list = append(p.list, pendingPrefetch{})
	}
	e := &p.list[n]
	e.handle, e.keys, e.rows = h, int64(spec.Chunks()), e.rows[:0]
	for i := range spec.Groups {
		e.rows = append(e.rows, spec.Groups[i].Layout.Bytes())
	}
	o[UnfinishedPrefetches]++
	o[UnfinishedKeys] += e.keys * int64(len(e.rows))
}

// poll asks for up to limit results and counts those that are there.
func (p *pendingPrefetches) poll(m Manager, limit int, o *Outcome) {
	for range min(limit, len(p.list)) {
		if p.turn >= len(p.list) {
			p.turn = 0
		}
		if !p.ask(m, p.turn, o) {
			p.turn++
		}
	}
}

// ask counts the result of entry i and removes the entry, or reports false if
// there is no result yet.
func (p *pendingPrefetches) ask(m Manager, i int, o *Outcome) bool {
	e := &p.list[i]
	res, ok := m.QueryPrefetchStatus(e.handle)
	if !ok {
		return false
	}
	o[UnfinishedPrefetches]--
	o[UnfinishedKeys] -= e.keys * int64(len(e.rows))
	for row, keyBytes := range e.rows {
		var l1, l2 int64
		if row < len(res.Rows) {
			l1, l2 = int64(res.Rows[row].L1.Count()), int64(res.Rows[row].L2.Count())
		}
		o[L1HitKeys] += l1
		o[L1HitBytes] += l1 * keyBytes
		o[L2HitKeys] += l2
		o[L2HitBytes] += l2 * keyBytes
		o[MissedKeys] += e.keys - l1 - l2
		o[MissedBytes] += (e.keys - l1 - l2) * keyBytes
	}
	last := len(p.list) - 1
	p.list[i], p.list[last] = p.list[last], p.list[i] // swapped, not copied: both keep their own rows slice
	p.list = p.list[:last]
	return true
}
