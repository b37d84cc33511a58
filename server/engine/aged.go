package engine

import "time"

// aged is a map whose entries go after a while, and the oldest of them when
// there are too many: clients that never come back cost a bounded amount.
type aged[T any] struct {
	entries map[string]agedEntry[T]
	order   []agedID // oldest first; entries that went before stay until they come to the front
	limit   int
	ttl     int64 // ns
	lastID  uint64
}

type agedEntry[T any] struct {
	value T
	id    uint64 // tells an entry from a later one of the same name
}

type agedID struct {
	name  string
	id    uint64
	until int64
}

func newAged[T any](limit int, ttl time.Duration) aged[T] {
	return aged[T]{entries: map[string]agedEntry[T]{}, limit: limit, ttl: int64(ttl)}
}

func (a *aged[T]) get(name string) (v T, ok bool) {
	e, ok := a.entries[name]
	return e.value, ok
}

func (a *aged[T]) put(name string, v T, now int64) {
	a.expire(now)
	a.lastID++
	a.entries[name] = agedEntry[T]{v, a.lastID}
	a.order = append(a.order, agedID{name, a.lastID, now + a.ttl})
}

// take removes an entry.
func (a *aged[T]) take(name string) (v T, ok bool) {
	e, ok := a.entries[name]
	delete(a.entries, name)
	return e.value, ok
}

func (a *aged[T]) len() int { return len(a.entries) }

// expire drops what is too old, and makes room for one more.
func (a *aged[T]) expire(now int64) {
	for len(a.order) > 0 {
		first := a.order[0]
		e, ok := a.entries[first.name]
		live := ok && e.id == first.id
		if live && first.until > now && len(a.entries) < a.limit {
			return
		}
		if live {
			delete(a.entries, first.name)
		}
		a.order = a.order[1:]
	}
}
