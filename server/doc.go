// Package server is the whole of `lmcache server`: it binds the ports, builds
// telemetry, recording, storage manager, engine and front-ends in that order, and
// takes them down so that the trace has every call.
//
// Source: reference server-protocol.md, sections 4.1 and 5.
package server
