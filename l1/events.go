package l1

import (
	"sync"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/kv"
)

// Events are published when the gate is free again, so those of two calls that
// run at once may come in either order.
//
// Source: reference observability.md, section 2.1.

// keyLists holds the lists of keys that events are put together in.
var keyLists = sync.Pool{New: func() any { return new([]kv.ObjectKey) }}

// publish tells the bus of those keys for which is reports true, all if it is
// nil.
func (m *Manager) publish(e event.Event, keys []kv.ObjectKey, is func(i int) bool) {
	e.L1Tag = m.name
	if is == nil {
		e.Keys = keys
		m.bus.Publish(&e)
		return
	}
	list := keyLists.Get().(*[]kv.ObjectKey)
	*list = (*list)[:0]
	for i := range keys {
		if is(i) {
			*list = append(*list, keys[i])
		}
	}
	e.Keys = *list
	m.bus.Publish(&e)
	keyLists.Put(list)
}

func (m *Manager) publishLocked(keys []kv.ObjectKey, found kv.Bitmap) {
	if m.bus.Wants(event.L1ReadReserved) {
		m.publish(event.Event{Type: event.L1ReadReserved}, keys, found.Test)
	}
}

func (m *Manager) publishReserved(keys []kv.ObjectKey, results []WriteResult, tag Tag) {
	if m.bus.Wants(event.L1WriteReserved) {
		e := event.Event{Type: event.L1WriteReserved, Tag: "storage_manager"}
		if tag != Writer {
			e.Tag, e.RequestID = "prefetch", int64(tag)-1
		}
		m.publish(e, keys, func(i int) bool { return results[i].Code == Success })
	}
}

// publishUnlocked tells of a release, and of the temporary objects that went
// with it.
func (m *Manager) publishUnlocked(keys []kv.ObjectKey, codes []Code, gone departed) {
	if m.bus.Wants(event.L1ReadFinished) {
		m.publish(event.Event{Type: event.L1ReadFinished}, keys, func(i int) bool { return codes == nil || codes[i] == Success })
	}
	m.publishGone(gone)
}

// departed are objects that have left L1, for publishGone.
type departed struct {
	keys  []kv.ObjectKey
	sizes []int64
}

func (m *Manager) publishGone(d departed) {
	if m.bus.Wants(event.L1KeysEvicted) {
		m.publish(event.Event{Type: event.L1KeysEvicted, Sizes: d.sizes}, d.keys, nil)
	}
}

// collect returns what adds the objects of slots to gone, nil if nobody wants
// them. The gate is held when it is called.
func (m *Manager) collect(gone *departed) func(s uint32, bytes int64) {
	if !m.bus.Wants(event.L1KeysEvicted) {
		return nil
	}
	return func(s uint32, bytes int64) {
		gone.keys = append(gone.keys, m.index.Key(s))
		gone.sizes = append(gone.sizes, bytes)
	}
}

// finished are objects that became resident, for publishFinished.
type finished struct {
	keys  []kv.ObjectKey
	sizes []int64
}

// publishFinished tells of objects that became resident: by a writer those that
// were admitted, by a load all that have its locks now.
func (m *Manager) publishFinished(f *finished, tag Tag) {
	switch {
	case tag != Writer:
		m.publish(event.Event{Type: event.L1WriteFinishedAndRead, RequestID: int64(tag) - 1, Sizes: f.sizes}, f.keys, nil)
	case len(f.keys) > 0:
		m.publish(event.Event{Type: event.L1WriteFinished, Sizes: f.sizes}, f.keys, nil)
	}
}
