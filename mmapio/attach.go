package mmapio

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Attached is shared memory that another process made, mapped for reading and
// writing. That process may take the file away, which does no harm, or make it
// shorter: accesses to what is gone fault, see [Guard].
type Attached struct{ mem []byte } // nil after Close

// Attach maps the first size bytes of the file at path. It fails if the file is
// shorter. The caller must Close the mapping.
func Attach(path string, size int64) (*Attached, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("map %s: not a regular file", path)
	case size <= 0 || info.Size() < size:
		return nil, fmt.Errorf("map %s: it has %d bytes, not %d", path, info.Size(), size)
	}
	mem, err := mapFile(f, 0, int(size), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	return &Attached{mem}, nil
}

// Bytes returns the memory, valid until Close.
func (a *Attached) Bytes() []byte { return a.mem }

// Close unmaps the memory. It may be called twice.
func (a *Attached) Close() error {
	err := unmapFile(a.mem)
	a.mem = nil
	return err
}
