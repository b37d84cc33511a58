package mmapio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Shared is memory that another process can open by its path, also after this
// one was killed: a shared mapping of a new file, normally on tmpfs. The file is
// locked (flock) until its creator's process ends, however it ends: so the lock
// says whether somebody still writes to it, which a process id, used again or
// of another namespace, does not.
type Shared struct {
	file *os.File
	mem  []byte // nil after Close
	gone bool   // the file was removed
}

// CreateShared creates the file name in dir, maps size bytes of it and makes
// the first filled bytes of them present; the rest is zero and must be allocated
// before it is touched. An empty dir means shared memory (/dev/shm), or where
// that cannot be used the folder for temporary files. It fails if the file
// exists. The caller must Remove the file and Close the mapping.
func CreateShared(dir, name string, size, filled int64) (*Shared, error) {
	if dir != "" {
		return createShared(dir, name, size, filled)
	}
	s, err := createShared("/dev/shm", name, size, filled)
	if err == nil {
		return s, nil
	}
	s, tempErr := createShared(os.TempDir(), name, size, filled)
	if tempErr != nil {
		return nil, errors.Join(err, tempErr)
	}
	return s, nil
}

func createShared(dir, name string, size, filled int64) (_ *Shared, err error) {
	if size <= 0 || filled < 0 || filled > size {
		return nil, fmt.Errorf("create %s: %d bytes, %d filled: size out of range", name, size, filled)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			f.Close()
		}
	}()
	if err := lock(f, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if filled > 0 {
		if err := allocate(f, 0, filled); err != nil {
			return nil, err
		}
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	mem, err := mapFile(f, 0, int(size), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	populate(mem[:filled])
	return &Shared{file: f, mem: mem}, nil
}

// OpenOrphan maps the file of a Shared whose creator is gone, read-only, as it
// was left. It returns ErrInUse while the creator lives. Any number may have it
// open.
func OpenOrphan(path string) (*Mapping, error) {
	m, err := Open(path)
	if err != nil {
		return nil, err
	}
	if err := lock(m.file, unix.LOCK_SH); err != nil {
		m.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return m, nil
}

// RemoveOrphan removes the file of a Shared whose creator is gone. While the
// creator lives it returns ErrInUse and removes nothing; nor does it while other
// processes have the file mapped, which it then returns: a program that locks
// nothing may have created it. Of several callers at once one removes the file.
func RemoveOrphan(path string) (mappers []int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := lock(f, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if mappers, err = Mappers(path); err != nil || len(mappers) > 0 {
		return mappers, err
	}
	ours, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(ours, now) { // another caller was faster, and may have made a new one
		return nil, fmt.Errorf("%s: %w", path, ErrInUse)
	}
	return nil, os.Remove(path)
}

// Bytes returns the memory, valid until Close.
func (s *Shared) Bytes() []byte { return s.mem }

// Path returns the file's path.
func (s *Shared) Path() string { return s.file.Name() }

// Allocate makes [offset, offset+n) safe to touch. It gives a *SpaceError where
// the file system is full.
func (s *Shared) Allocate(offset, n int64) error {
	if s.mem == nil {
		return os.ErrClosed
	}
	return allocate(s.file, offset, n)
}

// AllocateAll makes all of the memory safe to touch, or gives a *SpaceError and
// allocates nothing: a file system that has not the room says so at once, not
// when most of it is filled.
func (s *Shared) AllocateAll() error {
	if s.mem == nil {
		return os.ErrClosed
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.file.Fd()), &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.file.Name(), err)
	}
	size := int64(len(s.mem))
	if free := int64(st.Bavail) * st.Bsize; st.Blocks > 0 && free < size { // a tmpfs without a limit has no blocks
		return &SpaceError{s.file.Name(), 0, size, unix.ENOSPC}
	}
	const step = 1 << 30 // an interrupted call begins again, and gives back what it had
	for at := int64(0); at < size; at += step {
		if err := allocate(s.file, at, min(step, size-at)); err != nil {
			return err
		}
	}
	return nil
}

// Discard gives the memory of the whole pages in [offset, offset+n) back while
// it stays mapped: it reads zero from then on. It is advice: without support in
// the file system the memory stays until Close.
func (s *Shared) Discard(offset, n int64) {
	if from, to := pageUp(offset), pageDown(offset+n); s.mem != nil && from < to {
		_ = unix.Madvise(s.mem[from:to], unix.MADV_REMOVE)
	}
}

// Remove deletes the file. The memory stays until Close. It may be called
// twice.
func (s *Shared) Remove() error {
	if s.gone {
		return nil
	}
	s.gone = true
	return os.Remove(s.file.Name())
}

// Close unmaps the memory and leaves the file. It may be called twice.
func (s *Shared) Close() error {
	if s.mem == nil {
		return nil
	}
	err := errors.Join(unmapFile(s.mem), s.file.Close())
	s.mem = nil
	return err
}
