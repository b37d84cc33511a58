// Package s3 is an L2 store in a bucket of Amazon S3 or of a server that speaks
// its protocol: one object a key, named by the key's wire form, with the raw
// bytes as its body.
//
// Requests go through a bounded number of workers that start when there is work
// and end when there is none. An object's bytes move between L1 and the
// connection without a copy of ours: the adapter's own memory is what it knows
// of the store (about 90 bytes an object) and the buffers of its connections.
//
// A request that fails on the way is tried again with growing pauses until the
// object's deadline. When the store has answered nobody for a while, a breaker
// opens: tasks fail at once, so that nobody waits for a dead store, and a single
// request tries it again from time to time.
package s3
