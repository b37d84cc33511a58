package trace

import (
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/kv"
)

// Definitions stand in the ring's memory behind the data: one after the other,
// written once and never removed, so that whoever drains the ring, now or after
// a crash, can tell what every id stands for. A definition is
//
//	0   length | kind<<32
//	8   id
//	16  scope: model, salt as text
//	    layout: number of parts; for each its dtype's name as text, the number
//	    of dimensions, the dimensions
//
// The word at ringAtDefsTail, stored last, says how many bytes there are.
const (
	defScope  = 1
	defLayout = 2

	defsStep = 64 << 10 // by which the definitions get memory
)

// ringDefs is the producers' end of the definitions. A frame may only be claimed
// after every id in it was defined.
type ringDefs struct {
	scopes, layouts idSet // what is defined

	mem  []byte         // immutable; all the memory that there can be
	tail *atomic.Uint64 // stored under mu, after the definition

	mu        sync.Mutex
	closed    bool                      // guarded by mu: mem must not be touched
	allocated int                       // guarded by mu: bytes of mem that may be touched
	allocate  func(offset, n int) error // immutable; makes mem[offset:offset+n] touchable, nil if all is
}

func newRingDefs(mem []byte, tail *atomic.Uint64, allocate func(offset, n int) error) *ringDefs {
	d := &ringDefs{mem: mem, tail: tail, allocate: allocate}
	if allocate == nil {
		d.allocated = len(mem)
	}
	d.scopes.add(0) // the zero scope and layout mean themselves
	d.layouts.add(0)
	return d
}

// close makes every later define fail.
func (d *ringDefs) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// define defines every id of a that is not yet. It fails where the memory for
// definitions is used up.
func (d *ringDefs) define(a *Args) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	if err := d.defineKeys(a.Keys); err != nil {
		return err
	}
	if err := d.defineLayout(a.Layout); err != nil {
		return err
	}
	if a.Spec == nil {
		return nil
	}
	for i := range a.Spec.Groups {
		if err := d.defineKeys(a.Spec.Groups[i].Keys); err != nil {
			return err
		}
		if err := d.defineLayout(a.Spec.Groups[i].Layout); err != nil {
			return err
		}
	}
	return nil
}

func (d *ringDefs) defineKeys(keys []kv.ObjectKey) error {
	for i := range keys {
		scope := keys[i].Scope
		if d.scopes.has(uint32(scope)) {
			continue
		}
		model, salt := scope.Model(), scope.Salt()
		b, err := d.open(defScope, uint32(scope), ringTextSize(model)+ringTextSize(salt))
		if err != nil {
			return err
		}
		w := ringArgsWriter{b}
		w.text(model)
		w.text(salt)
		d.publish(len(b))
		d.scopes.add(uint32(scope))
	}
	return nil
}

func (d *ringDefs) defineLayout(l kv.Layout) error {
	if d.layouts.has(uint32(l)) {
		return nil
	}
	desc := l.Desc()
	n := 8
	for i, shape := range desc.Shapes {
		n += ringTextSize(desc.DTypes[i].String()) + 8 + len(shape)*8
	}
	b, err := d.open(defLayout, uint32(l), n)
	if err != nil {
		return err
	}
	w := ringArgsWriter{b}
	w.word(uint64(len(desc.Shapes)))
	for i, shape := range desc.Shapes {
		w.text(desc.DTypes[i].String())
		w.word(uint64(len(shape)))
		for _, dim := range shape {
			w.word(uint64(dim))
		}
	}
	d.publish(len(b))
	d.layouts.add(uint32(l))
	return nil
}

// open returns the n bytes of the next definition's contents.
func (d *ringDefs) open(kind, id uint32, n int) ([]byte, error) {
	at := int(d.tail.Load())
	end := at + 16 + n
	if end > len(d.mem) {
		return nil, fmt.Errorf("ring: definitions of %d bytes are full", len(d.mem))
	}
	if end > d.allocated {
		upTo := min((end+defsStep-1)/defsStep*defsStep, len(d.mem))
		if err := d.allocate(d.allocated, upTo-d.allocated); err != nil {
			return nil, err
		}
		d.allocated = upTo
	}
	putRingWord(d.mem, at, uint64(end-at)|uint64(kind)<<32)
	putRingWord(d.mem, at+8, uint64(id))
	return d.mem[at+16 : end : end], nil
}

func (d *ringDefs) publish(n int) { d.tail.Add(uint64(16 + n)) }

