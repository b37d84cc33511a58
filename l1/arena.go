package l1

import (
	"fmt"

	"github.com/lmcache/lmcache-go/internal/invariant"
)

// arena places objects in an address range, first fit from the lowest address.
// It decides addresses only: what memory is behind them, if any, is not its
// concern, and its own cost follows the number of holes, not the size of the
// range. An arena is not safe for concurrent use.
//
// Source: reference storage-manager.md, sections 4.3 and 4.4.
type arena struct {
	size  int64 // as configured
	heap  int64 // size rounded down to align: what can be given out
	align int64 // a power of two

	taken int64 // sum of the aligned sizes of what is allocated
	avail int64 // sum of the free extents; taken + avail = heap
	holes extents
}

// newArena returns an arena of size bytes, all free, whose offsets are
// multiples of align. A tail shorter than align is never given out; of an arena
// of size 0 nothing is.
func newArena(size, align int64) (*arena, error) {
	if align <= 0 || align&(align-1) != 0 {
		return nil, fmt.Errorf("align_bytes must be a positive power of two, not %d", align)
	}
	if size < 0 {
		return nil, fmt.Errorf("size_in_bytes must not be negative, not %d", size)
	}
	a := &arena{size: size, heap: size &^ (align - 1), align: align}
	a.avail = a.heap
	a.holes.init()
	if a.heap > 0 {
		a.holes.give(0, a.heap)
	}
	return a, nil
}

// capacity returns the size that the arena was made with.
func (a *arena) capacity() int64 { return a.size }

// used returns the bytes that are allocated, alignment included.
func (a *arena) used() int64 { return a.taken }

// aligned rounds bytes, which are at least 1 and at most heap, up to the
// alignment. The result is at most heap, so nothing on the way overflows.
func (a *arena) aligned(bytes int64) int64 { return ((bytes - 1) | (a.align - 1)) + 1 }

// allocBatch allocates n slots of bytes each, exactly where n single
// allocations in turn would, and stores their offsets in dst[:n], in rising
// order. It reports false, and has allocated nothing, when not all of them fit;
// dst[:n] is then undefined. bytes must be positive.
func (a *arena) allocBatch(bytes int64, n int, dst []int64) bool {
	if bytes <= 0 || n < 0 {
		panic(fmt.Sprintf("l1: allocation of %d slots of %d bytes", n, bytes))
	}
	if n == 0 {
		return true
	}
	if bytes > a.heap {
		return false
	}
	slot := a.aligned(bytes)
	if int64(n) > a.avail/slot {
		return false
	}
	dst = dst[:n]
	got := 0
	for got < n {
		k := a.holes.take(slot, dst[got:])
		if k == 0 {
			break
		}
		got += k
	}
	a.account(int64(got) * slot)
	if got < n {
		// The holes that are too small for a slot made the sum look
		// sufficient. Free extents are always joined, so giving back what
		// was taken restores the same holes.
		a.undo(dst[:got], slot)
		return false
	}
	if invariant.Enabled {
		a.checkSmall()
	}
	return true
}

// undo frees slots that lie in rising order, run by run.
func (a *arena) undo(offs []int64, slot int64) {
	for len(offs) > 0 {
		run := 1
		for run < len(offs) && offs[run] == offs[run-1]+slot {
			run++
		}
		a.free(offs[0], int64(run)*slot)
		offs = offs[run:]
	}
}

// free gives back the slot at off that was allocated with bytes, joined with
// the free neighbours on both sides. It panics if the slot lies outside the
// arena or part of it is free already: that is our own bug, and going on would
// hand out one address twice.
func (a *arena) free(off, bytes int64) {
	if off < 0 || off&(a.align-1) != 0 || bytes <= 0 || bytes > a.heap || off > a.heap-a.aligned(bytes) {
		panic(fmt.Sprintf("l1: free of %d bytes at %d in an arena of %d, aligned to %d", bytes, off, a.heap, a.align))
	}
	slot := a.aligned(bytes)
	if !a.holes.give(off, slot) {
		panic(fmt.Sprintf("l1: free of %d bytes at %d, which are free in part", slot, off))
	}
	a.account(-slot)
	if invariant.Enabled {
		a.checkSmall()
	}
}

func (a *arena) account(taken int64) {
	a.taken += taken
	a.avail -= taken
}

// check walks all holes and returns an error if the books do not agree: free
// and allocated bytes make the heap, holes are aligned, apart from each other
// and inside the heap, and the tree over them tells the truth.
func (a *arena) check() error {
	sum, end := int64(0), int64(-1)
	err := a.holes.check(func(start, length int64) error {
		switch {
		case length <= 0 || start|length != (start|length)&^(a.align-1):
			return fmt.Errorf("hole of %d bytes at %d in an arena aligned to %d", length, start, a.align)
		case start < end:
			return fmt.Errorf("hole at %d overlaps the one that ends at %d", start, end)
		case start == end:
			return fmt.Errorf("two free neighbours at %d are not joined", start)
		case length > a.heap-start:
			return fmt.Errorf("hole of %d bytes at %d in an arena of %d", length, start, a.heap)
		}
		sum, end = sum+length, start+length
		return nil
	})
	if err != nil {
		return fmt.Errorf("arena: %w", err)
	}
	if sum != a.avail || a.taken+a.avail != a.heap {
		return fmt.Errorf("arena: %d bytes in holes, %d free and %d allocated in the books, heap %d", sum, a.avail, a.taken, a.heap)
	}
	return nil
}

// checkSmall checks an arena that is small enough to be checked at every call.
func (a *arena) checkSmall() {
	if a.holes.leaves.inUse() <= 64 {
		invariant.CheckErr(a.check())
	}
}
