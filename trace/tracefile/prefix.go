package tracefile

import (
	"errors"
	"io"
	"os"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// Prefix is what was whole of a trace file when OpenPrefix looked: a trace of its
// own, that every reader takes. It does not change, whatever the recorder goes on
// writing. It is safe for concurrent use.
type Prefix struct {
	file *os.File
	head []byte // what a recorder rewrites, as it was before the rest was looked at
	size int64
}

// volatileHead is up to where a recorder rewrites its file: the counters of a
// native header, FORMAT.md section 2. Upstream's format has nothing such.
const volatileHead = 12288

// OpenPrefix opens the trace at path, which may be in the middle of being
// recorded. Calls that the recorder has not yet moved to the file are not in it.
// It reads the file once, to find the end of the last whole record. The caller
// must Close the prefix.
func OpenPrefix(path string) (_ *Prefix, err error) {
	p := &Prefix{}
	if p.file, err = os.Open(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.file.Close()
		}
	}()
	native, err := p.readHead()
	if err != nil {
		return nil, about(path, err)
	}
	if !native {
		return p, p.findEnd(path)
	}
	r, err := trace.OpenNative(path, nil)
	if err != nil {
		return nil, about(path, err)
	}
	defer r.Close()
	for r.Next() {
	}
	if err := r.Err(); err != nil {
		return nil, about(path, err)
	}
	if p.size = r.Offset(); !r.Sealed() {
		return p, nil
	}
	// The footer is part of it, and so are the counters that tell of it.
	if _, err = p.readHead(); err != nil {
		return nil, about(path, err)
	}
	info, err := p.file.Stat()
	if err != nil {
		return nil, err
	}
	p.size = info.Size()
	return p, nil
}

func (p *Prefix) readHead() (native bool, err error) {
	p.head = make([]byte, volatileHead)
	n, err := p.file.ReadAt(p.head, 0)
	if p.head = p.head[:n]; err != nil && err != io.EOF {
		return false, err
	}
	if native = trace.ResemblesNative(p.head); !native {
		p.head = nil
	}
	return native, nil
}

// findEnd is the rest of OpenPrefix for a file of upstream's format.
func (p *Prefix) findEnd(path string) error {
	r, err := lct.Open(path, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	p.size = r.Offset()
	for r.Next() {
		p.size = r.Offset()
	}
	return r.Err()
}

// Size returns the number of bytes.
func (p *Prefix) Size() int64 { return p.size }

// ReadAt reads from the prefix.
func (p *Prefix) ReadAt(b []byte, off int64) (n int, err error) {
	switch {
	case off < 0:
		return 0, errors.New("negative offset")
	case off >= p.size:
		return 0, io.EOF
	}
	if left := p.size - off; int64(len(b)) > left {
		b, err = b[:left], io.EOF
	}
	if off < int64(len(p.head)) {
		n = copy(b, p.head[off:])
	}
	if n == len(b) {
		return n, err
	}
	m, readErr := p.file.ReadAt(b[n:], off+int64(n))
	if readErr == io.EOF {
		readErr = io.ErrUnexpectedEOF // somebody cut the file
	}
	if readErr != nil {
		err = readErr
	}
	return n + m, err
}

// Close releases the file.
func (p *Prefix) Close() error { return p.file.Close() }