// idSet is a set of small ids. Asking takes two loads; only one goroutine at a
// time may add. A new member is in the present words before they are replaced by
// longer ones, so none is lost.
type idSet struct {
	words atomic.Pointer[[]atomic.Uint64]
}

func (s *idSet) has(id uint32) bool {
	p := s.words.Load()
	if p == nil {
		return false
	}
	words := *p
	return int(id/64) < len(words) && words[id/64].Load()>>(id%64)&1 != 0
}

func (s *idSet) add(id uint32) {
	p := s.words.Load()
	if p == nil || int(id/64) >= len(*p) {
		longer := make([]atomic.Uint64, max(int(id/64)*2, 16))
		if p != nil {
			for i := range *p {
				longer[i].Store((*p)[i].Load())
			}
		}
		if int(id/64) >= len(longer) {
			longer = append(longer, make([]atomic.Uint64, int(id/64)+1-len(longer))...)
		}
		p = &longer
		s.words.Store(p)
	}
	(*p)[id/64].Or(1 << (id % 64))
}

// ringIDs is the consumer's end of the definitions: it turns ids of the ring
// into those of this process, from what stands in the ring alone. It belongs to
// one goroutine.
type ringIDs struct {
	mem  []byte
	tail *atomic.Uint64
	read int // bytes of mem that were read

	scopes  map[uint32]kv.Scope
	layouts map[uint32]kv.Layout

	lastID    uint32 // the scope asked for last: nearly always the next one too
	lastScope kv.Scope
}

func newRingIDs(mem []byte, tail *atomic.Uint64) *ringIDs {
	return &ringIDs{mem: mem, tail: tail, scopes: map[uint32]kv.Scope{}, layouts: map[uint32]kv.Layout{}}
}

// scope returns what a scope id of the ring stands for.
func (t *ringIDs) scope(id uint32) (kv.Scope, error) {
	if id == t.lastID {
		return t.lastScope, nil
	}
	scope, ok := t.scopes[id]
	if !ok && id != 0 {
		if err := t.load(); err != nil {
			return 0, err
		}
		if scope, ok = t.scopes[id]; !ok {
			return 0, fmt.Errorf("ring: scope %d is not defined", id)
		}
	}
	t.lastID, t.lastScope = id, scope
	return scope, nil
}

// layout returns what a layout id of the ring stands for.
func (t *ringIDs) layout(id uint32) (kv.Layout, error) {
	l, ok := t.layouts[id]
	if !ok && id != 0 {
		if err := t.load(); err != nil {
			return 0, err
		}
		if l, ok = t.layouts[id]; !ok {
			return 0, fmt.Errorf("ring: layout %d is not defined", id)
		}
	}
	return l, nil
}

// load reads the definitions that were added since it last did.
func (t *ringIDs) load() error {
	end := min(t.tail.Load(), uint64(len(t.mem)))
	for t.read < int(end) {
		d := ringArgs{rest: t.mem[t.read:end]}
		head, id := d.word(), d.word()
		n := d.count(head&math.MaxUint32-16, 1) // a length below 16 becomes huge
		if d.err != nil || id > math.MaxUint32 {
			return fmt.Errorf("ring: definition at %d: length %d, id %d", t.read, head&math.MaxUint32, id)
		}
		d.rest = d.rest[:n]
		if err := t.define(&d, head>>32, uint32(id)); err != nil {
			return fmt.Errorf("ring: definition at %d: %w", t.read, err)
		}
		t.read += 16 + n
	}
	return nil
}

func (t *ringIDs) define(d *ringArgs, kind uint64, id uint32) error {
	switch kind {
	case defScope:
		model, salt := d.text(), d.text()
		if d.err != nil {
			return d.err
		}
		scope, err := kv.InternScope(model, salt)
		if err != nil {
			return err
		}
		t.scopes[id] = scope
	case defLayout:
		var desc kv.LayoutDesc
		for range d.count(d.word(), 16) {
			name := d.text()
			dtype, ok := kv.ParseDType(name)
			if !ok && d.err == nil {
				return fmt.Errorf("no dtype %q", name)
			}
			shape := make([]int64, d.count(d.word(), 8))
			for i := range shape {
				shape[i] = int64(d.word())
			}
			desc.Shapes, desc.DTypes = append(desc.Shapes, shape), append(desc.DTypes, dtype)
		}
		if d.err != nil {
			return d.err
		}
		l, err := kv.InternLayout(desc)
		if err != nil {
			return err
		}
		t.layouts[id] = l
	default:
		return fmt.Errorf("unknown kind %d", kind)
	}
	return nil
}
