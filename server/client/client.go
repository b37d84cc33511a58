package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

// DefaultTimeout is how long LMCache's own benchmark waits for an answer.
const DefaultTimeout = 10 * time.Second

// ErrReply says that an answer was none to the request.
var ErrReply = errors.New("wrong reply")

// TimeoutError says that a request was not answered in time. A server answers no
// request that it refuses, so this is also how a refusal looks.
type TimeoutError struct {
	Op   wire.Op
	Wait time.Duration
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("%s: no answer in %v", e.Op, e.Wait) }

// Timeout reports true, as errors of package net do.
func (e *TimeoutError) Timeout() bool { return true }

// Options configures Dial. The zero value is good.
type Options struct {
	Timeout time.Duration // for each answer; DefaultTimeout if zero
	// Observe, if set, is told of each request how long it took, and its error. It
	// is called by whoever made the request.
	Observe func(op wire.Op, took time.Duration, err error)
	Socket  zmtp.Options
}

// Client is one connection to a server. It is safe for concurrent use: requests
// of several goroutines travel together, and answers are matched by number, in
// whatever order they come. When the connection is lost every request fails,
// now and later; another Client is dialled then.
type Client struct {
	opt    Options // with defaults; immutable
	dealer *zmtp.Dealer
	stop   context.CancelFunc // ends receive
	ended  chan struct{}      // closed when receive has returned

	sending sync.Mutex // taken before mu; held while a request is sent, so that they go out by number
	encoder wire.Encoder
	uid     uint64

	mu      sync.Mutex
	pending map[uint64]*call
	broken  error // why no request can be made any more
}

// call is a request that waits for its answer.
type call struct {
	op     wire.Op
	decode func(*wire.Reply) error // runs on receive's goroutine
	done   chan error              // holds one
}

// Dial connects to the server at an address such as tcp://localhost:5555. The
// caller must Close the Client.
func Dial(ctx context.Context, endpoint string, o Options) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	dealer, err := zmtp.Dial(ctx, endpoint, o.Socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return newClient(dealer, o), nil
}

func newClient(dealer *zmtp.Dealer, o Options) *Client {
	ctx, stop := context.WithCancel(context.Background())
	c := &Client{opt: o, dealer: dealer, stop: stop, ended: make(chan struct{}), pending: map[uint64]*call{}}
	go c.receive(ctx)
	return c
}

// Close ends the connection; requests that wait fail. It may be called twice.
func (c *Client) Close() error {
	c.stop()
	err := c.dealer.Close()
	<-c.ended
	if errors.Is(err, zmtp.ErrClosed) {
		return nil
	}
	return err
}

// receive hands answers to those who wait for them, until the connection ends.
func (c *Client) receive(ctx context.Context) {
	defer close(c.ended)
	for {
		frames, err := c.dealer.Recv(ctx)
		if err != nil {
			c.fail(err)
			return
		}
		reply, err := wire.ParseReply(frames)
		if err != nil {
			continue // answers nothing that we asked; who waits times out
		}
		c.mu.Lock()
		waiting := c.pending[reply.UID]
		delete(c.pending, reply.UID)
		c.mu.Unlock()
		if waiting != nil {
			waiting.done <- waiting.take(&reply)
		}
	}
}

// take decodes the answer to w.
func (w *call) take(reply *wire.Reply) error {
	if op, err := wire.ParseOp(reply.Op); err != nil || op != w.op {
		return fmt.Errorf("%s: %w: it is for operation %x", w.op, ErrReply, reply.Op)
	}
	if err := w.decode(reply); err != nil {
		return fmt.Errorf("%s: %w: %w", w.op, ErrReply, err)
	}
	return nil
}

// Err says why no request can be made any more, nil if they can.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// fail ends every request with err, also those to come.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = fmt.Errorf("connection lost: %w", err)
	for uid, w := range c.pending {
		delete(c.pending, uid)
		w.done <- fmt.Errorf("%s: %w", w.op, c.broken)
	}
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan error, 1)} }}

// do makes a request and waits for its answer, no longer than extra beyond the
// timeout. When it returns decode does not run any more.
func (c *Client) do(ctx context.Context, op wire.Op, extra time.Duration, encode func(*wire.Encoder, uint64) [][]byte, decode func(*wire.Reply) error) error {
	if c.opt.Observe == nil {
		return c.wait(ctx, op, extra, encode, decode)
	}
	start := time.Now()
	err := c.wait(ctx, op, extra, encode, decode)
	c.opt.Observe(op, time.Since(start), err)
	return err
}

func (c *Client) wait(ctx context.Context, op wire.Op, extra time.Duration, encode func(*wire.Encoder, uint64) [][]byte, decode func(*wire.Reply) error) error {
	w := calls.Get().(*call)
	defer calls.Put(w) // done is empty: its value is always taken
	w.op, w.decode = op, decode
	uid, err := c.send(w, encode)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	timer := time.NewTimer(c.opt.Timeout + extra)
	defer timer.Stop()
	select {
	case err := <-w.done:
		return err
	case <-timer.C:
		err = &TimeoutError{op, c.opt.Timeout + extra}
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", op, ctx.Err())
	}
	c.mu.Lock()
	_, waiting := c.pending[uid]
	delete(c.pending, uid)
	c.mu.Unlock()
	if !waiting {
		return <-w.done // it is being decoded, and came in time
	}
	return err
}

// send registers w and sends its request.
func (c *Client) send(w *call, encode func(*wire.Encoder, uint64) [][]byte) (uid uint64, err error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	uid = c.uid
	c.mu.Lock()
	if err = c.broken; err == nil {
		c.pending[uid] = w
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	c.uid++
	// Not under mu: a server that waits for us to read may keep this waiting.
	if err = c.dealer.Send(encode(&c.encoder, uid)...); err == nil {
		return uid, nil
	}
	c.mu.Lock()
	_, waiting := c.pending[uid]
	delete(c.pending, uid)
	c.mu.Unlock()
	if !waiting {
		<-w.done // fail was faster
	}
	return 0, err
}
