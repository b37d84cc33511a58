package mmapio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process, or another part of this one, is writing
// the file.
var ErrInUse = errors.New("another recorder is writing this file")

// lock takes a lock on f that ends with the last descriptor and mapping of this
// opening of it, at the latest with the process. It does not wait: where others
// hold a lock that excludes this one it returns ErrInUse.
func lock(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}

// InUse reports whether an Appender, of this process or another, is writing the
// file at path.
func InUse(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	switch err = lock(f, unix.LOCK_SH); {
	case errors.Is(err, ErrInUse):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	return false, nil
}
