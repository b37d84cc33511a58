package zmtp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what came, on the reader or from elsewhere.
func echo(p *zmtp.Peer, frames [][]byte) { _ = p.Answer(frames...) }

// serve opens a Router that h serves, closed with the test.
func serve(t testing.TB, o zmtp.Options, h zmtp.Handler) *zmtp.Router {
	t.Helper()
	r, err := zmtp.Listen("tcp://127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := r.Serve(h); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		serving.Wait()
	})
	return r
}

func dial(t testing.TB, r *zmtp.Router, o zmtp.Options) *zmtp.Dealer {
	t.Helper()
	d, err := zmtp.Dial(t.Context(), "tcp://"+r.Addr(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// roundTrip sends the frames and wants them back.
func roundTrip(t *testing.T, d *zmtp.Dealer, frames ...[]byte) {
	t.Helper()
	if err := d.Send(frames...); err != nil {
		t.Fatal(err)
	}
	got, err := d.Recv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(frames) {
		t.Fatalf("got %d frames; want %d", len(got), len(frames))
	}
	for i := range frames {
		if !bytes.Equal(got[i], frames[i]) {
			t.Errorf("frame %d of %d bytes came back as %d other bytes", i, len(frames[i]), len(got[i]))
		}
	}
}

func TestRoundTrips(t *testing.T) {
	r := serve(t, zmtp.Options{}, echo)
	d := dial(t, r, zmtp.Options{})
	many := make([][]byte, 256)
	for i := range many {
		many[i] = []byte{byte(i)}
	}
	for name, frames := range map[string][][]byte{
		"one":                               {[]byte("x")},
		"empty":                             {{}},
		"empty in between":                  {[]byte("a"), {}, []byte("b")},
		"sizes":                             {make([]byte, 255), make([]byte, 256), make([]byte, 65536)},
		"many":                              many,
		"larger than a buffer and a socket": {bytes.Repeat([]byte("0123456789abcdef"), 1<<18), []byte("end")},
	} {
		t.Run(name, func(t *testing.T) { roundTrip(t, d, frames...) })
	}
	if s := r.Stats(); s.Received != 6 || s.Sent != 6 || s.Open != 1 || s.Accepted != 1 {
		t.Errorf("got %+v; want 6 messages each way of one peer", s)
	}
}

// TestManyPeers has clients come and go, and answers from other goroutines.
func TestManyPeers(t *testing.T) {
	var late sync.WaitGroup
	r := serve(t, zmtp.Options{}, func(p *zmtp.Peer, frames [][]byte) {
		own := make([][]byte, len(frames))
		for i := range frames {
			own[i] = bytes.Clone(frames[i])
		}
		late.Go(func() { _ = p.Send(own...) })
	})
	defer late.Wait()
	var clients sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range 200 {
		slots <- struct{}{}
		clients.Go(func() {
			defer func() { <-slots }()
			d, err := zmtp.Dial(t.Context(), r.Addr(), zmtp.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			const n = 20
			for j := range n {
				if err := d.Post(binary.AppendUvarint(nil, uint64(i)), binary.AppendUvarint(nil, uint64(j))); err != nil {
					t.Error(err)
				}
			}
			seen := map[string]bool{}
			for range n {
				got, err := d.Recv(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got[0], binary.AppendUvarint(nil, uint64(i))) || seen[string(got[1])] {
					t.Errorf("client %d got %x: another's, or twice", i, got)
				}
				seen[string(got[1])] = true
			}
		})
	}
	clients.Wait()
}

// raw is a TCP connection that says what it likes.
func raw(t *testing.T, r *zmtp.Router) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func greet(mechanism string) []byte {
	b := make([]byte, 64)
	b[0], b[9], b[10], b[11] = 0xff, 0x7f, 3, 1
	copy(b[12:], mechanism)
	return b
}

func ready(socketType string) []byte {
	body := append([]byte("\x05READY\x0bSocket-Type"), 0, 0, 0, byte(len(socketType)))
	body = append(body, socketType...)
	return append([]byte{4, byte(len(body))}, body...)
}

func TestBadPeers(t *testing.T) {
	hello := append(greet("NULL"), ready("DEALER")...)
	type counts struct{ Handshakes, Malformed uint64 }
	for name, c := range map[string]struct {
		says []byte
		want counts
	}{
		"HTTP":                      {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), counts{1, 0}},
		"ZMTP 2":                    {append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 2}, make([]byte, 60)...), counts{1, 0}},
		"PLAIN":                     {append(greet("PLAIN"), ready("DEALER")...), counts{1, 0}},
		"SUB":                       {append(greet("NULL"), ready("SUB")...), counts{1, 0}},
		"message before READY":      {append(greet("NULL"), 0, 1, 'x'), counts{1, 0}},
		"half a property":           {append(greet("NULL"), 4, 11, 5, 'R', 'E', 'A', 'D', 'Y', 11, 'S', 'o', 'c', 'k'), counts{1, 0}},
		"ERROR instead of READY":    {append(greet("NULL"), append([]byte{4, 9, 5}, "ERROR\x02no"...)...), counts{1, 0}},
		"reserved flag":             {append(hello[:len(hello):len(hello)], 0x08, 0), counts{0, 1}},
		"command of several frames": {append(hello[:len(hello):len(hello)], 0x05, 0), counts{0, 1}},
		"frame of 2^63 bytes":       {append(hello[:len(hello):len(hello)], 2, 0x80, 0, 0, 0, 0, 0, 0, 0), counts{0, 1}},
		"frame of 2^64-1 bytes":     {append(hello[:len(hello):len(hello)], 2, 255, 255, 255, 255, 255, 255, 255, 255), counts{0, 1}},
		"frame above the limit":     {append(hello[:len(hello):len(hello)], 2, 0, 0, 0, 0, 0, 16, 0, 0), counts{0, 1}},
		"frames without end":        {append(hello[:len(hello):len(hello)], bytes.Repeat([]byte{1, 0}, 300)...), counts{0, 1}},
		"large command":             {append(hello[:len(hello):len(hello)], 6, 0, 0, 0, 0, 0, 1, 0, 1), counts{0, 1}},
		"long context of PING":      {append(append(hello[:len(hello):len(hello)], 4, 24), "\x04PING\x00\x0001234567890123456"...), counts{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			handled := make(chan struct{}, 1)
			r := serve(t, zmtp.Options{MaxMessage: 1 << 20}, func(*zmtp.Peer, [][]byte) { handled <- struct{}{} })
			conn := raw(t, r)
			if _, err := conn.Write(c.says); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) { // the router hangs up
				t.Fatal(err)
			}
			_ = r.Close()
			s := r.Stats()
			if got := (counts{s.Handshakes, s.Malformed}); got != c.want {
				t.Errorf("got %+v; want %+v", got, c.want)
			}
			if len(handled) > 0 {
				t.Error("a message reached the handler")
			}
		})
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// TestAnnouncedSizeCostsNothing has peers announce frames that never come.
func TestAnnouncedSizeCostsNothing(t *testing.T) {
	r := serve(t, zmtp.Options{MaxMessage: 1 << 40}, echo)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 16 {
		conn := raw(t, r)
		says := append(append(greet("NULL"), ready("DEALER")...), 2, 0, 0, 0, 64, 0, 0, 0, 0) // 256 GiB
		says = append(says, make([]byte, 1000)...)
		if _, err := conn.Write(says); err != nil {
			t.Fatal(err)
		}
	}
	roundTrip(t, dial(t, r, zmtp.Options{}), []byte("others are served"))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("allocated %d bytes for 16 announced frames; want less than 8 MiB", got)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	for name, says := range map[string][]byte{
		"nothing":          nil,
		"half a greeting":  greet("NULL")[:30],
		"greeting":         greet("NULL"),
		"half a READY":     append(greet("NULL"), ready("DEALER")[:5]...),
		"READY of 60 KiB…": append(greet("NULL"), 6, 0, 0, 0, 0, 0, 0, 0xf0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := serve(t, zmtp.Options{HandshakeTimeout: 20 * time.Millisecond}, echo)
			conn := raw(t, r)
			if _, err := conn.Write(says); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && !isReset(err) {
				t.Fatal(err)
			}
			_ = r.Close()
			if got := r.Stats().Handshakes; got != 1 {
				t.Errorf("got %d refused handshakes; want 1", got)
			}
		})
	}
}

// TestSlowReader sends to a peer that does not read, amid one that does.
func TestSlowReader(t *testing.T) {
	payload := make([]byte, 64<<10)
	gone := make(chan struct{}, 2)
	slow := make(chan error, 1)
	r := serve(t, zmtp.Options{SendQueue: 1 << 20, Gone: func(*zmtp.Peer) { gone <- struct{}{} }}, func(p *zmtp.Peer, frames [][]byte) {
		if string(frames[0]) != "flood" {
			_ = p.Answer(frames...)
			return
		}
		for { // until the sockets' buffers and the queue are full; a Send that waited would hang the test
			if err := p.Send(payload); err != nil {
				slow <- err
				return
			}
		}
	})
	other := dial(t, r, zmtp.Options{})
	roundTrip(t, other, []byte("before"))
	d := dial(t, r, zmtp.Options{})
	if err := d.Send([]byte("flood")); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; !errors.Is(err, zmtp.ErrSlow) {
		t.Errorf("got %v; want ErrSlow", err)
	}
	<-gone
	roundTrip(t, other, []byte("after"))
	if got := r.Stats(); got.Slow != 1 || got.Malformed != 0 {
		t.Errorf("got %+v; want one slow peer", got)
	}
}

// TestSendTimeout has a peer that never reads what is less than the queue.
func TestSendTimeout(t *testing.T) {
	gone := make(chan struct{}, 1)
	r := serve(t, zmtp.Options{
		SendQueue: 64 << 20, SendTimeout: 30 * time.Millisecond,
		Gone: func(*zmtp.Peer) { gone <- struct{}{} },
	}, func(p *zmtp.Peer, frames [][]byte) { _ = p.Send(make([]byte, 32<<20)) })
	d := dial(t, r, zmtp.Options{})
	if err := d.Send([]byte("flood")); err != nil {
		t.Fatal(err)
	}
	<-gone
	if got := r.Stats().Slow; got != 1 {
		t.Errorf("got %d slow peers; want 1", got)
	}
}

// TestClose lets a peer read what it was sent, and ends one that does not.
func TestClose(t *testing.T) {
	const n = 1000
	sent := make(chan struct{})
	r := serve(t, zmtp.Options{}, func(p *zmtp.Peer, frames [][]byte) {
		for i := range n {
			_ = p.Answer(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, 1000))
		}
		close(sent)
	})
	d := dial(t, r, zmtp.Options{})
	if err := d.Send([]byte("go")); err != nil {
		t.Fatal(err)
	}
	<-sent
	closed := make(chan struct{})
	go func() { defer close(closed); _ = r.Close() }()
	for i := range n {
		frames, err := d.Recv(t.Context())
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if got := binary.BigEndian.Uint32(frames[0]); got != uint32(i) {
			t.Fatalf("got message %d; want %d", got, i)
		}
	}
	if _, err := d.Recv(t.Context()); err == nil {
		t.Error("a message after Close")
	}
	<-closed
	if _, err := zmtp.Dial(t.Context(), r.Addr(), zmtp.Options{}); err == nil {
		t.Error("connected after Close")
	}
	if err := r.Serve(echo); !errors.Is(err, zmtp.ErrClosed) {
		t.Errorf("Serve after Close: got %v; want ErrClosed", err)
	}
}

