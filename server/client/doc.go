// Package client is the other side of LMCache's MP server: requests over ZMQ,
// the shared memory in which objects are written and read, and the few requests
// over HTTP that an administrator's commands make. It works against our server
// and against LMCache's own, release 0.5.6.
//
// Source: reference server-protocol.md.
package client
