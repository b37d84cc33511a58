package zmtp

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// script is a connection whose peer says what it says whatever it is told.
type script struct {
	says   *bytes.Reader
	wrote  int
	closed bool
}

func (c *script) Read(b []byte) (int, error) { return c.says.Read(b) }

func (c *script) Write(b []byte) (int, error) {
	if c.closed {
		return 0, net.ErrClosed
	}
	c.wrote += len(b)
	return len(b), nil
}

func (c *script) Close() error                     { c.closed = true; return nil }
func (c *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *script) SetDeadline(time.Time) error      { return nil }
func (c *script) SetReadDeadline(time.Time) error  { return nil }
func (c *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzConnection has a peer say anything, from the greeting on. The connection
// ends, is accounted for once, and is told no more than an echo of what it said.
func FuzzConnection(f *testing.F) {
	hello := appendReady(bytes.Clone(greeting), "DEALER")
	f.Add(appendMessage(hello, [][]byte{{0}, {24}}))
	f.Add(appendCommand(hello, []byte(pingCommand+"\x00\x00abc")))
	f.Add(appendCommand(hello, []byte(errorCommand+"\x03why")))
	f.Add(appendReady(bytes.Clone(greeting), "SUB"))
	f.Add(appendError(bytes.Clone(greeting), "no"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(append(bytes.Clone(hello), 2, 0x7f, 255, 255, 255, 255, 255, 255, 255))
	f.Fuzz(func(t *testing.T, says []byte) {
		conn := &script{says: bytes.NewReader(says)}
		gone := 0
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Skip(err) // out of ports
		}
		r := newRouter(ln, Options{Gone: func(*Peer) { gone++ }})
		handled := 0
		r.serve(r.admit(conn), func(p *Peer, frames [][]byte) {
			handled++
			_ = p.Send(frames...)
		})
		_ = r.Close()
		s := r.Stats()
		if !conn.closed || s.Open != 0 || s.Accepted+s.Handshakes != 1 || gone != int(s.Accepted) || s.Malformed > s.Accepted {
			t.Errorf("closed %v, gone %d, %+v", conn.closed, gone, s)
		}
		if s.Received != uint64(handled) || s.Sent > s.Received {
			t.Errorf("%d handled, %+v", handled, s)
		}
		if most := 256 + 2*len(says); conn.wrote > most { // greeting, READY, a refusal; an echo
			t.Errorf("wrote %d bytes after %d", conn.wrote, len(says))
		}
	})
}
