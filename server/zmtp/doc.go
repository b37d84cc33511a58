// Package zmtp is the part of ZeroMQ that LMCache's clients and servers use:
// ROUTER and DEALER sockets over TCP, ZMTP 3.1 with the NULL mechanism. It moves
// messages, which are lists of frames, and knows nothing of what is in them.
//
// A Router has one goroutine a connection, which reads and calls the handler;
// what is sent is written by the sender itself, if the socket takes it, and only
// a rest is left to a goroutine of its own. Nothing that a peer sends allocates
// more than twice what has arrived of it.
//
// Source: ZeroMQ RFC 37 (ZMTP 3.1); docs/adr/0009-zmtp-of-our-own.md says why
// this is no library.
package zmtp
