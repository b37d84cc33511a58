package fs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"reflect"

	"golang.org/x/sys/unix"
)

// errSize is the error of a file that has not the size of the object.
var errSize = errors.New("the file has another size than the object")

// bounceBytes is the size of a buffer for what cannot be read or written in
// place: direct I/O wants whole blocks of aligned memory.
const bounceBytes = 1 << 20

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// fileSize returns the size of a regular file.
func fileSize(path string) (int64, error) {
	var st unix.Stat_t
	if err := again(func() error { return unix.Lstat(path, &st) }); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, fs.ErrInvalid
	}
	return st.Size, nil
}

// open opens a file, direct if it should be and the file system can.
func (s *Store) open(path string, flags int, direct bool) (fd int, err error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if direct {
		flags |= unix.O_DIRECT
	}
	err = again(func() (err error) { fd, err = unix.Open(path, flags, 0o666); return err })
	if err == unix.EINVAL && direct && flags&unix.O_CREAT != 0 {
		_ = unix.Unlink(path) // some file systems refuse once they have made it
	}
	return fd, err
}

// direct says whether an object of so many bytes takes direct I/O: whole
// blocks, or fs_native, which pads them.
func (s *Store) direct(size int) bool {
	return s.c.Direct && size > 0 && !s.noDirect.Load() && (s.c.Native || size%s.block == 0)
}

// tryDirect calls io, and once more without direct I/O if it turns out that
// the file system has none. It is not asked again.
func (s *Store) tryDirect(size int, io func(direct bool) error) error {
	direct := s.direct(size)
	err := io(direct)
	if direct && errors.Is(err, unix.EINVAL) {
		s.noDirect.Store(true)
		err = io(false)
	}
	return err
}

// write makes the file of an object. It leaves nothing else behind.
func (s *Store) write(path, name string, b []byte) error {
	return s.tryDirect(len(b), func(direct bool) error {
		temp := filepath.Join(s.temp, tempName(name, rand.Uint64()))
		fd, err := s.open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, direct)
		if err != nil {
			return err
		}
		// Held while we write: who removes leftovers sees that this is none.
		_ = again(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		err = s.writeTo(fd, b, direct)
		if err == nil {
			err = again(func() error { return unix.Rename(temp, path) })
		}
		if err != nil {
			_ = unix.Unlink(temp)
		}
		if e := unix.Close(fd); err == nil && e != nil && e != unix.EINTR {
			_ = unix.Unlink(path) // a network file system says only now that it has no room
			return e
		}
		return err
	})
}

func (s *Store) writeTo(fd int, b []byte, direct bool) error {
	if !direct || isAligned(b) && len(b)%page == 0 {
		return writeFull(fd, b, 0)
	}
	size := len(b)
	if s.c.Native {
		size = int(roundUp(int64(size), page))
	}
	return s.withBuffer(func(buf []byte) error {
		for at := 0; at < size; at += bounceBytes {
			part := buf[:min(size-at, bounceBytes)]
			clear(part[copy(part, b[min(at, len(b)):]):])
			if err := writeFull(fd, part, int64(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

// read fills b with the file of an object; on scratch memory it reads and
// leaves b alone.
func (s *Store) read(path string, b []byte) error {
	return s.tryDirect(len(b), func(direct bool) error {
		fd, err := s.open(path, unix.O_RDONLY|unix.O_NONBLOCK, direct) // it may be a pipe, which nobody writes
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := again(func() error { return unix.Fstat(fd, &st) }); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fs.ErrInvalid
		}
		if !s.holds(st.Size, len(b)) {
			return errSize
		}
		if s.c.ReadAhead > 0 && !direct {
			_ = unix.Fadvise(fd, 0, int64(s.c.ReadAhead), unix.FADV_WILLNEED)
		}
		return s.readFrom(fd, b, direct)
	})
}

func (s *Store) readFrom(fd int, b []byte, direct bool) error {
	if !s.env.NoPayload && (!direct || isAligned(b) && len(b)%page == 0) {
		return readFull(fd, b, len(b), 0)
	}
	return s.withBuffer(func(buf []byte) error {
		for at := 0; at < len(b); at += bounceBytes {
			want := min(len(b)-at, bounceBytes)
			if err := readFull(fd, buf[:roundUp(int64(want), page)], want, int64(at)); err != nil {
				return err
			}
			if !s.env.NoPayload {
				copy(b[at:], buf[:want])
			}
		}
		return nil
	})
}

// readFull reads at least least bytes of the file at off into b.
func readFull(fd int, b []byte, least int, off int64) error {
	for n := 0; n < least; {
		var m int
		err := again(func() (err error) { m, err = unix.Pread(fd, b[n:], off+int64(n)); return err })
		if err != nil {
			return err
		}
		if m <= 0 {
			return errSize
		}
		n += m
	}
	return nil
}

func writeFull(fd int, b []byte, off int64) error {
	for n := 0; n < len(b); {
		var m int
		err := again(func() (err error) { m, err = unix.Pwrite(fd, b[n:], off+int64(n)); return err })
		if err != nil {
			return err
		}
		if m <= 0 {
			return unix.ENOSPC
		}
		n += m
	}
	return nil
}

// isAligned reports whether direct I/O can take b as it is.
func isAligned(b []byte) bool {
	return len(b) > 0 && reflect.ValueOf(b).Pointer()%page == 0
}

// withBuffer lends an aligned buffer of bounceBytes.
func (s *Store) withBuffer(use func(buf []byte) error) error {
	var buf []byte
	select {
	case buf = <-s.bounce:
	default:
		var err error
		if buf, err = unix.Mmap(-1, 0, bounceBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
			return err
		}
	}
	defer func() {
		select {
		case s.bounce <- buf:
		default:
			_ = unix.Munmap(buf)
		}
	}()
	return use(buf)
}
