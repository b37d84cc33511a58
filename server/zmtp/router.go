package zmtp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Handler takes a message of a peer. It is called on the goroutine that reads
// the peer's connection: while it runs nothing more is read from that peer. The
// frames are valid until it returns; there is at least one.
type Handler func(p *Peer, frames [][]byte)

// Router is a ROUTER socket: it takes connections of many DEALERs, and answers
// each. It is safe for concurrent use.
type Router struct {
	o  Options
	ln net.Listener

	mu     sync.Mutex
	peers  map[*Peer]struct{}
	lastID uint64
	closed bool
	served bool

	readers sync.WaitGroup
	done    chan struct{} // closed by the first Close when all have ended

	stats routerCounters
}

type routerCounters struct {
	accepted, refused, handshakes, malformed, slow atomic.Uint64
	received, sent                                 atomic.Uint64
}

// RouterStats counts since Listen.
type RouterStats struct {
	Open       int    // connections now, with those that have not yet said what they are
	Accepted   uint64 // connections that became peers
	Refused    uint64 // connections above MaxPeers
	Handshakes uint64 // connections that did not become peers: no ZMTP, or too late
	Malformed  uint64 // peers disconnected for what they sent
	Slow       uint64 // peers disconnected because they did not read
	Received   uint64 // messages
	Sent       uint64 // messages
}

// Listen opens a Router at an address such as tcp://localhost:5555; port 0 is
// any. The caller must Close it.
func Listen(endpoint string, o Options) (*Router, error) {
	addr, err := hostPort(endpoint)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newRouter(ln, o), nil
}

func newRouter(ln net.Listener, o Options) *Router {
	return &Router{o: o.withDefaults(), ln: ln, peers: map[*Peer]struct{}{}, done: make(chan struct{})}
}

// Addr returns host:port of the socket.
func (r *Router) Addr() string { return r.ln.Addr().String() }

// Serve takes connections until Close, and then returns nil. It may be called
// once.
func (r *Router) Serve(h Handler) error {
	r.mu.Lock()
	if r.served || r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.served = true
	r.mu.Unlock()
	for {
		nc, err := r.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ECONNABORTED) {
				return err
			}
			r.o.Log.Warn("accept", "error", err)
			time.Sleep(20 * time.Millisecond) // somebody has to close a file first
			continue
		}
		p := r.admit(nc)
		if p == nil {
			_ = nc.Close()
			continue
		}
		go r.serve(p, h)
	}
}

// admit makes the connection a peer, unless there are too many.
func (r *Router) admit(nc net.Conn) *Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.peers) >= r.o.MaxPeers {
		r.stats.refused.Add(1)
		return nil
	}
	r.lastID++
	p := &Peer{id: r.lastID, router: r, remote: nc.RemoteAddr(), out: newOutbox(nc, r.o.SendQueue, r.o.SendTimeout)}
	r.peers[p] = struct{}{}
	r.readers.Add(1)
	return p
}

// serve is the life of a connection.
func (r *Router) serve(p *Peer, h Handler) {
	defer r.readers.Done()
	defer func() {
		p.out.close(0)
		r.mu.Lock()
		delete(r.peers, p)
		r.mu.Unlock()
	}()
	in := newScanner(p.out, r.o)
	if err := handshake(p.out.nc, in, r.o.HandshakeTimeout, "ROUTER", "DEALER", "REQ", "ROUTER"); err != nil {
		r.o.Log.Log(context.Background(), firstWarns(r.stats.handshakes.Add(1)), "connection refused", "remote", p.remote, "error", err)
		return
	}
	r.stats.accepted.Add(1)
	if r.o.Gone != nil {
		defer r.o.Gone(p)
	}
	for {
		frames, err := in.message()
		if err != nil {
			r.ended(p, err)
			return
		}
		r.stats.received.Add(1)
		h(p, frames)
	}
}

