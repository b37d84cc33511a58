package mmapio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SpaceError says that a file could not be given the space that it needs: most
// often the disk is full or a quota is used up (errors.Is tells ENOSPC, EDQUOT,
// EFBIG). Nothing beyond Offset may be written.
type SpaceError struct {
	Path   string
	Offset int64 // from the start of the file
	Bytes  int64 // that were asked for from there on
	Err    error
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("allocate %d bytes of %s at offset %d: %v", e.Bytes, e.Path, e.Offset, e.Err)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// allocate gives f real space for [offset, offset+n), which then reads zero and
// which the file's size includes. Storing to it through a mapping cannot find
// the disk full. Where the file system has no fallocate it is written out; the
// range must then lie at or behind the end of the file.
func allocate(f *os.File, offset, n int64) error {
	err := withinLimit(offset + n)
	for err == nil {
		if err = unix.Fallocate(int(f.Fd()), 0, offset, n); !errors.Is(err, unix.EINTR) {
			break
		}
		err = nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = writeZeros(f, offset, n)
	}
	if err != nil {
		return &SpaceError{Path: f.Name(), Offset: offset, Bytes: n, Err: err}
	}
	return nil
}

// withinLimit returns EFBIG if a file of size bytes is beyond the process's
// limit (ulimit -f). Going there would raise SIGXFSZ, which ends a Go process.
func withinLimit(size int64) error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && uint64(size) > limit.Cur {
		return unix.EFBIG
	}
	return nil
}

// zeros is only read; as memory that nobody ever stored to it takes no pages.
var zeros [1 << 20]byte

// writeZeros writes n zero bytes.
func writeZeros(f *os.File, offset, n int64) error {
	for n > 0 {
		wrote, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], offset)
		if err != nil {
			return err
		}
		offset, n = offset+int64(wrote), n-int64(wrote)
	}
	return nil
}

// cache brings [offset, offset+n), which was allocated and never written, into
// the page cache by writing it once: in large folios, 0.4 µs a page of 4 KiB on
// ext4, where making it present through a mapping does it page by page, in 3 µs.
// It is advice. On tmpfs the allocation has done it.
func cache(f *os.File, offset, n int64) {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type != unix.TMPFS_MAGIC {
		_ = writeZeros(f, offset, n) // the space is there already
	}
}

// populate makes the pages of mem present and writable ahead of their use, in
// one go: 0.7 µs a page instead of 1 to 10 at the first store. It is advice: on
// a kernel before 5.14, which does not know it, the first store pays.
func populate(mem []byte) {
	if len(mem) > 0 {
		_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	}
}

var pageSize = int64(os.Getpagesize())

func pageDown(n int64) int64 { return n &^ (pageSize - 1) }
func pageUp(n int64) int64   { return pageDown(n + pageSize - 1) }
