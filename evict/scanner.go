package evict

// Scanner is a Policy that can look for victims a few keys at a time: past a
// long run of keys that may not go, its tier then holds its lock for a short
// while only.
type Scanner interface {
	Policy
	// Rewind begins a search with the key that is first to go.
	Rewind()
	// Peek appends the next n keys that Scan would look at. It changes nothing.
	Peek(dst []uint32, n int) []uint32
	// Scan goes on where the search is: it looks at up to limit keys and
	// appends to dst up to n that evictable accepts, in the order in which
	// they should go. more is false at the end of the search. Keys may be
	// told of and leave between two Scans; one that was looked at is met
	// again only if it became recent.
	Scan(dst []uint32, n, limit int, evictable func(slot uint32) bool) (_ []uint32, more bool)
}

// Rewind begins a search at the cold end.
func (l *LRU) Rewind() { l.cursor = l.links.At(0).next }

// Peek appends the keys from the one where the search is.
func (l *LRU) Peek(dst []uint32, n int) []uint32 {
	for s := l.cursor; s != 0 && n > 0; n-- {
		dst = append(dst, s)
		s = l.links.At(s).next
	}
	return dst
}

// Scan goes on from the key where the search is, which unlink moves on.
func (l *LRU) Scan(dst []uint32, n, limit int, evictable func(slot uint32) bool) (_ []uint32, more bool) {
	n += len(dst)
	for ; l.cursor != 0 && limit > 0 && len(dst) < n; limit-- {
		s := l.cursor
		l.cursor = l.links.At(s).next
		if evictable(s) {
			dst = append(dst, s)
		}
	}
	return dst, l.cursor != 0
}
