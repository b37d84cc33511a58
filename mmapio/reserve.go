package mmapio

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Reservation is private zeroed memory outside the Go heap. Only pages that
// were touched cost memory, so it may be far larger than the machine.
type Reservation struct {
	mem []byte
}

// Reserve reserves size bytes of memory. Touching more than the machine has
// gets the process killed, as with any overcommitted memory. The caller must
// Close the reservation.
func Reserve(size int64) (*Reservation, error) {
	if size <= 0 || int64(int(size)) != size {
		return nil, fmt.Errorf("reserve %d bytes of memory: size out of range", size)
	}
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of memory: %w", size, err)
	}
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // payloads have no place in a core file; old kernels refuse
	return &Reservation{mem}, nil
}

// Bytes returns the memory, valid until Close.
func (r *Reservation) Bytes() []byte { return r.mem }

// Populate touches all of the memory, so that no page is missing later. A
// machine that has not that much kills the process.
func (r *Reservation) Populate() { populate(r.mem) }

// Release gives the pages that lie wholly in [offset, offset+n) back to the
// system; they read zero afterwards.
func (r *Reservation) Release(offset, n int64) error {
	from, to := pageUp(offset), pageDown(offset+n)
	if from >= to {
		return nil
	}
	if err := unix.Madvise(r.mem[from:to], unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("release %d bytes at %d: %w", n, offset, err)
	}
	return nil
}

// Close gives the memory back. It may be called twice.
func (r *Reservation) Close() error {
	if r.mem == nil {
		return nil
	}
	err := unix.Munmap(r.mem)
	r.mem = nil
	return err
}
