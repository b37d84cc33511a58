package kv

const (
	slabShift = 12 // a chunk of 8 to 60 bytes each: few enough for the collector, at 10 M elements 2,500
	slabLen   = 1 << slabShift
)

// Slab is a growing array whose elements never move. For a T without pointers
// the collector does not look into it, however large it is.
type Slab[T any] struct{ chunks []*[slabLen]T }

// At returns element i, growing the slab to hold it. New elements are zero.
func (s *Slab[T]) At(i uint32) *T {
	for int(i>>slabShift) >= len(s.chunks) {
		s.chunks = append(s.chunks, new([slabLen]T))
	}
	return &s.chunks[i>>slabShift][i&(slabLen-1)]
}
