package sm

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

// tier is one L1 with what belongs to it alone: its eviction, and the stores
// that have its tag.
type tier struct {
	cfg      L1Manager
	l1       *l1.Manager
	stores   atomic.Int32 // how many stores have its tag
	eviction evictionController
	store    storeController
}

// newTier builds the L1 that c describes. The controllers do not run yet.
func (m *Manager) newTier(c L1Manager, opt Options) (*tier, error) {
	var backing l1.Memory = new(l1.Scratch)
	switch {
	case opt.Pool != nil:
		if len(m.cfg.Tiers()) > 1 || opt.Pool.Size() != c.L1.SizeBytes {
			return nil, errors.New("a pool of shared memory is the whole of one L1")
		}
		backing = opt.Pool
	case opt.Memory == RealMemory:
		var err error
		if backing, err = l1.NewReal(c.L1.SizeBytes, c.L1.UseLazy); err != nil {
			return nil, err
		}
	}
	t := &tier{cfg: c}
	var err error
	t.l1, err = l1.New(l1.Options{
		SizeBytes: c.L1.SizeBytes, AlignBytes: c.L1.AlignBytes, Policy: c.Eviction.Policy,
		WriteTTL: time.Duration(c.L1.WriteTTLSeconds) * time.Second,
		ReadTTL:  time.Duration(c.L1.ReadTTLSeconds) * time.Second,
		Memory:   backing, Clock: m.clock, Bus: m.bus, Tag: c.Tag,
	})
	if err != nil {
		if opt.Pool == nil {
			err = errors.Join(err, backing.Close())
		}
		return nil, err
	}
	t.eviction.m, t.eviction.tier = m, t
	t.store.m, t.store.tier = m, t
	return t, nil
}

// tiers are the L1s of a manager, in the order in which a write tries them. A
// key may be in several. With one tier, which is what nearly everybody has,
// every method is a call of l1.Manager.
//
// Source: reference storage-manager.md, section 2.5; what it leaves open was
// tried with release 0.5.6.
type tiers []*tier

// pick returns the elements of list at the places at.
func pick[T any](list []T, at []int) []T {
	out := make([]T, len(at))
	for i, p := range at {
		out[i] = list[p]
	}
	return out
}

// places returns the places 0 to n-1.
func places(n int) []int {
	at := make([]int, n)
	for i := range at {
		at[i] = i
	}
	return at
}

// reserve asks the tiers in order: what does not fit into one goes to the
// next, as a whole. Every other refusal is final. A key that is to be
// overwritten goes to the first tier that has it.
func (ts tiers) reserve(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error) {
	if len(ts) == 1 {
		return ts[0].l1.Reserve(make([]l1.WriteResult, 0, len(keys)), keys, layout, mode, l1.Writer, false)
	}
	results := make([]l1.WriteResult, len(keys))
	left := places(len(keys))
	ask := func(t *tier, at []int, mode kv.WriteMode) error {
		got, err := t.l1.Reserve(nil, pick(keys, at), layout, mode, l1.Writer, false)
		for i := range got {
			results[at[i]] = got[i]
		}
		return err
	}
	if mode != kv.ModeNew {
		for _, t := range ts {
			present := t.l1.Resident(pick(keys, left))
			var here, elsewhere []int
			for i, at := range left {
				if present.Test(i) {
					here = append(here, at)
				} else {
					elsewhere = append(elsewhere, at)
				}
			}
			if err := ask(t, here, mode); err != nil {
				return nil, err
			}
			left = elsewhere
		}
	}
	for _, t := range ts {
		if err := ask(t, left, mode); err != nil {
			return nil, err
		}
		var full []int
		for _, at := range left {
			if results[at].Code == l1.OutOfMemory {
				full = append(full, at)
			}
		}
		if left = full; len(left) == 0 {
			break
		}
	}
	return results, nil
}

// finish makes reserved objects readable in the tiers that have them, and
// queues them for the stores of these tiers. (LMCache's finish_write refuses
// when there are several L1s: its callers name the owner of each object, and no
// trace has that call.)
func (ts tiers) finish(keys []kv.ObjectKey) (codes []l1.Code, bytes int64) {
	if len(ts) == 1 {
		codes, admitted, bytes := ts[0].l1.Finish(make([]l1.Code, 0, len(keys)), nil, keys, l1.Writer, 0)
		ts[0].store.queue(admitted)
		return codes, bytes
	}
	codes = ts.search(keys, func(t *tier, keys []kv.ObjectKey, _ []int) []l1.Code {
		got, admitted, n := t.l1.Finish(nil, nil, keys, l1.Writer, 0)
		t.store.queue(admitted)
		bytes += n
		return got
	})
	return codes, bytes
}

