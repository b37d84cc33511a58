package zmtp

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// writeChunk is how much is written under one deadline, so that a peer that
// reads slowly but reads is not given up.
const writeChunk = 256 << 10

// flushAt is how much is gathered for one write at most.
const flushAt = 64 << 10

// outbox is what waits to be written to a connection. Whoever sends writes,
// without waiting, what the socket takes at once; a rest is left to a goroutine,
// which lives until nothing waits.
type outbox struct {
	nc      net.Conn
	direct  *directWriter // nil if nc has no descriptor
	limit   int
	timeout time.Duration

	mu     sync.Mutex
	change sync.Cond // busy, waiting or err has changed
	buf    []byte    // encoded messages that nobody writes yet
	spare  []byte    // the buffer before, for reuse
	// waiting counts the bytes that were put and that the kernel does not have.
	waiting int
	busy    bool      // somebody writes; only they touch the socket
	until   time.Time // the deadline of a Close; zero before
	err     error     // why nothing more is written
}

func newOutbox(nc net.Conn, limit int, timeout time.Duration) *outbox {
	o := &outbox{nc: nc, limit: limit, timeout: timeout}
	o.change.L = &o.mu
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			o.direct = newDirectWriter(raw)
		}
	}
	return o
}

// put takes a message of one frame or more, which it copies. Without wait it
// returns ErrSlow instead of waiting for room.
func (o *outbox) put(frames [][]byte, wait bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	need := messageSize(frames)
	for o.err == nil && o.waiting > 0 && o.waiting+need > o.limit {
		if !wait {
			return ErrSlow
		}
		o.writeLocked()
		if o.busy {
			o.change.Wait()
		}
	}
	if o.err != nil {
		return o.err
	}
	before := len(o.buf)
	o.buf = appendMessage(o.buf, frames)
	o.waiting += len(o.buf) - before
	if len(o.buf) >= flushAt { // more would gain nothing but memory
		o.writeLocked()
	}
	return nil
}

// putCommand takes a command.
func (o *outbox) putCommand(body []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && o.waiting > o.limit {
		o.endLocked(ErrSlow)
	}
	if o.err != nil {
		return o.err
	}
	before := len(o.buf)
	o.buf = appendCommand(o.buf, body)
	o.waiting += len(o.buf) - before
	return nil
}

// flush writes what waits, or leaves it to who writes already. It does not wait
// for the peer.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writeLocked()
}

func (o *outbox) writeLocked() {
	if o.busy || len(o.buf) == 0 || o.err != nil {
		return
	}
	o.busy = true
	b := o.take()
	n := 0
	if o.direct != nil {
		var err error
		o.mu.Unlock()
		n, err = o.direct.write(b)
		o.mu.Lock()
		o.wrote(n, err)
	}
	// What others put meanwhile goes with the rest: they come faster than one
	// writes, and the caller has things to do.
	if o.err == nil && (n < len(b) || len(o.buf) > 0) {
		go o.drain(b, n)
		return
	}
	o.done(b)
}

// drain writes b from off, then whatever is put until nothing waits.
func (o *outbox) drain(b []byte, off int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil {
		if off == len(b) {
			o.spare, b, off = b, nil, 0
			if len(o.buf) == 0 {
				break
			}
			b = o.take()
		}
		if o.until.IsZero() {
			_ = o.nc.SetWriteDeadline(time.Now().Add(o.timeout)) // fails if closed, as the write then does
		}
		chunk := b[off:min(off+writeChunk, len(b))]
		o.mu.Unlock()
		n, err := o.nc.Write(chunk)
		o.mu.Lock()
		off += n
		o.wrote(n, err)
	}
	if o.err == nil && o.until.IsZero() {
		_ = o.nc.SetWriteDeadline(time.Time{})
	}
	o.done(b)
}

func (o *outbox) take() []byte {
	b := o.buf
	o.buf, o.spare = o.spare[:0], nil
	return b
}

// wrote accounts n bytes written, and ends the outbox if err says so. The
// connection is closed then, so that its reader ends too.
func (o *outbox) wrote(n int, err error) {
	o.waiting -= n
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			err = ErrSlow
		}
		o.endLocked(err)
	}
	o.change.Broadcast()
}

func (o *outbox) done(b []byte) {
	o.busy = false
	if cap(b) > 0 && cap(b) <= bufferKept {
		o.spare = b
	} else if cap(o.spare) > bufferKept {
		o.spare = nil
	}
	o.change.Broadcast()
}

func (o *outbox) endLocked(err error) {
	if o.err == nil {
		o.err = err
		o.buf, o.spare = nil, nil
		_ = o.nc.Close() // nothing waits for its result
		o.change.Broadcast()
	}
}

// end closes the connection; what waits is lost.
func (o *outbox) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked(err)
}

// close closes the connection once what waits is written, or linger is over, and
// returns when nobody writes any more.
func (o *outbox) close(linger time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until.IsZero() {
		o.until = time.Now().Add(linger)
		_ = o.nc.SetWriteDeadline(o.until)
	}
	for o.err == nil && o.waiting > 0 {
		o.writeLocked()
		if o.busy {
			o.change.Wait()
		}
	}
	o.endLocked(ErrClosed)
	for o.busy {
		o.change.Wait()
	}
}

// cause returns why the outbox has ended, or nil.
func (o *outbox) cause() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
