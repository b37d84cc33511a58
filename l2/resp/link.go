package resp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
)

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// writePiece is what one write deadline covers: a large value is slow, a
	// store that takes none of it is stuck.
	writePiece = 1 << 20
)

// link is the way to the nodes of a store. It dials, bounds the wait for every
// byte, and keeps off a node that is down: what wants to go there fails at once
// until a probe had an answer.
type link struct {
	opt *Options
	log atomic.Pointer[slog.Logger]
	clk clock.Clock // for the back-off; the network's time is the machine's
	ctx context.Context
	end context.CancelFunc

	probes sync.WaitGroup

	mu     sync.Mutex         // guards all below
	down   map[string]*outage // by address
	conns  map[*conn]struct{} // open ones
	closed bool
}

// outage is one node's time of being down.
type outage struct {
	err     error
	since   int64
	backoff time.Duration
	cancel  func() bool // of the timer of the next probe
}

// downError is what a request to a node that is down fails with.
type downError struct {
	node string
	err  error
}

func (e *downError) Error() string        { return e.node + " is down: " + e.err.Error() }
func (e *downError) Is(target error) bool { return target == l2.ErrReported }

func newLink(opt *Options, env l2.Env) *link {
	l := &link{opt: opt, clk: env.Clock, down: map[string]*outage{}, conns: map[*conn]struct{}{}}
	l.speak(nil)
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// speak makes log the place of what happens from now on: before, it is Open's
// error. nil discards.
func (l *link) speak(log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l.log.Store(log)
}

// check returns why a node is not to be used, nil if it is.
func (l *link) check(addr string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	if o := l.down[addr]; o != nil {
		return &downError{addr, o.err}
	}
	return nil
}

// trouble returns why a node is not used, of one of them; nil if all are.
func (l *link) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, o := range l.down {
		return &downError{addr, o.err}
	}
	return nil
}

// dial connects to a node for the client library.
func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := l.check(addr); err != nil {
		return nil, err
	}
	c, err := l.connect(ctx, network, addr, false)
	if err != nil && ctx.Err() == nil {
		l.fail(addr, err)
		return nil, &downError{addr, err}
	}
	return c, err
}

// connect connects to a node, up or down.
func (l *link) connect(ctx context.Context, network, addr string, probe bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opt.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, link: l, addr: addr, probe: probe}
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.conns[c] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	if !l.opt.TLS {
		return c, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err == nil {
		secure := tls.Client(c, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12})
		if err = secure.HandshakeContext(ctx); err == nil {
			return secure, nil
		}
	}
	return nil, errors.Join(err, c.Close())
}

// fail notes that a node is down, says so once, and starts to probe it.
func (l *link) fail(addr string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.down[addr] != nil {
		return
	}
	o := &outage{err: err, since: l.clk.Now(), backoff: firstBackoff}
	l.down[addr] = o
	l.log.Load().Warn("L2 store is down", "adapter", l.opt.Name, "node", addr, "error", err)
	l.schedule(addr, o)
}

// schedule starts the timer of the next probe; the caller holds mu.
func (l *link) schedule(addr string, o *outage) {
	o.cancel = l.clk.AfterFunc(o.backoff, func() {
		l.mu.Lock()
		closed := l.closed
		if !closed {
			l.probes.Add(1)
		}
		l.mu.Unlock()
		if !closed {
			l.probe(addr, o)
			l.probes.Done()
		}
	})
	o.backoff = min(2*o.backoff, maxBackoff)
}

func (l *link) probe(addr string, o *outage) {
	err := l.ping(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
	case err != nil:
		o.err = err
		l.schedule(addr, o)
	default:
		delete(l.down, addr)
		l.log.Load().Info("L2 store is back", "adapter", l.opt.Name, "node", addr,
			"after", time.Duration(l.clk.Now()-o.since).Round(time.Millisecond))
	}
}

// ping asks a node for a sign of life. An error is one too ("NOAUTH", from a
// node that wants a password first), but not that it is still loading.
func (l *link) ping(addr string) error {
	c, err := l.connect(l.ctx, "tcp", addr, true)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReaderSize(c, 512).ReadString('\n')
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(answer, "-LOADING"), strings.HasPrefix(answer, "-BUSY"):
		return errors.New(strings.TrimSpace(answer[1:]))
	case answer[0] != '+' && answer[0] != '-':
		return fmt.Errorf("%.32q is no answer to PING", answer)
	}
	return nil
}

// close ends every wait for the network, and the probes.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	for _, o := range l.down {
		o.cancel()
	}
	open := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		open = append(open, c)
	}
	l.mu.Unlock()
	l.end()
	for _, c := range open {
		_ = c.Close() // what it carried is given up
	}
	l.probes.Wait()
}

// conn is a connection that waits for no byte longer than the request timeout.
type conn struct {
	net.Conn
	link  *link
	addr  string
	probe bool // goes to a node that is down
}

// SyscallConn lets the client library see whether the other end has gone.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sys, ok := c.Conn.(syscall.Conn); ok {
		return sys.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// deadline is the end of a wait that starts now, in the machine's time.
func (c *conn) deadline() time.Time {
	return time.Unix(0, clock.Real{}.Wall()).Add(c.link.opt.RequestTimeout)
}

func (c *conn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.note(err)
	return n, err
}

// Write fails at once to a node that is down: a pool may have many connections
// to it, and each would wait for itself.
func (c *conn) Write(b []byte) (int, error) {
	if !c.probe {
		if err := c.link.check(c.addr); err != nil {
			return 0, err
		}
	}
	written := 0
	for {
		if err := c.SetWriteDeadline(c.deadline()); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(b[:min(len(b), writePiece)])
		written += n
		if b = b[n:]; err != nil || len(b) == 0 {
			c.note(err)
			return written, err
		}
	}
}

// note takes a node that is stuck for down. A connection that breaks says
// nothing yet: the next dial will.
func (c *conn) note(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.link.fail(c.addr, fmt.Errorf("no progress for %v: %w", c.link.opt.RequestTimeout, err))
	}
}

func (c *conn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}
