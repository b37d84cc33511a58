package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/server/wire"
)

// ErrNoPool says that a server has no shared memory to offer.
var ErrNoPool = errors.New("the server has no shared-memory pool (--shm-name, --supported-transfer-mode engine_driven)")

// Pool is a server's shared memory, in which objects are read and written.
type Pool struct{ memory *mmapio.Attached }

// OpenPool maps the pool that a registration named. The caller must Close it.
func OpenPool(p wire.Pool) (*Pool, error) {
	name := strings.TrimLeft(p.Name, "/")
	switch {
	case name == "" || p.Size == 0:
		return nil, ErrNoPool
	case strings.Contains(name, "/") || name == "." || name == "..":
		return nil, fmt.Errorf("pool %q: %w: not a name", p.Name, ErrReply)
	}
	memory, err := mmapio.Attach("/dev/shm/"+name, p.Size)
	if err != nil {
		return nil, err
	}
	return &Pool{memory}, nil
}

// Slot returns the memory of an object of length bytes.
func (p *Pool) Slot(s *wire.Slot, length int) ([]byte, error) {
	mem := p.memory.Bytes()
	switch {
	case s.Offset < 0 || s.Length < 0 || s.Offset > int64(len(mem)) || s.Length > int64(len(mem))-s.Offset:
		return nil, fmt.Errorf("slot at offset %d, %d bytes: %w: the pool has %d bytes", s.Offset, s.Length, ErrReply, len(mem))
	case s.Length != int64(length):
		return nil, fmt.Errorf("slot at offset %d: %w: it has %d bytes, the object %d", s.Offset, ErrReply, s.Length, length)
	}
	return mem[s.Offset : s.Offset+s.Length : s.Offset+s.Length], nil
}

// Close unmaps the pool. It may be called twice.
func (p *Pool) Close() error { return p.memory.Close() }
