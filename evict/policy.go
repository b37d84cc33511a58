// Package evict has the policies that choose what leaves a tier. A policy
// orders keys by their slots in a kv.Index that it shares with the tier's table;
// it decides nothing about locks or bytes: the caller says which keys may go.
//
// None of the policies is safe for concurrent use: the tier that owns one calls
// it under its own lock.
package evict

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// Policy orders the keys of a tier. Every list is processed in reverse, so that
// of a prefix chain written in one call the tail goes before the head.
//
// Source: reference storage-manager.md, sections 5.3 to 5.5 and 14.4.
type Policy interface {
	// Reserved says that memory was reserved for the keys.
	Reserved(slots []uint32)
	// Created says that the keys can be read now.
	Created(slots []uint32)
	// Touched says that the keys were hit; keys not tracked are ignored.
	Touched(slots []uint32)
	// Removed says that the keys have left the tier.
	Removed(slots []uint32)
	// Victims appends to dst up to n tracked keys that evictable accepts, in
	// the order in which they should go. They stay tracked until Removed.
	Victims(dst []uint32, n int, evictable func(slot uint32) bool) []uint32
	// Len returns the number of tracked keys.
	Len() int
	// Order appends the tracked keys to dst, first to go first.
	Order(dst []uint32) []uint32
}

// Chainer is a Policy that wants to know which keys extend which. A tier tells
// it the whole key list of a call, also of what it has not got: the lists of
// Policy's methods leave out what was refused, and what was no hit.
type Chainer interface {
	Policy
	// Chained says that the keys stand in one call, in the order of the
	// prompt: a key extends the one before it of the same scope, rank and
	// group. It comes before the call's keys do.
	Chained(keys []kv.ObjectKey)
}

// Partitioned is a Policy that can choose among the keys of some salts only, for
// quotas.
type Partitioned interface {
	Policy
	// VictimsOf is Victims among the keys of salts, each of which is given once.
	VictimsOf(dst []uint32, n int, salts []kv.Salt, evictable func(slot uint32) bool) []uint32
	// LenOf returns the number of tracked keys of salts.
	LenOf(salts []kv.Salt) int
}

// ErrPolicy is wrapped by New's error for a name that it does not know.
var ErrPolicy = errors.New("unsupported eviction policy")

var policies = map[string]func(*kv.Index) Policy{
	"ARC":         newARC,
	"IsolatedLRU": func(x *kv.Index) Policy { return &IsolatedLRU{index: x} },
	"LRU":         func(x *kv.Index) Policy { return &LRU{index: x} },
	"LeafLRU":     func(x *kv.Index) Policy { return newLeafLRU(x) },
	"S3FIFO":      func(x *kv.Index) Policy { return newS3FIFO(x) },
	"noop":        func(*kv.Index) Policy { return noop{} },
}

// Names returns the names that New knows, sorted.
func Names() []string {
	names := make([]string, 0, len(policies))
	for n := range policies {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// New returns the policy called name over the slots of x.
func New(name string, x *kv.Index) (Policy, error) {
	if f := policies[name]; f != nil {
		return f(x), nil
	}
	return nil, fmt.Errorf("%w: %q, known: %s", ErrPolicy, name, strings.Join(Names(), ", "))
}

// Target returns how many keys one cycle should evict: the integer part of
// tracked × ratio with the ratio clamped to 0..1, at least 1 when the ratio is
// above 0 and there is a key.
//
// Source: reference storage-manager.md, section 5.2.
func Target(tracked int, ratio float64) int {
	if !(ratio > 0) || tracked == 0 {
		return 0
	}
	return max(1, int(float64(tracked)*min(ratio, 1)))
}

// noop tracks nothing: the tier fills up and stays full.
type noop struct{}

func (noop) Reserved([]uint32)                                              {}
func (noop) Created([]uint32)                                               {}
func (noop) Touched([]uint32)                                               {}
func (noop) Removed([]uint32)                                               {}
func (noop) Victims(dst []uint32, _ int, _ func(slot uint32) bool) []uint32 { return dst }
func (noop) Len() int                                                       { return 0 }
func (noop) Order(dst []uint32) []uint32                                    { return dst }
