package zmtp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

const greetingSize = 64

// greeting is what either side says first: the signature, version 3.1, the NULL
// mechanism, not a server of a mechanism.
var greeting = func() []byte {
	b := make([]byte, greetingSize)
	b[0], b[9] = 0xff, 0x7f
	b[10], b[11] = 3, 1
	copy(b[12:32], "NULL")
	return b
}()

// checkGreeting refuses a peer that does not speak ZMTP 3 with NULL. A higher
// version speaks ours to us.
func checkGreeting(b []byte) error {
	mechanism, _, _ := bytes.Cut(b[12:32], []byte{0})
	switch {
	case b[0] != 0xff || b[9] != 0x7f:
		return &ProtocolError{"not a ZeroMQ peer"}
	case b[10] < 3:
		return &ProtocolError{fmt.Sprintf("peer speaks ZMTP %d, this side 3", b[10])}
	case string(mechanism) != "NULL":
		return &ProtocolError{fmt.Sprintf("peer wants security mechanism %q, this side has none", mechanism)}
	}
	return nil
}

// The bodies of commands begin with the length of their name, and the name.
const (
	readyCommand = "\x05READY"
	errorCommand = "\x05ERROR"
	pingCommand  = "\x04PING"
	pongCommand  = "\x04PONG"
)

func appendCommand(b []byte, body []byte) []byte {
	return append(appendHeader(b, flagCommand, len(body)), body...)
}

func appendReady(b []byte, socketType string) []byte {
	body := []byte(readyCommand)
	for _, p := range [][2]string{{"Socket-Type", socketType}, {"Identity", ""}} {
		body = append(append(body, byte(len(p[0]))), p[0]...)
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(p[1]))), p[1]...)
	}
	return appendCommand(b, body)
}

func appendError(b []byte, reason string) []byte {
	reason = reason[:min(len(reason), 255)]
	body := append([]byte(errorCommand), byte(len(reason)))
	return appendCommand(b, append(body, reason...))
}

// parseReady returns the socket type that a READY command names.
func parseReady(body []byte) (string, error) {
	if reason, ok := bytes.CutPrefix(body, []byte(errorCommand)); ok {
		return "", &ProtocolError{fmt.Sprintf("peer refuses: %q", reason[min(len(reason), 1):])}
	}
	rest, ok := bytes.CutPrefix(body, []byte(readyCommand))
	if !ok {
		return "", &ProtocolError{"peer begins without READY"}
	}
	socketType := ""
	for len(rest) > 0 {
		n := int(rest[0])
		if len(rest) < 1+n+4 {
			return "", &ProtocolError{"READY with half a property"}
		}
		name := rest[1 : 1+n]
		size := uint64(binary.BigEndian.Uint32(rest[1+n:]))
		rest = rest[1+n+4:]
		if uint64(len(rest)) < size {
			return "", &ProtocolError{"READY with half a property"}
		}
		if bytes.EqualFold(name, []byte("Socket-Type")) {
			socketType = string(rest[:size])
		}
		rest = rest[size:]
	}
	return socketType, nil
}

// handshake makes the connection ready for messages, as a socket of type self
// that talks to those of the types in peers.
func handshake(nc net.Conn, in *scanner, timeout time.Duration, self string, peers ...string) error {
	if err := nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := nc.Write(greeting); err != nil {
		return err
	}
	var theirs [greetingSize]byte
	// The signature first: what does not speak ZMTP may say less than 64 bytes.
	if _, err := io.ReadFull(nc, theirs[:10]); err != nil {
		return err
	}
	if theirs[0] != 0xff || theirs[9] != 0x7f {
		return &ProtocolError{"not a ZeroMQ peer"}
	}
	if _, err := io.ReadFull(nc, theirs[10:]); err != nil {
		return err
	}
	if err := checkGreeting(theirs[:]); err != nil {
		return err
	}
	if _, err := nc.Write(appendReady(nil, self)); err != nil {
		return err
	}
	flags, body, err := in.frame()
	if err != nil {
		return err
	}
	if flags&flagCommand == 0 {
		return &ProtocolError{"peer begins without READY"}
	}
	socketType, err := parseReady(in.buf[in.start+body.off : in.start+body.off+body.size])
	if err != nil {
		return err
	}
	in.release()
	if !slices.Contains(peers, socketType) {
		refusal := &ProtocolError{fmt.Sprintf("a %s does not talk to a %q", self, socketType)}
		_, _ = nc.Write(appendError(nil, refusal.What)) // the refusal is what counts
		return refusal
	}
	return nc.SetDeadline(time.Time{})
}
