//go:build !race

package mmapio

import "sync/atomic"

// Publish stores v with release order: whoever loads it sees everything that was
// stored before. Unlike Store it does not wait until the store itself can be
// seen, which on this architecture, whose plain stores have release order,
// saves a locked instruction.
//
//go:noescape
func Publish(word *atomic.Uint64, v uint64)
