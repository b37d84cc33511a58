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
func (m *Manager) publishUnlocked(keys []kv.ObjectKey, codes []Code, gone *told) {
	if m.bus.Wants(event.L1ReadFinished) {
		m.publish(event.Event{Type: event.L1ReadFinished}, keys, func(i int) bool { return codes == nil || codes[i] == Success })
	}
	m.publishGone(gone)
}

// told are objects that an event will tell of. They are put together while the
// gate is held, and published when it is free.
type told struct {
	keys  []kv.ObjectKey
	sizes []int64 // without padding
}

var toldLists = sync.Pool{New: func() any { return new(told) }}

// tellOf returns an empty list for an event of type t, nil if nobody wants it.
func (m *Manager) tellOf(t event.Type) *told {
	if !m.bus.Wants(t) {
		return nil
	}
	return toldLists.Get().(*told)
}

func (t *told) add(k kv.ObjectKey, bytes int64) {
	t.keys = append(t.keys, k)
	t.sizes = append(t.sizes, bytes)
}

// tellAll publishes e about t, which is used up.
func (m *Manager) tellAll(e event.Event, t *told) {
	e.Sizes = t.sizes
	m.publish(e, t.keys, nil)
	t.keys, t.sizes = t.keys[:0], t.sizes[:0]
	toldLists.Put(t)
}

// publishGone tells of objects that have left L1; none if gone is nil.
func (m *Manager) publishGone(gone *told) {
	if gone != nil {
		m.tellAll(event.Event{Type: event.L1KeysEvicted}, gone)
	}
}

// collect returns what adds the objects of slots to gone, nil if that is nil. The
// gate is held when it is called.
func (m *Manager) collect(gone *told) func(s uint32, bytes int64) {
	if gone == nil {
		return nil
	}
	return func(s uint32, bytes int64) { gone.add(m.index.Key(s), bytes) }
}

// tellOfFinish is tellOf for objects that become resident.
func (m *Manager) tellOfFinish(tag Tag) *told {
	if tag == Writer {
		return m.tellOf(event.L1WriteFinished)
	}
	return m.tellOf(event.L1WriteFinishedAndRead)
}

// publishFinished tells of objects that became resident: by a writer those that
// were admitted, if any, by a load all that have its locks now.
func (m *Manager) publishFinished(t *told, tag Tag) {
	switch {
	case t == nil:
	case tag != Writer:
		m.tellAll(event.Event{Type: event.L1WriteFinishedAndRead, RequestID: int64(tag) - 1}, t)
	case len(t.keys) > 0:
		m.tellAll(event.Event{Type: event.L1WriteFinished}, t)
	default:
		toldLists.Put(t)
	}
}