// ended accounts for the end of a peer whose reader got err.
func (r *Router) ended(p *Peer, err error) {
	var malformed *ProtocolError
	level := slog.LevelDebug
	switch cause := p.out.cause(); {
	case errors.Is(cause, ErrSlow):
		level = firstWarns(r.stats.slow.Add(1))
		err = cause
	case cause != nil: // we closed it, or it went while we wrote
		err = cause
	case errors.As(err, &malformed):
		level = firstWarns(r.stats.malformed.Add(1))
	case errors.Is(err, io.EOF):
		return
	}
	r.o.Log.Log(context.Background(), level, "peer disconnected", "peer", p.id, "remote", p.remote, "error", err)
}

// firstWarns returns the level for the nth line of a kind: who does wrong again
// and again fills counters, not the log.
func firstWarns(n uint64) slog.Level {
	if n == 1 {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Stats returns the counters.
func (r *Router) Stats() RouterStats {
	r.mu.Lock()
	open := len(r.peers)
	r.mu.Unlock()
	return RouterStats{
		Open:       open,
		Accepted:   r.stats.accepted.Load(),
		Refused:    r.stats.refused.Load(),
		Handshakes: r.stats.handshakes.Load(),
		Malformed:  r.stats.malformed.Load(),
		Slow:       r.stats.slow.Load(),
		Received:   r.stats.received.Load(),
		Sent:       r.stats.sent.Load(),
	}
}

// Close disconnects everybody, after Options.Linger at the latest, and returns
// when no handler runs any more.
func (r *Router) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		<-r.done
		return nil
	}
	r.closed = true
	err := r.ln.Close()
	var closing sync.WaitGroup
	for p := range r.peers {
		closing.Go(func() { p.out.close(r.o.Linger) })
	}
	r.mu.Unlock()
	closing.Wait()
	r.readers.Wait()
	close(r.done)
	return err
}

// Peer is one connection of a Router. Its methods are safe for concurrent use.
type Peer struct {
	// State is the handler's own; nobody else touches it.
	State any

	id     uint64
	router *Router
	remote net.Addr
	out    *outbox
}

// ID returns the number of the peer, from 1, which no other peer of its Router
// has had.
func (p *Peer) ID() uint64 { return p.id }

// Remote returns the peer's address.
func (p *Peer) Remote() net.Addr { return p.remote }

// Send sends a message of one frame or more, which it copies. It does not wait
// for the peer: one that has not read Options.SendQueue bytes is disconnected,
// and the error is ErrSlow. A peer that is gone is an error too.
func (p *Peer) Send(frames ...[]byte) error {
	if err := p.Answer(frames...); err != nil {
		return err
	}
	p.out.flush()
	return nil
}

// Answer is Send for use within the handler, on its goroutine: the message is
// written, with the other answers since, before more is read from the connection.
func (p *Peer) Answer(frames ...[]byte) error {
	if err := p.out.put(frames, false); err != nil {
		if err == ErrSlow {
			p.out.end(err)
		}
		return err
	}
	p.router.stats.sent.Add(1)
	return nil
}

// Flush writes answers now, for a handler that is going to wait.
func (p *Peer) Flush() { p.out.flush() }

// Close disconnects the peer.
func (p *Peer) Close() { p.out.end(ErrClosed) }

func newScanner(out *outbox, o Options) *scanner {
	return &scanner{
		src:       out.nc,
		maxSize:   o.MaxMessage,
		maxFrames: o.MaxFrames,
		idle:      out.flush,
		command:   func(body []byte) error { return answerCommand(out, body) },
	}
}

// answerCommand takes a command that comes after the handshake. Those that it
// does not know are not for this kind of socket.
func answerCommand(out *outbox, body []byte) error {
	switch {
	case len(body) >= len(pingCommand)+2 && string(body[:len(pingCommand)]) == pingCommand:
		context := body[len(pingCommand)+2:] // after the time to live
		if len(context) > 16 {
			return &ProtocolError{"PING with a context of more than 16 bytes"}
		}
		return out.putCommand(append([]byte(pongCommand), context...))
	case len(body) >= len(errorCommand) && string(body[:len(errorCommand)]) == errorCommand:
		_, err := parseReady(body)
		return err
	}
	return nil
}
