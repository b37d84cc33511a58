package evict

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lmcache/lmcache-go/kv"
)

// DefaultSalt is how people write the empty salt, which has no text of its own.
const DefaultSalt = "_default"

// SaltName returns the text of a salt, DefaultSalt for the empty one.
func SaltName(s kv.Salt) string {
	if s == 0 {
		return DefaultSalt
	}
	return s.String()
}

// Quota is how many bytes the objects of a salt should take at most in a tier.
type Quota struct {
	Salt  kv.Salt
	Bytes int64
}

// Quotas are the budgets of salts. Under a Partitioned policy a cycle of
// eviction asks them what is due; nothing else enforces them. They are safe for
// concurrent use. The zero Quotas are none.
//
// Source: reference storage-manager.md, sections 5.9 and 5.11.
type Quotas struct {
	mu     sync.Mutex
	limits map[kv.Salt]int64
}

// Set gives a salt a quota, in place of one that it has. It fails if bytes is
// negative.
func (q *Quotas) Set(salt kv.Salt, bytes int64) error {
	if bytes < 0 {
		return fmt.Errorf("quota of salt %s: %d bytes, must be 0 or more", SaltName(salt), bytes)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.limits == nil {
		q.limits = map[kv.Salt]int64{}
	}
	q.limits[salt] = bytes
	return nil
}

// Delete takes a salt's quota away and reports whether it had one.
func (q *Quotas) Delete(salt kv.Salt) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.limits[salt]
	delete(q.limits, salt)
	return ok
}

// Get returns a salt's quota; ok is false if it has none.
func (q *Quotas) Get(salt kv.Salt) (bytes int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes, ok = q.limits[salt]
	return bytes, ok
}

// List returns all quotas, sorted by the names of their salts.
func (q *Quotas) List() []Quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]Quota, 0, len(q.limits))
	for salt, bytes := range q.limits {
		list = append(list, Quota{salt, bytes})
	}
	slices.SortFunc(list, func(a, b Quota) int { return strings.Compare(SaltName(a.Salt), SaltName(b.Salt)) })
	return list
}

// SaltUsage is how many bytes the objects of a salt take.
type SaltUsage struct {
	Salt  kv.Salt
	Bytes int64
}

// Due is a part of a tier from which a cycle should evict: a share Ratio of the
// keys of Salts.
type Due struct {
	Salts []kv.Salt
	Ratio float64
	Bytes int64 // that they take
	Limit int64 // that they may take
}

// DueBelow returns what is due in a store below L1: every salt that has bytes,
// and as many as the watermark's share of its quota or more. A salt without a
// quota counts as one with a quota of 0; of that everything is due.
func (q *Quotas) DueBelow(usage []SaltUsage, watermark, ratio float64) []Due {
	var due []Due
	for _, u := range usage {
		limit, _ := q.Get(u.Salt)
		due = appendDue(due, Due{[]kv.Salt{u.Salt}, ratio, u.Bytes, limit}, watermark)
	}
	return due
}

// DueIn returns what is due in a memory tier of so many bytes. Salts with a quota
// are as in DueBelow, each for itself. Those without one share what the quotas
// leave of the capacity, as one. Quotas may add up to more than there is; then
// nothing is left for the others, and if the tier as a whole reaches the
// watermark before anybody's quota is reached, that part is due that has most
// of its own.
func (q *Quotas) DueIn(usage []SaltUsage, capacity int64, watermark, ratio float64) []Due {
	shared := Due{Ratio: ratio, Limit: capacity}
	for _, l := range q.List() {
		shared.Limit = max(shared.Limit-l.Bytes, 0) // stays 0: quotas are not negative
	}
	var parts []Due
	used := int64(0)
	for _, u := range usage {
		used += u.Bytes
		if limit, ok := q.Get(u.Salt); ok {
			parts = append(parts, Due{[]kv.Salt{u.Salt}, ratio, u.Bytes, limit})
		} else if u.Bytes > 0 {
			shared.Salts = append(shared.Salts, u.Salt)
			shared.Bytes += u.Bytes
		}
	}
	parts = append(parts, shared)
	var due []Due
	for _, p := range parts {
		due = appendDue(due, p, watermark)
	}
	if len(due) > 0 || used == 0 || float64(used) < watermark*float64(capacity) {
		return due
	}
	return []Due{slices.MaxFunc(parts, compareFill)}
}

// compareFill orders parts by the share of their limits that they take. None of
// them has a limit of 0 and bytes: it would be due.
func compareFill(a, b Due) int {
	fill := func(d Due) float64 {
		if d.Limit == 0 {
			return 0
		}
		return float64(d.Bytes) / float64(d.Limit)
	}
	switch x, y := fill(a), fill(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// appendDue appends d if it has reached its watermark.
func appendDue(due []Due, d Due, watermark float64) []Due {
	if d.Bytes <= 0 || float64(d.Bytes) < watermark*float64(d.Limit) {
		return due
	}
	if d.Limit == 0 {
		d.Ratio = 1
	}
	return append(due, d)
}
