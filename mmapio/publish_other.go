//go:build !amd64 || race

package mmapio

import "sync/atomic"

// Publish stores v with release order: whoever loads it sees everything that was
// stored before.
func Publish(word *atomic.Uint64, v uint64) { word.Store(v) }