func TestTooManyPeers(t *testing.T) {
	r := serve(t, zmtp.Options{MaxPeers: 1}, echo)
	d := dial(t, r, zmtp.Options{})
	if _, err := zmtp.Dial(t.Context(), r.Addr(), zmtp.Options{}); err == nil {
		t.Error("a second peer came in; want one")
	}
	roundTrip(t, d, []byte("x"))
	if got := r.Stats().Refused; got != 1 {
		t.Errorf("got %d refused; want 1", got)
	}
}

func TestRecvContext(t *testing.T) {
	r := serve(t, zmtp.Options{}, echo)
	d := dial(t, r, zmtp.Options{})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := d.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want DeadlineExceeded", err)
		}
		cancel()
		roundTrip(t, d, []byte("still works"))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.Recv(t.Context()); !errors.Is(err, zmtp.ErrClosed) {
		t.Errorf("Recv after Close: got %v; want ErrClosed", err)
	}
	if err := d.Send([]byte("x")); !errors.Is(err, zmtp.ErrClosed) {
		t.Errorf("Send after Close: got %v; want ErrClosed", err)
	}
}

// TestDialRefused has a listener that is no Router, and one that says nothing.
func TestDialRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var accepted sync.WaitGroup
	answer := func(b []byte) {
		accepted.Go(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		})
	}
	answer([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	var wrong *zmtp.ProtocolError
	if _, err := zmtp.Dial(t.Context(), ln.Addr().String(), zmtp.Options{}); !errors.As(err, &wrong) {
		t.Errorf("got %v; want a ProtocolError", err)
	}
	answer(append(greet("NULL"), ready("PUB")...))
	if _, err := zmtp.Dial(t.Context(), ln.Addr().String(), zmtp.Options{}); !errors.As(err, &wrong) {
		t.Errorf("got %v; want a ProtocolError", err)
	}
	answer(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := zmtp.Dial(ctx, ln.Addr().String(), zmtp.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v; want DeadlineExceeded", err)
	}
	for _, endpoint := range []string{"ipc:///x", "localhost", "tcp://"} {
		if _, err := zmtp.Dial(t.Context(), endpoint, zmtp.Options{}); err == nil {
			t.Errorf("dialled %q", endpoint)
		}
	}
	accepted.Wait()
}

// TestPing answers heartbeats, between the frames of a message too.
func TestPing(t *testing.T) {
	r := serve(t, zmtp.Options{}, echo)
	conn := raw(t, r)
	says := append(greet("NULL"), ready("DEALER")...)
	says = append(says, "\x04\x0a\x04PING\x00\x64abc"...)
	says = append(says, 1, 1, 'u')
	says = append(says, "\x04\x07\x04PING\x00\x64"...)
	says = append(says, "\x04\x05\x04PONG"...)
	says = append(says, "\x04\x09\x08UNKNOWN!"...)
	says = append(says, 0, 1, 'v')
	if _, err := conn.Write(says); err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 64)
	if _, err := io.ReadFull(conn, hello); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(hello, greet("NULL")) {
		t.Errorf("greeting %x", hello)
	}
	want := "\x04\x08\x04PONGabc" + "\x04\x05\x04PONG" + "\x01\x01u\x00\x01v"
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, conn, int64(head[1])); err != nil { // READY
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// TestAllocations holds the path of a message to none, on both sides.
func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	d := dial(t, serve(t, zmtp.Options{}, echo), zmtp.Options{})
	ctx, uid, op := context.Background(), []byte{1}, []byte{24}
	got := testing.AllocsPerRun(200, func() {
		if err := d.Send(uid, op); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Recv(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations a round trip; want 0", got)
	}
}

// BenchmarkEcho is a round trip of two small frames, one at a time and with 64 in
// flight, and of a lookup's 24 KB.
//
//	go test ./server/zmtp -run '^$' -bench '^BenchmarkEcho$' -count 6
func BenchmarkEcho(b *testing.B) {
	for _, c := range []struct{ inFlight, bytes int }{{1, 1}, {64, 1}, {1, 24 << 10}, {64, 24 << 10}} {
		b.Run(fmt.Sprintf("inflight=%d/bytes=%d", c.inFlight, c.bytes), func(b *testing.B) {
			d := dial(b, serve(b, zmtp.Options{}, echo), zmtp.Options{})
			ctx, uid, op := context.Background(), []byte{1}, make([]byte, c.bytes)
			b.ReportAllocs()
			for range c.inFlight {
				_ = d.Post(uid, op)
			}
			for b.Loop() {
				if _, err := d.Recv(ctx); err != nil {
					b.Fatal(err)
				}
				_ = d.Post(uid, op)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
