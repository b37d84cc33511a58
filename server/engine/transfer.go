package engine

import (
	"fmt"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/server/wire"
)

// slot returns where an engine finds an object.
func (in *instance) slot(o l1.Object) wire.Slot {
	return wire.Slot{Offset: o.Offset, Length: in.layout.Bytes(), Shape: in.desc.Shapes[0], DType: in.dtype}
}

// PrepareStore reserves the chunks of k's range that are not there, all of them
// or none, and returns where they go. They stay invisible until CommitStore.
func (e *Engine) PrepareStore(k *wire.Key, id int64) (wire.PreparedStore, error) {
	if e.c.Pool.Size == 0 {
		return wire.PreparedStore{}, ErrNoPool
	}
	s, err := e.span(k)
	if err != nil {
		return wire.PreparedStore{}, err
	}
	var in *instance
	if err := e.with(id, func(found *instance) { in = found }); err != nil {
		return wire.PreparedStore{}, err
	}
	results, err := e.storage.ReserveWrite(s.keys, in.layout, kv.ModeNew)
	if err != nil {
		return wire.PreparedStore{}, err
	}
	var p wire.PreparedStore
	var reserved []kv.ObjectKey
	for i, r := range results {
		if r.Code == l1.Success {
			p.Slots, p.Chunks, reserved = append(p.Slots, in.slot(r.Object)), append(p.Chunks, i), append(reserved, s.keys[i])
		}
	}
	if len(reserved) == 0 {
		return p, nil
	}
	kept := false
	err = e.with(id, func(found *instance) {
		if found == in {
			now, old := e.clock.Now(), in.stores[s.transfer]
			if e.lapsed(old, now) {
				old = preparedStore{since: now}
			}
			// What an earlier prepare of the range has reserved stays with it.
			in.stores[s.transfer], kept = preparedStore{append(old.keys, reserved...), old.since}, true
		}
	})
	if !kept { // unregistered meanwhile
		e.storage.AbandonWrite(reserved)
		return wire.PreparedStore{}, fmt.Errorf("%w: %d", ErrUnregistered, id)
	}
	return p, err
}

// lapsed says that there is nothing to commit: no reservation, or one that others
// may have had since.
func (e *Engine) lapsed(s preparedStore, now int64) bool {
	return len(s.keys) == 0 || e.c.WriteTTL > 0 && now-s.since >= int64(e.c.WriteTTL)
}

// CommitStore makes readable what PrepareStore has reserved for the same range.
// It returns false if there is no such thing, or no longer. Data in the message is a pickle of
// PyTorch, of a client that could not open the pool: what was reserved for it is
// taken back, and the answer is false too.
func (e *Engine) CommitStore(k *wire.Key, id int64, data []byte) (bool, error) {
	s, err := e.span(k)
	if err != nil {
		return false, err
	}
	var store preparedStore
	if err := e.with(id, func(in *instance) {
		store = in.stores[s.transfer]
		delete(in.stores, s.transfer)
	}); err != nil || e.lapsed(store, e.clock.Now()) {
		return false, err
	}
	if len(data) > 0 {
		e.storage.AbandonWrite(store.keys)
		e.log.Warn(fmt.Sprintf("instance %d sends objects in messages: it has not opened the pool %s; nothing is stored", id, e.c.Pool.Name))
		return false, nil
	}
	e.storage.FinishWrite(store.keys)
	return true, nil
}

// PrepareRetrieve returns where all chunks of k's range are, which a lookup has
// locked; ok is false if one is missing or not locked. The locks stay until
// CommitRetrieve.
func (e *Engine) PrepareRetrieve(k *wire.Key, id int64) (slots []wire.Slot, ok bool, err error) {
	if e.c.Pool.Size == 0 {
		return nil, false, ErrNoPool
	}
	s, err := e.span(k)
	if err != nil {
		return nil, false, err
	}
	var in *instance
	if err := e.with(id, func(found *instance) { in = found }); err != nil {
		return nil, false, err
	}
	read := e.storage.ReadPrefetched(s.keys)
	objects := read.Objects()
	ok = len(objects) == len(s.keys)
	for _, o := range objects {
		if int64(len(o.Bytes)) != in.layout.Bytes() {
			ok = false // of another layout than this instance's
			break
		}
		slots = append(slots, in.slot(o))
	}
	if !ok && len(objects) > 0 {
		read.Exit(fmt.Errorf("objects are not of %v", in.desc)) // and gives the locks back
	} else {
		read.Exit(nil)
	}
	if !ok {
		return nil, false, nil
	}
	kept := false
	err = e.with(id, func(found *instance) {
		if found != in {
			return
		}
		kept = true
		r := in.reads[s.transfer]
		if r == nil {
			r = &preparedRead{keys: s.keys}
			in.reads[s.transfer] = r
		}
		r.times++
	})
	if !kept {
		e.storage.FinishReadPrefetched(s.keys, 1)
		return nil, false, fmt.Errorf("%w: %d", ErrUnregistered, id)
	}
	return slots, true, err
}

// CommitRetrieve gives the locks of a prepared retrieve back. It returns true,
// also if nothing was prepared.
func (e *Engine) CommitRetrieve(k *wire.Key, id int64) (bool, error) {
	s, err := e.span(k)
	if err != nil {
		return false, err
	}
	var keys []kv.ObjectKey
	if err := e.with(id, func(in *instance) {
		r := in.reads[s.transfer]
		if r == nil {
			return
		}
		keys = r.keys
		if r.times--; r.times == 0 {
			delete(in.reads, s.transfer)
		}
	}); err != nil {
		return false, err
	}
	if len(keys) > 0 {
		e.storage.FinishReadPrefetched(keys, 1)
	}
	return true, nil
}
