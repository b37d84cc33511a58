//go:build !race

package mmapio

import (
	"sync/atomic"
	"unsafe"
)

// Publish stores v with release order: whoever loads it sees everything that was
// stored before. Unlike Store it does not wait until the store itself can be
// seen, which on this architecture, whose plain stores have release order,
// saves a locked instruction.
//
// Safe because: an atomic.Uint64 is its value, which an aligned store writes in
// one piece, and gc keeps stores in the order of the program: each one depends on
// the state of memory that the one before leaves.
func Publish(word *atomic.Uint64, v uint64) { *(*uint64)(unsafe.Pointer(word)) = v }
