package l1

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/mmapio"
)

// Memory is what backs the objects of a tier. Several goroutines may call View
// at once, but not after Close.
type Memory interface {
	// View returns the n bytes of the object at offset.
	View(offset, n int64) []byte
	Close() error
}

// Scratch backs every object with a view of one small pool, so that a tier of
// any size runs in a few megabytes: placement, sizes and addresses are real, the
// bytes are shared by all. It is for replay, where payloads do not count.
//
// A pool rather than one huge mapping of the same pages again and again, because
// there page tables and RSS accounting grow with what is touched.
type Scratch struct {
	mu   sync.Mutex // taken to replace pool
	pool atomic.Pointer[[]byte]
}

// scratchBytes is the pool's size until a larger object comes: two objects of
// the largest model layouts in use.
const scratchBytes = 64 << 20

// View returns n bytes that others may write at the same time.
func (s *Scratch) View(offset, n int64) []byte {
	var pool []byte
	if p := s.pool.Load(); p != nil && int64(len(*p)) >= n {
		pool = *p
	} else {
		pool = s.grow(n)
	}
	if room := int64(len(pool)) - n; room > 0 {
		offset %= room
	} else {
		offset = 0
	}
	return pool[offset : offset+n : offset+n]
}

// grow returns a pool of at least n bytes.
func (s *Scratch) grow(n int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pool.Load(); p != nil && int64(len(*p)) >= n {
		return *p
	}
	pool := make([]byte, max(n, scratchBytes)) // the system gives zero pages when they are touched
	s.pool.Store(&pool)
	return pool
}

// Close drops the pool.
func (s *Scratch) Close() error {
	s.pool.Store(nil)
	return nil
}

// Real backs objects with memory of their own.
type Real struct{ reservation *mmapio.Reservation }

// NewReal reserves size bytes of memory. Lazy memory takes a page from the
// system when it is first touched, other memory takes all of them now. A size of
// 0 is a tier in which nothing fits.
func NewReal(size int64, lazy bool) (*Real, error) {
	if size == 0 {
		return &Real{}, nil
	}
	r, err := mmapio.Reserve(size)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes for L1: %w", size, err)
	}
	if !lazy {
		r.Populate()
	}
	return &Real{r}, nil
}

// View returns the object's own bytes.
func (r *Real) View(offset, n int64) []byte {
	return r.reservation.Bytes()[offset : offset+n : offset+n]
}

// Close gives the memory back.
func (r *Real) Close() error {
	if r.reservation == nil {
		return nil
	}
	return r.reservation.Close()
}
