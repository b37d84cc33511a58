package kv

import (
	"errors"
	"fmt"
)

// WriteMode says what a reservation may do with a key that exists.
type WriteMode uint8

const (
	ModeNew    WriteMode = iota // reserve absent keys only; the rule of release 0.5.6, which has no modes
	ModeUpdate                  // reserve present keys only, over their old buffer
	ModeAll                     // reserve both
)

var modeNames = [...]string{"new", "update", "all"}

// String returns the name that traces carry.
func (m WriteMode) String() string { return enumName(modeNames[:], int(m)) }

// ParseWriteMode is the inverse of String.
func ParseWriteMode(s string) (WriteMode, bool) {
	i, ok := enumIndex(modeNames[:], s)
	return WriteMode(i), ok
}

// FetchPolicy says which of the keys that were found count as hits.
type FetchPolicy uint8

const (
	FetchPrefix          FetchPolicy = iota // the longest prefix of chunks that every group can serve
	FetchFull                               // every chunk that is complete in all groups
	FetchSegmentedPrefix                    // as full, gaps included; eras E2 to E5 only
)

var fetchNames = [...]string{"prefix", "full", "segmented_prefix"}

// String returns the name; the first two are those of release 0.5.6.
func (p FetchPolicy) String() string { return enumName(fetchNames[:], int(p)) }

// ParseFetchPolicy is the inverse of String.
func ParseFetchPolicy(s string) (FetchPolicy, bool) {
	i, ok := enumIndex(fetchNames[:], s)
	return FetchPolicy(i), ok
}

// LockMode says whether the hits of a prefetch stay locked for readers.
type LockMode uint8

const (
	Lock   LockMode = iota // each hit gets as many read locks as there are readers
	NoLock                 // hits become resident, unlocked and evictable
)

var lockNames = [...]string{"LOCK", "NO_LOCK"}

// String returns the name that traces carry.
func (m LockMode) String() string { return enumName(lockNames[:], int(m)) }

// ParseLockMode is the inverse of String.
func ParseLockMode(s string) (LockMode, bool) {
	i, ok := enumIndex(lockNames[:], s)
	return LockMode(i), ok
}

func enumName(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("(%d)", i)
}

func enumIndex(names []string, s string) (int, bool) {
	for i, n := range names {
		if n == s {
			return i, true
		}
	}
	return 0, false
}

// FullAttention is the window of a group that needs every chunk of the prefix.
const FullAttention = -1

// KeyGroup is one row of a prefetch: the keys of one object group on one rank,
// in chunk order, so that a key's index is its chunk's.
type KeyGroup struct {
	Keys   []ObjectKey
	Group  uint32 // object group id
	Layout Layout // of every object of the row
	Window int32  // chunks that attention looks back, or FullAttention
}

// MemoryTag restricts a prefetch to a kind of memory (schema 2 of LMCache only).
type MemoryTag struct{ Segment, Residency string }

// PrefetchSpec says what to prefetch: a grid with one row a key group and one
// column a chunk. It is the one internal form for the traces of every era.
//
// Source: reference lct-v1.md, sections 2.2, 2.5 and 3.4.
type PrefetchSpec struct {
	Groups  []KeyGroup
	Readers int32 // read locks that each hit gets
	Policy  FetchPolicy
	Lock    LockMode

	// Flat marks a key list of the eras E1 to E5 that is no full chunk-major
	// grid: it is the one group, in list order. Groups then may mix ranks.
	Flat bool

	// L1Tags and L2Tags name the memory that may serve (schema 2); nil allows
	// all, an empty list none. What is loaded goes to an L1 in any case.
	L1Tags, L2Tags []MemoryTag
}

// ErrSpec is wrapped by every error about a prefetch that LMCache refuses.
var ErrSpec = errors.New("invalid prefetch")

// Validate reports whether LMCache would accept the spec.
//
// Source: reference storage-manager.md, section 1.5.
func (s *PrefetchSpec) Validate() error {
	if len(s.Groups) == 0 {
		return fmt.Errorf("%w: no key groups", ErrSpec)
	}
	if s.Readers < 1 {
		return fmt.Errorf("%w: %d readers, at least 1", ErrSpec, s.Readers)
	}
	if int(s.Policy) >= len(fetchNames) {
		return fmt.Errorf("%w: unknown policy %v", ErrSpec, s.Policy)
	}
	if int(s.Lock) >= len(lockNames) {
		return fmt.Errorf("%w: unknown lock mode %v", ErrSpec, s.Lock)
	}
	for i, g := range s.Groups {
		if len(g.Keys) != len(s.Groups[0].Keys) {
			return fmt.Errorf("%w: group %d has %d keys, group 0 has %d", ErrSpec, i, len(g.Keys), len(s.Groups[0].Keys))
		}
		if g.Window != FullAttention && g.Window < 1 {
			return fmt.Errorf("%w: group %d has window %d, must be -1 or at least 1", ErrSpec, i, g.Window)
		}
	}
	return nil
}

// Chunks returns the number of columns.
func (s *PrefetchSpec) Chunks() int {
	if len(s.Groups) == 0 {
		return 0
	}
	return len(s.Groups[0].Keys)
}
