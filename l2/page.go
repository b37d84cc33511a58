package l2

import (
	"container/heap"

	"github.com/lmcache/lmcache-go/kv"
)

// Pager makes one page of a list from objects in any order: the first by name
// behind the token, which is the name of the last object of the page before. It
// holds one page and no more, however many objects there are.
type Pager struct {
	model string
	after string
	limit int
	names nameHeap // the largest first
	more  bool
}

// NewPager returns a pager for what Lister.List is asked.
func NewPager(model, token string, limit int) *Pager {
	return &Pager{model: model, after: token, limit: max(limit, 1)}
}

// Wants reports whether an object may be on the page, for a store where its size
// has a price.
func (p *Pager) Wants(key *kv.ObjectKey) bool {
	if p.model != "" && key.Scope.Model() != p.model {
		return false
	}
	name := key.String()
	return name > p.after && (len(p.names) < p.limit || !p.more || name < p.names[0].name)
}

// Add takes an object into account.
func (p *Pager) Add(key kv.ObjectKey, size int64) {
	if p.model != "" && key.Scope.Model() != p.model {
		return
	}
	name := key.String()
	if name <= p.after {
		return
	}
	if len(p.names) == p.limit {
		p.more = true
		if name >= p.names[0].name {
			return
		}
		heap.Pop(&p.names)
	}
	heap.Push(&p.names, named{name, Listed{key, size}})
}

// Page returns the page.
func (p *Pager) Page() Page {
	var page Page
	if p.more {
		page.Next = p.names[0].name
	}
	page.Objects = make([]Listed, len(p.names))
	for i := len(p.names) - 1; i >= 0; i-- {
		page.Objects[i] = heap.Pop(&p.names).(named).Listed
	}
	return page
}

type named struct {
	name string
	Listed
}

type nameHeap []named

func (h nameHeap) Len() int           { return len(h) }
func (h nameHeap) Less(i, j int) bool { return h[i].name > h[j].name }
func (h nameHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *nameHeap) Push(x any)        { *h = append(*h, x.(named)) }
func (h *nameHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
