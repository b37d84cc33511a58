package l1

import "reflect"

// slab holds values by number, in chunks that never move: it grows without
// copying, a pointer that at returned stays good until the number is freed, and
// for a T without pointers the collector sees one word a chunk.
type slab[T any] struct {
	chunks []*[slabChunk]T
	next   uint32   // numbers given out so far
	freed  []uint32 // of those, free again
}

const slabChunk = 64 // values; a chunk of tree nodes is about 32 KiB

// alloc returns a free number. Its value is zero.
func (s *slab[T]) alloc() uint32 {
	if n := len(s.freed); n > 0 {
		id := s.freed[n-1]
		s.freed = s.freed[:n-1]
		return id
	}
	if s.next%slabChunk == 0 {
		s.chunks = append(s.chunks, new([slabChunk]T))
	}
	s.next++
	return s.next - 1
}

func (s *slab[T]) at(id uint32) *T { return &s.chunks[id/slabChunk][id%slabChunk] }

func (s *slab[T]) free(id uint32) {
	var zero T
	*s.at(id) = zero
	s.freed = append(s.freed, id)
}

// inUse returns how many numbers are given out.
func (s *slab[T]) inUse() int { return int(s.next) - len(s.freed) }

// footprint returns the bytes of all chunks.
func (s *slab[T]) footprint() int {
	return len(s.chunks) * slabChunk * int(reflect.TypeFor[T]().Size())
}
