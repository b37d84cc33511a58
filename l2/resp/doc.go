// Package resp is the L2 stores that speak the protocol of Redis: the adapter
// "resp", one server, and the adapter "valkey", one server or a cluster. An
// object is one string: its key is the wire key, its value the raw bytes.
//
// A task is cut into batches; a worker sends a batch as one pipeline and reads
// the values straight into the caller's memory. What is on the wire at once is
// bounded by workers × (batch, or one object that is larger), and the adapter
// copies none of it. A node that cannot be reached fails tasks at once, until a
// probe finds it back.
package resp
