// Package mq is the ZMQ front-end of the server: it takes requests off a ROUTER
// socket, decides what runs where, and answers. What a request means is up to a
// Service.
//
// Source: reference server-protocol.md, sections 1 and 2.
package mq

import (
	"context"
	"time"

	"github.com/lmcache/lmcache-go/server/wire"
)

// Service is what the request front-ends serve, free of any transport. An error
// is for the log and for counters: on ZMQ such a request is never answered.
// Implementations are safe for concurrent use.
//
// Source: reference server-protocol.md, sections 2.3, 2.4 and 3.1.
type Service interface {
	// ChunkSize is the number of tokens in a chunk.
	ChunkSize() int

	// Lookup begins to look up the key's full chunks up to its End.
	Lookup(k *wire.Key) error
	// PrefetchStatus returns the hit chunks of the request's lookup; ok is false
	// while it runs. An answer forgets the lookup; an unknown one has 0 hits.
	PrefetchStatus(requestID string) (hits int, ok bool)
	// WaitPrefetchStatus does so when the lookup is done, but no later than after
	// timeout.
	WaitPrefetchStatus(ctx context.Context, requestID string, timeout time.Duration) (hits int, ok bool)
	// FreeLookupLocks gives back what the request's lookup locked in the key's range.
	FreeLookupLocks(k *wire.Key) error
	EndSession(requestID string) error

	Register(c *wire.Context) (wire.Pool, error)
	Unregister(instance int64) error
	// PrepareStore reserves the chunks of the range that are not there: all of them
	// or none. Without a pool it is an error.
	PrepareStore(k *wire.Key, instance int64) (wire.PreparedStore, error)
	CommitStore(k *wire.Key, instance int64, data []byte) (bool, error)
	// PrepareRetrieve returns a slot for each chunk of the range; ok is false if one
	// is missing or not locked.
	PrepareRetrieve(k *wire.Key, instance int64) (slots []wire.Slot, ok bool, err error)
	CommitRetrieve(k *wire.Key, instance int64) (bool, error)

	Clear(force bool) error
	// Ping says that an instance lives; a scheduler has none.
	Ping(instance int64, known bool)
	ReportBlockAllocation(instance int64, model string, list []wire.BlockAllocation)
	// Experimental lists the experimental features that are on.
	Experimental() []string
}
