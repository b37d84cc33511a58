// Package wire is the language of LMCache's MP server over ZMQ: the operations
// with their numbers, names and forms, and the values in their frames, encoded
// and decoded. It knows neither sockets nor the storage manager, so that server
// and clients share it.
//
// Source: reference server-protocol.md, sections 1.3, 1.4 and 2; era D, release
// 0.5.6, tolerant of C.
package wire
