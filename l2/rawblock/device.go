package rawblock

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// device is an open device or file. Its owner alone uses it: it is locked.
type device struct {
	fd       int
	align    int64
	size     int64
	direct   bool // O_DIRECT is set
	noDirect atomic.Bool
}

// openDevice opens path for c and finds out its size. A file is made, and grows
// to the capacity.
func openDevice(c *Config) (*device, error) {
	d := &device{align: c.BlockAlign}
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if c.CapacityBytes > 0 {
		flags |= unix.O_CREAT
	}
	d.direct = c.Direct && c.BlockAlign >= 512
	open := func(extra int) error {
		return again(func() (err error) { d.fd, err = unix.Open(c.DevicePath, flags|extra, 0o666); return err })
	}
	err := errors.New("not tried")
	if d.direct {
		err = open(unix.O_DIRECT)
	}
	if err != nil {
		d.direct = false
		err = open(0)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.DevicePath, err)
	}
	if err := d.measure(c); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", c.DevicePath, err), unix.Close(d.fd))
	}
	return d, nil
}

func (d *device) measure(c *Config) error {
	if err := again(func() error { return unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return fmt.Errorf("another process uses it: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if d.size = st.Size; d.size < c.CapacityBytes {
			if err := again(func() error { return unix.Ftruncate(d.fd, c.CapacityBytes) }); err != nil {
				return err
			}
			d.size = c.CapacityBytes
		}
	case unix.S_IFBLK:
		end, err := unix.Seek(d.fd, 0, io.SeekEnd)
		if err != nil {
			return err
		}
		d.size = end
	default:
		return errors.New("neither a block device nor a file")
	}
	if c.CapacityBytes == 0 {
		c.CapacityBytes = d.size
	}
	if d.size < c.CapacityBytes {
		return fmt.Errorf("capacity_bytes is %d, it has %d", c.CapacityBytes, d.size)
	}
	if c.CapacityBytes-c.MetaBytes < c.SlotBytes {
		return fmt.Errorf("its %d bytes leave no space for a slot", c.CapacityBytes)
	}
	return nil
}

func (d *device) sync() error {
	return again(func() error { return unix.Fdatasync(d.fd) })
}

func (d *device) close() error { return unix.Close(d.fd) }

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// vector reads or writes parts that follow each other on the device.
func (d *device) vector(parts [][]byte, off int64, call func(int, [][]byte, int64) (int, error)) error {
	for len(parts) > 0 {
		if len(parts[0]) == 0 {
			parts = parts[1:]
			continue
		}
		var n int
		err := again(func() (err error) { n, err = call(d.fd, parts, off); return err })
		if err == unix.EINVAL && d.direct && !d.noDirect.Load() {
			// The device wants larger blocks than block_align, or has no direct I/O after all.
			d.noDirect.Store(true)
			flags, err := unix.FcntlInt(uintptr(d.fd), unix.F_GETFL, 0)
			if err != nil {
				return err
			}
			if _, err := unix.FcntlInt(uintptr(d.fd), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		off += int64(n)
		for n > 0 {
			m := min(n, len(parts[0]))
			n -= m
			if parts[0] = parts[0][m:]; len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
	}
	return nil
}

func (d *device) readv(off int64, parts ...[]byte) error  { return d.vector(parts, off, unix.Preadv) }
func (d *device) writev(off int64, parts ...[]byte) error { return d.vector(parts, off, unix.Pwritev) }

// roundUp returns n, up to whole blocks.
func (d *device) roundUp(n int64) int64 { return (n + d.align - 1) &^ (d.align - 1) }

// isAligned reports whether direct I/O can take b as it is.
func (d *device) isAligned(b []byte) bool {
	return !d.direct || len(b) == 0 || reflect.ValueOf(b).Pointer()%uintptr(min(max(d.align, 512), 4096)) == 0
}

// copyChunk is how much readAt and writeAt move at once.
const copyChunk = 1 << 20

// readAt fills b, wherever it is, from a block's start.
func (d *device) readAt(b []byte, off int64) error {
	return d.bounced(len(b), func(buf []byte, at, n int64) error {
		if err := d.readv(off+at, buf); err != nil {
			return err
		}
		copy(b[at:at+n], buf)
		return nil
	})
}

// writeAt writes b from a block's start, and zeros up to the end of its last.
func (d *device) writeAt(b []byte, off int64) error {
	return d.bounced(len(b), func(buf []byte, at, n int64) error {
		clear(buf[copy(buf, b[at:at+n]):])
		return d.writev(off+at, buf)
	})
}

func (d *device) bounced(size int, move func(buf []byte, at, n int64) error) error {
	whole := d.roundUp(min(int64(size), max(copyChunk, d.align)))
	if whole == 0 {
		return nil
	}
	buf, err := newBuffer(whole)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	for at := int64(0); at < int64(size); at += whole {
		n := min(int64(size)-at, whole)
		if err := move(buf[:d.roundUp(n)], at, n); err != nil {
			return err
		}
	}
	return nil
}

// newBuffer returns memory that direct I/O can take.
func newBuffer(size int64) ([]byte, error) {
	return unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

func unmap(b []byte) error { return unix.Munmap(b) }

// buffers lends buffers of one size, and keeps a bounded number for the next.
type buffers struct {
	size int64
	free chan []byte
}

func (b *buffers) get() ([]byte, error) {
	select {
	case buf := <-b.free:
		return buf, nil
	default:
		return newBuffer(b.size)
	}
}

func (b *buffers) put(buf []byte) {
	select {
	case b.free <- buf:
	default:
		_ = unix.Munmap(buf)
	}
}

func (b *buffers) close() {
	for {
		select {
		case buf := <-b.free:
			_ = unix.Munmap(buf)
		default:
			return
		}
	}
}
