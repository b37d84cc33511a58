package zmtp

import "errors"

// ErrClosed is returned by calls on what has been closed, by either side.
var ErrClosed = errors.New("zmtp: closed")

// ErrSlow is returned by a send to a peer that does not read what it is sent.
// The peer is disconnected.
var ErrSlow = errors.New("zmtp: peer reads too slowly")

// ProtocolError says that what a peer sent is no ZMTP, or more than the limits
// allow. The connection cannot go on.
type ProtocolError struct {
	What string // what was wrong, in one line
}

func (e *ProtocolError) Error() string { return "zmtp: " + e.What }
