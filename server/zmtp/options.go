package zmtp

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// Options configures Listen and Dial. The zero value is good.
type Options struct {
	// MaxMessage bounds the bytes of a message that is received, all frames and
	// their headers; 64 MiB if 0. A peer that announces more is disconnected.
	MaxMessage int
	// MaxFrames bounds the frames of a message that is received; 256 if 0.
	MaxFrames int
	// SendQueue bounds the bytes that wait for a peer to read; 16 MiB if 0. One
	// message is taken whatever its size when nothing waits.
	SendQueue int
	// SendTimeout is how long a peer may read nothing of what waits for it; 30 s
	// if 0.
	SendTimeout time.Duration
	// HandshakeTimeout bounds the time from connection to the peer's READY; 5 s if
	// 0.
	HandshakeTimeout time.Duration
	// Linger is how long Close lets peers read what waits for them; 200 ms if 0.
	Linger time.Duration
	// MaxPeers bounds the connections of a Router; 4096 if 0.
	MaxPeers int
	// Gone, if set, is called by a Router when a peer whose messages were handled
	// is disconnected, on the goroutine that called the handler.
	Gone func(*Peer)
	Log  *slog.Logger // discarded if nil
}

func (o Options) withDefaults() Options {
	if o.MaxMessage <= 0 {
		o.MaxMessage = 64 << 20
	}
	if o.MaxFrames <= 0 {
		o.MaxFrames = 256
	}
	if o.SendQueue <= 0 {
		o.SendQueue = 16 << 20
	}
	if o.SendTimeout <= 0 {
		o.SendTimeout = 30 * time.Second
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 5 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 200 * time.Millisecond
	}
	if o.MaxPeers <= 0 {
		o.MaxPeers = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// keepAlive finds half-open connections: a peer whose machine is gone is
// disconnected after two minutes of silence.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// hostPort returns the TCP address of an endpoint, which is tcp://host:port or
// host:port; * is every interface.
func hostPort(endpoint string) (string, error) {
	scheme, addr, ok := strings.Cut(endpoint, "://")
	if !ok {
		scheme, addr = "tcp", endpoint
	}
	if scheme != "tcp" {
		return "", fmt.Errorf("zmtp: %s: only tcp:// is served", endpoint)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("zmtp: %s: %w", endpoint, err)
	}
	if host == "*" {
		host = ""
	}
	return net.JoinHostPort(host, port), nil
}
