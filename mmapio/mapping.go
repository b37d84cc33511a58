package mmapio

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// ErrShrunk says that a mapped file has become shorter than its mapping.
var ErrShrunk = errors.New("file shrank while it was read")

// Mapping is a read-only view of a file. It belongs to one goroutine, except
// that any number may read the bytes. Reading them can fault: see [Guard].
type Mapping struct {
	file *os.File // nil after Close
	mem  []byte   // nil for an empty file
}

// Open maps the file at path with the size that it has now. An empty file is
// mapped as no bytes. It fails for what is not a regular file, and does not wait
// for the writer of a pipe. The caller must Close the mapping.
func Open(path string) (*Mapping, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	m := &Mapping{file: f}
	if _, err := m.Remap(); err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

// Bytes returns the file's bytes, valid until Remap returns true, or Close.
// Writing to them faults.
func (m *Mapping) Bytes() []byte { return m.mem }

// Remap maps what was added to the file since it was mapped, and reports
// whether there was anything; if so, earlier results of Bytes are no longer
// valid. A file that has become shorter gives ErrShrunk and stays mapped as it
// was: the bytes that are gone fault.
func (m *Mapping) Remap() (grown bool, err error) {
	if m.file == nil {
		return false, fmt.Errorf("remap: %w", os.ErrClosed)
	}
	path := m.file.Name()
	info, err := m.file.Stat()
	if err != nil {
		return false, err
	}
	size := info.Size()
	switch {
	case info.IsDir():
		return false, &os.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("map %s: not a regular file", path)
	case size < int64(len(m.mem)):
		return false, fmt.Errorf("map %s: %w: from %d to %d bytes", path, ErrShrunk, len(m.mem), size)
	case size == int64(len(m.mem)):
		return false, nil
	case size > math.MaxInt:
		return false, fmt.Errorf("map %s: %d bytes do not fit the address space", path, size)
	}
	mem, err := mapFile(m.file, 0, int(size), unix.PROT_READ)
	if err != nil {
		return false, err
	}
	err = unmapFile(m.mem)
	m.mem = mem
	return true, err
}

// Forget gives back the memory of the whole pages within [from, to), which a
// reader has passed: a file of any size then takes little of it. The bytes stay
// valid; who reads them again has them loaded again.
func (m *Mapping) Forget(from, to int64) {
	from, to = pageUp(max(from, 0)), pageDown(min(to, int64(len(m.mem))))
	if from < to {
		_ = unix.Madvise(m.mem[from:to], unix.MADV_DONTNEED) // else they stay, which is no harm
	}
}

// Close unmaps the file. It may be called twice.
func (m *Mapping) Close() error {
	if m.file == nil {
		return nil
	}
	err := errors.Join(unmapFile(m.mem), m.file.Close())
	m.file, m.mem = nil, nil
	return err
}

// mapFile maps size bytes of f from offset on, shared, and registers them for
// Guard. Offset is a multiple of the page size.
func mapFile(f *os.File, offset int64, size, prot int) ([]byte, error) {
	mem, err := unix.Mmap(int(f.Fd()), offset, size, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s at offset %d, %d bytes: %w", f.Name(), offset, size, err)
	}
	mappings.add(mem, f.Name(), offset)
	return mem, nil
}

// unmapFile undoes mapFile; nil is fine.
func unmapFile(mem []byte) error {
	if mem == nil {
		return nil
	}
	mappings.remove(mem)
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap: %w", err)
	}
	return nil
}
