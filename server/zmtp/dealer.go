package zmtp

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Dealer is a DEALER socket with one connection. One goroutine may receive while
// others send. It does not connect again: a Dealer whose connection is gone is
// closed and another dialled.
type Dealer struct {
	o   Options
	nc  net.Conn
	out *outbox

	mu sync.Mutex // held by the receiver
	in *scanner
}

// Dial connects to the Router at an address such as tcp://localhost:5555. The
// caller must Close the Dealer.
func Dial(ctx context.Context, endpoint string, o Options) (*Dealer, error) {
	addr, err := hostPort(endpoint)
	if err != nil {
		return nil, err
	}
	nd := net.Dialer{KeepAliveConfig: keepAlive}
	nc, err := nd.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newDealer(ctx, nc, o)
}

// newDealer owns nc.
func newDealer(ctx context.Context, nc net.Conn, o Options) (*Dealer, error) {
	o = o.withDefaults()
	d := &Dealer{o: o, nc: nc, out: newOutbox(nc, o.SendQueue, o.SendTimeout)}
	d.in = newScanner(d.out, o)
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // the handshake fails then
	err := handshake(nc, d.in, o.HandshakeTimeout, "DEALER", "ROUTER", "REP", "DEALER")
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		d.out.close(0)
		return nil, err
	}
	return d, nil
}

// Send sends a message of one frame or more, which it copies. It waits only when
// Options.SendQueue bytes wait already.
func (d *Dealer) Send(frames ...[]byte) error {
	if err := d.Post(frames...); err != nil {
		return err
	}
	d.out.flush()
	return nil
}

// Post is Send that writes later: with the next Send, before Recv waits, or when
// enough has come together.
func (d *Dealer) Post(frames ...[]byte) error { return d.out.put(frames, true) }

// Recv returns the frames of the next message, valid until the next call. While
// nobody is in it, heartbeats of the other side are not answered. When ctx ends
// its error is returned, and Recv may be called again.
func (d *Dealer) Recv(ctx context.Context) ([][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Done() != nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		stopped := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			_ = d.nc.SetReadDeadline(time.Unix(1, 0)) // in the past
			close(stopped)
		})
		defer func() {
			if !stop() { // it ran, or runs: the next call begins without a deadline
				<-stopped
				_ = d.nc.SetReadDeadline(time.Time{})
			}
		}()
	}
	frames, err := d.in.message()
	if err == nil {
		return frames, nil
	}
	if ctx.Err() != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return nil, ctx.Err()
		}
	}
	if cause := d.out.cause(); cause != nil {
		err = cause
	} else if errors.Is(err, io.EOF) {
		err = ErrClosed
	}
	return nil, err
}

// Close ends the connection, after Options.Linger at the latest. A Recv that
// waits returns.
func (d *Dealer) Close() error {
	d.out.close(d.o.Linger)
	return nil
}
