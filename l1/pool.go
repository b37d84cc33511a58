package l1

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/lmcache/lmcache-go/mmapio"
)

// Pool backs objects with memory that other processes map by its name, so that
// they read and write objects in place.
//
// All of it is allocated when it is made: a page that the file system cannot give
// later would kill whoever touches it, which may be a client.
type Pool struct {
	name string
	size int64
	mem  *mmapio.Shared
}

// PoolDir is where pools are.
const PoolDir = "/dev/shm"

// PoolInUseError reports that a pool of that name belongs to somebody.
type PoolInUseError struct {
	Path string
	PIDs []int // processes that have it mapped; none if they cannot be told
}

func (e *PoolInUseError) Error() string {
	if len(e.PIDs) == 0 {
		return e.Path + " belongs to a server that runs"
	}
	pids := strings.Trim(fmt.Sprint(e.PIDs), "[]")
	return fmt.Sprintf("%s is in use by process %s (remove it by hand if that is no server)", e.Path, pids)
}

// NewPool creates the pool PoolDir/name of size bytes. A pool that its server has
// left behind is replaced, which replaced says; one that is in use is a
// *PoolInUseError, and too little room a *mmapio.SpaceError. The caller must
// Close it, which a tier that it backs does.
func NewPool(name string, size int64) (p *Pool, replaced bool, err error) {
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return nil, false, fmt.Errorf("%q is no name for shared memory", name)
	}
	path := filepath.Join(PoolDir, name)
	mem, err := mmapio.CreateShared(PoolDir, name, size, 0)
	if errors.Is(err, fs.ErrExist) {
		if err := removeOrphan(path); err != nil {
			return nil, false, err
		}
		replaced = true
		mem, err = mmapio.CreateShared(PoolDir, name, size, 0)
	}
	if err != nil {
		return nil, replaced, err
	}
	if err := mem.AllocateAll(); err != nil {
		return nil, replaced, errors.Join(err, mem.Remove(), mem.Close())
	}
	return &Pool{name, size, mem}, replaced, nil
}

// removeOrphan removes the file of a pool that nobody uses any more.
func removeOrphan(path string) error {
	switch pids, err := mmapio.RemoveOrphan(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, mmapio.ErrInUse), err == nil && len(pids) > 0:
		return &PoolInUseError{path, pids}
	default:
		return err
	}
}

// Name returns the name below PoolDir.
func (p *Pool) Name() string { return p.name }

// Size returns the bytes of the pool.
func (p *Pool) Size() int64 { return p.size }

// View returns the object's own bytes.
func (p *Pool) View(offset, n int64) []byte { return p.mem.Bytes()[offset : offset+n : offset+n] }

// Close removes the pool's name and unmaps it. Others keep what they have mapped.
// It may be called twice.
func (p *Pool) Close() error { return errors.Join(p.mem.Remove(), p.mem.Close()) }