// unlock releases n locks of every key, in the first tier that has one of it.
func (ts tiers) unlock(keys []kv.ObjectKey, n int) (codes []l1.Code, freed int) {
	if len(ts) == 1 {
		return ts[0].l1.Unlock(make([]l1.Code, 0, len(keys)), keys, n)
	}
	codes = ts.search(keys, func(t *tier, keys []kv.ObjectKey, _ []int) []l1.Code {
		got, gone := t.l1.Unlock(nil, keys, n)
		freed += gone
		return got
	})
	return codes, freed
}

// delete removes keys from every tier that has them. A key's outcome is
// KeyIsLocked where a tier keeps it, else Success where one had it.
func (ts tiers) delete(keys []kv.ObjectKey, force bool) []l1.Code {
	codes, _ := ts[0].l1.Delete(nil, keys, force)
	for _, t := range ts[1:] {
		more, _ := t.l1.Delete(nil, keys, force)
		for i, c := range more {
			if c == l1.KeyIsLocked || codes[i] == l1.KeyNotExist {
				codes[i] = c
			}
		}
	}
	return codes
}

// read returns an outcome for every key, and in key order the objects of those
// that have a live read lock.
func (ts tiers) read(keys []kv.ObjectKey) ([]l1.Code, []l1.Object) {
	if len(ts) == 1 {
		return ts[0].l1.Read(make([]l1.Code, 0, len(keys)), make([]l1.Object, 0, len(keys)), keys)
	}
	found := make([]l1.Object, len(keys))
	codes := ts.search(keys, func(t *tier, keys []kv.ObjectKey, at []int) []l1.Code {
		got, objects := t.l1.Read(nil, nil, keys)
		for i, c := range got {
			if c == l1.Success {
				found[at[i]], objects = objects[0], objects[1:]
			}
		}
		return got
	})
	objects := found[:0]
	for i, c := range codes {
		if c == l1.Success {
			objects = append(objects, found[i])
		}
	}
	return codes, objects
}

// search asks the tiers in order for the keys that no tier before had. A key's
// outcome is Success where one had it, else the most telling refusal.
func (ts tiers) search(keys []kv.ObjectKey, ask func(t *tier, keys []kv.ObjectKey, at []int) []l1.Code) []l1.Code {
	codes := make([]l1.Code, len(keys))
	left := places(len(keys))
	for _, t := range ts {
		var missed []int
		for i, c := range ask(t, pick(keys, left), left) {
			at := left[i]
			if codes[at] == 0 || c != l1.KeyNotExist {
				codes[at] = c
			}
			if c != l1.Success {
				missed = append(missed, at)
			}
		}
		if left = missed; len(left) == 0 {
			break
		}
	}
	return codes
}

// lockResident takes n read locks of every key, in the first tier that has it,
// and returns which are found and, with several tiers, where.
func (ts tiers) lockResident(keys []kv.ObjectKey, n int) (found kv.Bitmap, owner []int8) {
	found = ts[0].l1.LockResident(keys, n)
	if len(ts) == 1 {
		return found, nil
	}
	owner = make([]int8, len(keys))
	for i, t := range ts[1:] {
		var left []int
		for c := range keys {
			if !found.Test(c) {
				left = append(left, c)
			}
		}
		more := t.l1.LockResident(pick(keys, left), n)
		for j, c := range left {
			if more.Test(j) {
				found.Set(c)
				owner[c] = int8(i + 1)
			}
		}
	}
	return found, owner
}

// usage is the present state of all tiers together.
func (ts tiers) usage() (sum l1.Usage) {
	for _, t := range ts {
		u := t.l1.Usage()
		sum.UsedBytes += u.UsedBytes
		sum.CapacityBytes += u.CapacityBytes
		sum.Resident += u.Resident
		sum.Staged += u.Staged
	}
	return sum
}

// snapshot is the state of all tiers, one after the other.
func (ts tiers) snapshot() l1.Snapshot {
	s := ts[0].l1.Snapshot()
	for _, t := range ts[1:] {
		more := t.l1.Snapshot()
		s.Keys = append(s.Keys, more.Keys...)
		s.Order = append(s.Order, more.Order...)
	}
	return s
}

// check reports whether the accounting of every tier is consistent.
func (ts tiers) check() error {
	var errs []error
	for _, t := range ts {
		if err := t.l1.Check(); err != nil {
			errs = append(errs, t.cfg.about(err))
		}
	}
	return errors.Join(errs...)
}
