package l1

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// MaxReadLocks is the most read locks that one call takes or releases of a key.
const MaxReadLocks = 128

// ErrZeroLayout is returned for a reservation of objects without bytes.
var ErrZeroLayout = errors.New("size must be greater than 0")

// Options configures New.
type Options struct {
	SizeBytes  int64         // capacity; any size, 0 makes every reservation OutOfMemory
	AlignBytes int64         // a power of two; every object starts and ends on it
	WriteTTL   time.Duration // how long a reservation holds
	ReadTTL    time.Duration // how long read locks hold after the newest of them
	Policy     string        // a name that evict.New knows
	Memory     Memory        // what backs the objects
	Clock      clock.Clock
	Bus        *event.Bus // hears what happens; nil for nobody
	Tag        string     // name of the tier in events
}

// Tag names who reserved an object: writes and each prefetch have their own, so
// that both may stage the same key side by side.
type Tag uint64

// Writer is the tag of reservations made by ReserveWrite of the storage manager.
const Writer Tag = 0

// Manager holds the objects of the memory tier. It is safe for concurrent use.
//
// An object is staged from its reservation to its finish, then resident; only a
// resident object can be read. A lock has a count and one expiry for all of its
// holders: it is live while the count is above 0 and the expiry has not come. No
// timer runs: an expiry is noticed when somebody looks.
//
// Calls that find, lock, read and unlock resident objects hold the gate shared
// and run side by side; those that reserve, finish, delete and evict hold it
// alone. What touches say to the policy is kept in order until somebody holds the
// gate alone, so that calls that follow each other have the outcome that they
// would have with one lock (docs/adr/0008).
//
// Source: reference storage-manager.md, sections 3.1 and 14.2.
type Manager struct {
	clock              clock.Clock // immutable after New, as the next three
	writeTTL, readTTL  int64       // ns
	align              int64
	memory             Memory
	gate               gate // guards all below but touched; the lock of a resident object also under read
	read               stripes
	touched            touches
	arena              *arena
	index              kv.Index          // every key that has an object or that the policy tracks
	slots              kv.Slab[slot]     // by slot of index
	staged             kv.Slab[reserved] // by number, from 1
	freeStaged         uint32            // head of the list of unused numbers, linked by next
	lastStaged         uint32            // numbers given so far
	policy             evict.Policy
	chainer            evict.Chainer // policy, if it wants key lists
	bus                *event.Bus    // immutable
	name               string        // in events; immutable
	salts              *saltTable    // nil unless the policy is evict.Partitioned
	orphans            []uint32      // slots with reservations that the policy does not know: see disown
	left               leftovers
	resident, inFlight int64 // resident objects; staged objects
	staging            int64 // bytes of staged objects, as placed

	// Scratch lists, reused by every call that holds the gate alone.
	told    []uint32
	also    []uint32
	found   []uint32
	pending []pendingWrite
	offsets []int64
	codes   []Code
	gone    [2][]uint32 // of deleteSlots
}

// slot is what a key has in the tier. It holds no pointer.
type slot struct {
	resident object // valid if resident.state != absent
	staged   uint32 // head of the list of this key's reservations, 0 if none
	orphan   bool   // listed in Manager.orphans
}

type state uint8

const (
	absent state = iota
	permanent
	temporary // goes with its last read lock
)

// object is the memory of a key and its lock: the write lock while it is
// staged, the read lock while it is resident.
type object struct {
	offset int64
	expiry int64 // ns on the clock; of the lock
	layout kv.Layout
	locks  uint32
	state  state
	pins   uint16 // tasks of stores that read the memory; see Pin
}

// reserved is a staged object.
type reserved struct {
	object
	tag  Tag
	next uint32 // of the same key
}

// pendingWrite is a key that a call is about to allocate.
type pendingWrite struct {
	result int // index in the call's keys
	slot   uint32
	number uint32 // of its staged object
}

// New returns an empty tier. The caller must Close it.
func New(opt Options) (*Manager, error) {
	a, err := newArena(opt.SizeBytes, opt.AlignBytes)
	if err != nil {
		return nil, err
	}
	m := &Manager{clock: opt.Clock, writeTTL: int64(opt.WriteTTL), readTTL: int64(opt.ReadTTL), align: opt.AlignBytes, memory: opt.Memory, arena: a, bus: opt.Bus, name: opt.Tag}
	if m.policy, err = evict.New(opt.Policy, &m.index); err != nil {
		return nil, err
	}
	m.chainer, _ = m.policy.(evict.Chainer)
	if p, ok := m.policy.(evict.Partitioned); ok {
		m.salts = &saltTable{policy: p}
	}
	return m, nil
}

// Close releases the memory. Objects that were handed out must not be used any more.
func (m *Manager) Close() error {
	m.enter()
	defer m.gate.unlock()
	return m.memory.Close()
}

func (o *object) live(now int64) bool { return o.locks > 0 && now < o.expiry }

// held reports whether the object must stay where it is.
func (o *object) held(now int64) bool { return o.pins > 0 || o.live(now) }

// unlock gives n locks back, or as many as there are. It reports false if the
// lock is not live.
func (o *object) unlock(now int64, n uint32) bool {
	if !o.live(now) {
		return false
	}
	o.locks -= min(o.locks, n)
	return true
}

// lock takes n locks; what an expired lock had counted is forgotten.
func (o *object) lock(now, ttl int64, n uint32) {
	if !o.live(now) {
		o.locks = 0
	}
	o.locks += n
	o.expiry = now + ttl
}

// physical returns the bytes that an object of layout l takes.
func (m *Manager) physical(l kv.Layout) int64 { return (l.Bytes() + m.align - 1) &^ (m.align - 1) }

func (m *Manager) object(o *object) Object {
	return Object{Offset: o.offset, Bytes: m.memory.View(o.offset, o.layout.Bytes())}
}

// release frees the memory of an object of slot s.
func (m *Manager) release(s uint32, o *object) {
	m.arena.free(o.offset, m.physical(o.layout))
	if m.salts != nil {
		m.salts.add(m.index.Scope(s), -m.physical(o.layout))
	}
}

// find returns the key's slot and what it has; nil if it has nothing.
func (m *Manager) find(k *kv.ObjectKey) (uint32, *slot) {
	s := m.index.Find(k)
	if s == 0 {
		return 0, nil
	}
	return s, m.slots.At(s)
}

// stagedBy returns the number of the key's reservation under tag, 0 if none.
func (m *Manager) stagedBy(at *slot, tag Tag) uint32 {
	n := at.staged
	for n != 0 && m.staged.At(n).tag != tag {
		n = m.staged.At(n).next
	}
	return n
}

// stage links a new reservation to slot s and takes a reference to it.
func (m *Manager) stage(s uint32, tag Tag) (number uint32) {
	if number = m.freeStaged; number != 0 {
		m.freeStaged = m.staged.At(number).next
	} else {
		m.lastStaged++
		number = m.lastStaged
	}
	at := m.slots.At(s)
	*m.staged.At(number) = reserved{tag: tag, next: at.staged}
	at.staged = number
	m.index.Retain(s)
	m.inFlight++
	return number
}

// unstage unlinks a reservation and drops its reference, which may free the slot.
func (m *Manager) unstage(s, number uint32) object {
	at := m.slots.At(s)
	p := &at.staged
	for *p != number {
		p = &m.staged.At(*p).next
	}
	r := m.staged.At(number)
	*p = r.next
	o := r.object
	*r = reserved{next: m.freeStaged}
	m.freeStaged = number
	m.inFlight--
	m.staging -= m.physical(o.layout)
	if at.staged == 0 {
		m.own(s)
	}
	m.index.Release(s)
	return o
}

// admit makes o the resident object of s.
func (m *Manager) admit(s uint32, o object) {
	o.locks, o.expiry, o.pins = 0, 0, 0
	m.slots.At(s).resident = o
	m.index.Retain(s)
	m.resident++
}

// drop forgets the resident object of s without freeing its memory.
func (m *Manager) drop(s uint32) object {
	at := m.slots.At(s)
	o := at.resident
	at.resident = object{}
	m.resident--
	m.index.Release(s)
	return o
}

// forget tells the policy that the keys of slots have left. The caller still
// holds a reference to them through the policy itself, or they are not tracked.
func (m *Manager) forget(slots []uint32) {
	if len(slots) > 0 {
		m.policy.Removed(slots)
	}
}

// disown notes that the policy was told to forget s although a reservation is
// left. LMCache does that when the last reader of a prefetch's copy goes while a
// writer has the key staged, and its eviction counts keys accordingly. There such
// a reservation, once abandoned, is never found again; here Evict takes it back.
func (m *Manager) disown(s uint32) {
	if at := m.slots.At(s); !at.orphan {
		at.orphan = true
		m.orphans = append(m.orphans, s)
	}
}

// own ends disown: the policy knows s again, or s has no reservation any more.
func (m *Manager) own(s uint32) {
	if at := m.slots.At(s); at.orphan {
		at.orphan = false
		i := slices.Index(m.orphans, s)
		m.orphans = slices.Delete(m.orphans, i, i+1)
	}
}

// tell makes the policy know the keys of slots: reserved, or resident.
func (m *Manager) tell(policy func([]uint32), slots []uint32) {
	policy(slots)
	for i := 0; i < len(slots) && len(m.orphans) > 0; i++ {
		m.own(slots[i])
	}
}

// Reserve reserves memory for keys of one layout and appends an outcome for
// each to dst. Keys that need memory get it in one batch, all or nothing. A key
// that stands twice in the call has one reservation, and both places show it.
func (m *Manager) Reserve(dst []WriteResult, keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode, tag Tag, isTemporary bool) ([]WriteResult, error) {
	if len(keys) == 0 {
		return dst, nil
	}
	if layout.Bytes() <= 0 {
		return dst, fmt.Errorf("layout %q: %w", layout.Desc().String(), ErrZeroLayout)
	}
	if mode > kv.ModeAll {
		return dst, fmt.Errorf("unknown write mode %v", mode)
	}
	var mem hashes
	h := mem.of(keys)
	first, allocated := len(dst), false
	defer func() {
		if allocated {
			m.publishReserved(keys, dst[first:], tag)
		}
	}()
	m.enter()
	defer m.gate.unlock()
	m.found = m.index.AppendSlots(m.found[:0], keys, h)
	now := m.clock.Now()
	m.pending, m.told = m.pending[:0], m.told[:0]
	for i := range keys {
		s := m.found[i]
		if s == 0 && len(m.pending) > 0 {
			s = m.index.FindHash(&keys[i], h[i]) // this call may have given it a slot
		}
		code, number := m.reserveOne(s, mode, tag, now)
		r := WriteResult{Code: code}
		switch {
		case code != Success:
		case number == 0: // absent: memory comes below, for all such keys at once
			if s == 0 {
				s = m.index.Add(&keys[i], h[i])
				number = m.stage(s, tag)
				m.index.Release(s) // the stage holds it now
			} else {
				number = m.stage(s, tag)
			}
			m.pending = append(m.pending, pendingWrite{i, s, number})
		default:
			if o := m.staged.At(number); o.layout != 0 {
				r.Object = m.object(&o.object)
				m.told = append(m.told, s)
			} else { // a second occurrence of a key that this call reserves
				m.pending = append(m.pending, pendingWrite{i, 0, number})
			}
		}
		dst = append(dst, r)
	}
	moved := len(m.told) > 0 && mode != kv.ModeNew
	if allocated = m.allocate(dst[first:], layout, isTemporary, now); allocated || moved {
		m.tell(m.policy.Reserved, m.told)
	}
	return dst, nil
}

// Chained tells a policy that wants to know it that the keys stand in one call,
// each extending the one before it. It comes before they are reserved.
func (m *Manager) Chained(keys []kv.ObjectKey) {
	if m.chainer != nil {
		m.enter()
		defer m.gate.unlock()
		m.chainer.Chained(keys)
	}
}

// reserveOne decides about the key of slot s, 0 if it has none. Success with
// number 0 means that the key needs memory. A pending reservation of the same
// call has no layout yet.
func (m *Manager) reserveOne(s uint32, mode kv.WriteMode, tag Tag, now int64) (code Code, number uint32) {
	if s != 0 {
		at := m.slots.At(s)
		number = m.stagedBy(at, tag)
		if number != 0 && m.staged.At(number).layout == 0 {
			return Success, number
		}
		if number != 0 && m.staged.At(number).live(now) {
			return KeyNotWritable, 0
		}
		if r := &at.resident; r.state != absent {
			if mode == kv.ModeNew || number != 0 || r.state == temporary || r.held(now) {
				return KeyNotWritable, 0
			}
			number = m.stage(s, tag)
			o := m.drop(s)
			m.staged.At(number).object = o
			m.staging += m.physical(o.layout)
		}
		if number != 0 { // an expired reservation, or a resident object's buffer: handed out again
			m.lockWrite(&m.staged.At(number).object, tag, now)
			return Success, number
		}
	}
	if mode == kv.ModeUpdate {
		return KeyNotWritable, 0
	}
	return Success, 0
}

// lockWrite locks a reservation. A caller's lapses. That of a prefetch ends with
// the load that it was made for, however long that takes: a store may write the
// memory until then, so it must not become another object's.
func (m *Manager) lockWrite(o *object, tag Tag, now int64) {
	ttl := m.writeTTL
	if tag != Writer {
		ttl = math.MaxInt64 - now
	}
	o.lock(now, ttl, 1)
}

// allocate gives memory to the pending keys of a call and adds their slots to
// told, or takes all of them back. It reports whether any key needed memory:
// the policy is told of the keys beside those, too, even when there was none.
func (m *Manager) allocate(results []WriteResult, layout kv.Layout, isTemporary bool, now int64) bool {
	n := 0
	for _, p := range m.pending {
		if p.slot != 0 {
			n++
		}
	}
	if n == 0 {
		return false
	}
	if cap(m.offsets) < n {
		m.offsets = make([]int64, 2*n)
	}
	offsets := m.offsets[:n]
	if !m.arena.allocBatch(layout.Bytes(), n, offsets) {
		for _, p := range m.pending {
			if results[p.result].Code = OutOfMemory; p.slot != 0 {
				m.unstage(p.slot, p.number)
			}
		}
		return true
	}
	st := permanent
	if isTemporary {
		st = temporary
	}
	for _, p := range m.pending {
		o := &m.staged.At(p.number).object
		if p.slot != 0 {
			*o = object{offset: offsets[0], layout: layout, state: st}
			m.lockWrite(o, m.staged.At(p.number).tag, now)
			offsets = offsets[1:]
			m.staging += m.physical(layout)
			m.told = append(m.told, p.slot)
			if m.salts != nil {
				m.salts.add(m.index.Scope(p.slot), m.physical(layout))
			}
		}
		results[p.result].Object = m.object(o)
	}
	return true
}

// Finish makes the reservations of tag resident and appends an outcome for
// each key to codes. It appends to admitted the keys whose new content a store
// below should get. With readLocks > 0 the objects get that many read locks at
// once; a key that became resident meanwhile keeps that object, and the locks
// go to it. bytes is the logical size of what was finished.
func (m *Manager) Finish(codes []Code, admitted []kv.ObjectKey, keys []kv.ObjectKey, tag Tag, readLocks int) (_ []Code, _ []kv.ObjectKey, bytes int64) {
	var mem hashes
	h := mem.of(keys)
	var told *finished
	if m.bus.Wants(event.L1WriteFinished) || m.bus.Wants(event.L1WriteFinishedAndRead) {
		told = new(finished)
		defer func() { m.publishFinished(told, tag) }()
	}
	m.enter()
	defer m.gate.unlock()
	m.found = m.index.AppendSlots(m.found[:0], keys, h) // finishing frees no slot and gives none
	now := m.clock.Now()
	m.told = m.told[:0]
	for i, s := range m.found {
		at, number := (*slot)(nil), uint32(0)
		if s != 0 {
			at = m.slots.At(s)
			number = m.stagedBy(at, tag)
		}
		switch {
		case number == 0:
			m.endLoading(&keys[i], tag)
			codes = append(codes, KeyNotExist)
			continue
		case !m.staged.At(number).live(now):
			codes = append(codes, KeyInWrongState)
			continue
		}
		m.index.Retain(s) // across the move
		o := m.unstage(s, number)
		bytes += o.layout.Bytes()
		isNew := true
		if r := &at.resident; r.state == absent {
			m.admit(s, o)
			m.told = append(m.told, s)
		} else {
			m.release(s, &o)
			// A write that meets the temporary object of a prefetch must not
			// vanish with it: the object stays, and the stores get the write.
			if isNew = r.state == temporary && o.state == permanent; isNew {
				r.state = permanent
			}
		}
		if isNew {
			admitted = append(admitted, keys[i])
		}
		if told != nil && (isNew || tag != Writer) {
			told.keys = append(told.keys, keys[i])
			told.sizes = append(told.sizes, at.resident.layout.Bytes())
		}
		if readLocks > 0 {
			at.resident.lock(now, m.readTTL, uint32(readLocks))
		}
		m.index.Release(s)
		codes = append(codes, Success)
	}
	m.tell(m.policy.Created, m.told)
	return codes, admitted, bytes
}

// Discard frees the reservations of tag; nobody gets to see them.
func (m *Manager) Discard(keys []kv.ObjectKey, tag Tag) {
	m.enter()
	defer m.gate.unlock()
	m.told = m.told[:0]
	for i := range keys {
		m.endLoading(&keys[i], tag)
		s, at := m.find(&keys[i])
		if at == nil {
			continue
		}
		number := m.stagedBy(at, tag)
		if number == 0 {
			continue
		}
		m.index.Retain(s) // across the move
		o := m.unstage(s, number)
		m.release(s, &o)
		m.index.Release(s)
		if at.resident.state == absent && at.staged == 0 {
			m.told = append(m.told, s)
		}
	}
	m.forget(m.told)
}

// LockResident takes n read locks of every key that is resident, and returns
// which are.
func (m *Manager) LockResident(keys []kv.ObjectKey, n int) kv.Bitmap {
	var mem hashes
	var list slotList
	h, found := mem.of(keys), kv.NewBitmap(len(keys))
	defer m.publishLocked(keys, found)
	m.gate.rlock()
	defer m.gate.runlock()
	now := m.clock.Now()
	slots := m.index.AppendSlots(list[:0], keys, h)
	for i, s := range slots { // apart from the locking, which would wait for each cache miss
		if m.residentOf(s) != nil {
			found.Set(i)
		}
	}
	for i, s := range slots {
		if found.Test(i) {
			mu := m.read.of(s)
			mu.Lock()
			m.slots.At(s).resident.lock(now, m.readTTL, uint32(n))
			mu.Unlock()
		}
	}
	return found
}

// Read appends an outcome for every key to codes and, for each that has a live
// read lock, its memory to objects. It changes nothing.
func (m *Manager) Read(codes []Code, objects []Object, keys []kv.ObjectKey) ([]Code, []Object) {
	var mem hashes
	var list slotList
	h := mem.of(keys)
	m.gate.rlock()
	defer m.gate.runlock()
	now := m.clock.Now()
	for _, s := range m.index.AppendSlots(list[:0], keys, h) {
		code := KeyNotExist
		if r := m.residentOf(s); r != nil {
			code = KeyNotReadable
			mu := m.read.of(s)
			mu.Lock()
			live := r.live(now)
			mu.Unlock()
			if live {
				code = Success
				objects = append(objects, m.object(r))
			}
		}
		codes = append(codes, code)
	}
	return codes, objects
}

// residentOf returns the resident object of slot s, nil if there is none.
func (m *Manager) residentOf(s uint32) *object {
	if s != 0 {
		if r := &m.slots.At(s).resident; r.state != absent {
			return r
		}
	}
	return nil
}

// Reserved appends the memory of the objects that tag has reserved to objects;
// the zero Object for a key without a reservation.
func (m *Manager) Reserved(objects []Object, keys []kv.ObjectKey, tag Tag) []Object {
	m.gate.rlock()
	defer m.gate.runlock()
	for i := range keys {
		var o Object
		if _, at := m.find(&keys[i]); at != nil {
			if n := m.stagedBy(at, tag); n != 0 {
				o = m.object(&m.staged.At(n).object)
			}
		}
		objects = append(objects, o)
	}
	return objects
}

// Pin takes a read lock of every key that is resident, and keeps its object in
// place until Unpin even if the lock lapses before, or somebody gives back one
// too many: a store would otherwise read memory that has become another
// object's. It returns which keys it holds, and appends their memory to objects.
func (m *Manager) Pin(objects []Object, keys []kv.ObjectKey) ([]Object, kv.Bitmap) {
	var mem hashes
	var list slotList
	h, found := mem.of(keys), kv.NewBitmap(len(keys))
	defer m.publishLocked(keys, found)
	m.gate.rlock()
	defer m.gate.runlock()
	now := m.clock.Now()
	for i, s := range m.index.AppendSlots(list[:0], keys, h) {
		if r := m.residentOf(s); r != nil {
			mu := m.read.of(s)
			mu.Lock()
			if r.pins < math.MaxUint16 {
				r.lock(now, m.readTTL, 1)
				r.pins++
				found.Set(i)
				objects = append(objects, m.object(r))
			}
			mu.Unlock()
		}
	}
	return objects, found
}

// Unpin undoes a Pin of keys that it held, made at time pinned; objects is what it
// returned. The objects may go, and the lock is given back unless it may have
// lapsed; it would be another's by now. freed is as Unlock's.
func (m *Manager) Unpin(keys []kv.ObjectKey, objects []Object, pinned int64) (freed int) {
	var gone departed
	defer func() { m.publishUnlocked(keys, nil, gone) }()
	m.enter()
	defer m.gate.unlock()
	m.told = m.told[:0]
	now, removed := m.clock.Now(), m.collect(&gone)
	for i := range keys {
		s := m.index.Find(&keys[i])
		r := m.residentOf(s)
		if r == nil || r.offset != objects[i].Offset {
			m.unpinLeft(objects[i].Offset)
			continue
		}
		r.pins--
		if now-pinned < m.readTTL {
			r.unlock(now, 1)
		}
		freed += m.dropUnused(s, r, removed)
	}
	m.forgetRetained()
	return freed
}

// dropUnused frees a temporary object that nobody has locked, and reports 1 if
// it did, after removed, which may be nil, was called. Its slot is retained, and
// told has it.
func (m *Manager) dropUnused(s uint32, r *object, removed func(s uint32, bytes int64)) int {
	if r.state != temporary || r.locks > 0 || r.pins > 0 {
		return 0
	}
	m.index.Retain(s) // until the policy is told
	o := m.drop(s)
	m.release(s, &o)
	m.told = append(m.told, s)
	if removed != nil {
		removed(s, o.layout.Bytes())
	}
	return 1
}

// Unlock releases n read locks of every key and appends an outcome for each to
// codes: KeyNotExist, or KeyInWrongState without a live lock. A temporary object
// goes with its last lock; freed counts those.
func (m *Manager) Unlock(codes []Code, keys []kv.ObjectKey, n int) (_ []Code, freed int) {
	var mem hashes
	h := mem.of(keys)
	before, gone := len(codes), departed{}
	defer func() { m.publishUnlocked(keys, codes[before:], gone) }()
	var ok bool
	if codes, ok = m.unlockPermanent(codes, keys, h, n); ok {
		return codes, 0
	}
	m.enter()
	defer m.gate.unlock()
	m.found = m.index.AppendSlots(m.found[:0], keys, h) // every slot that goes is retained until the end
	now, removed := m.clock.Now(), m.collect(&gone)
	m.told = m.told[:0]
	for _, s := range m.found {
		r := m.residentOf(s)
		if r == nil {
			codes = append(codes, KeyNotExist)
			continue
		}
		if !r.unlock(now, uint32(n)) {
			codes = append(codes, KeyInWrongState)
			continue
		}
		codes = append(codes, Success)
		freed += m.dropUnused(s, r, removed)
	}
	m.forgetRetained()
	return codes, freed
}

// unlockPermanent is Unlock beside other callers. It reports false, and has
// changed nothing, if one of the objects is temporary and may have to go.
func (m *Manager) unlockPermanent(codes []Code, keys []kv.ObjectKey, h []kv.KeyHash, n int) (_ []Code, ok bool) {
	var list slotList
	m.gate.rlock()
	defer m.gate.runlock()
	slots := m.index.AppendSlots(list[:0], keys, h)
	for _, s := range slots {
		if r := m.residentOf(s); r != nil && r.state == temporary {
			return codes, false
		}
	}
	now := m.clock.Now()
	for _, s := range slots {
		code := KeyNotExist
		if r := m.residentOf(s); r != nil {
			code = KeyInWrongState
			mu := m.read.of(s)
			mu.Lock()
			if r.unlock(now, uint32(n)) {
				code = Success
			}
			mu.Unlock()
		}
		codes = append(codes, code)
	}
	return codes, true
}

// forgetRetained tells the policy that the keys of told have left, and drops
// the reference that the caller took to each.
func (m *Manager) forgetRetained() {
	m.forget(m.told)
	for _, s := range m.told {
		if m.slots.At(s).staged != 0 {
			m.disown(s)
		}
		m.index.Release(s)
	}
}

// Touch tells the policy that the keys were hit, and returns how many there are.
func (m *Manager) Touch(keys []kv.ObjectKey) (n int) {
	var mem hashes
	var list slotList
	h := mem.of(keys)
	m.gate.rlock()
	slots := m.index.AppendSlots(list[:0], keys, h)
	full := m.touched.add(slots)
	m.gate.runlock()
	for _, s := range slots {
		if s != 0 {
			n++
		}
	}
	if full {
		m.enter()
		m.gate.unlock()
	}
	if len(keys) > 0 && m.bus.Wants(event.L1KeysAccessed) {
		m.publish(event.Event{Type: event.L1KeysAccessed}, keys, nil)
	}
	return n
}

// enter takes the gate alone, and tells the policy of the touches until now.
func (m *Manager) enter() {
	m.gate.lock()
	m.touched.drain(m.policy)
}

// Delete removes the keys that no live lock holds and appends an outcome for
// each to codes; freed is the memory that came back. With force locks do not
// count; memory that a store's task reads or writes comes back when that ends.
func (m *Manager) Delete(codes []Code, keys []kv.ObjectKey, force bool) (_ []Code, freed int64) {
	var mem hashes
	h := mem.of(keys)
	var gone departed
	defer func() { m.publishGone(gone) }()
	m.enter()
	defer m.gate.unlock()
	m.also = m.index.AppendSlots(m.also[:0], keys, h)
	return m.deleteSlots(codes, m.also, force, m.collect(&gone))
}

// deleteSlots removes the objects of slots; removed is called for each key that
// left, with the size of what it had. The policy hears first of the keys that were resident, then of those
// that were only staged.
func (m *Manager) deleteSlots(codes []Code, slots []uint32, force bool, removed func(s uint32, bytes int64)) (_ []Code, freed int64) {
	now := m.clock.Now()
	wereResident, wereStaged := m.gone[0][:0], m.gone[1][:0]
	for _, s := range slots {
		at := (*slot)(nil)
		if s != 0 {
			at = m.slots.At(s)
		}
		if at == nil || at.resident.state == absent && at.staged == 0 {
			codes = append(codes, KeyNotExist)
			continue
		}
		m.index.Retain(s)
		hadStaged, size := at.staged != 0, int64(0)
		if hadStaged {
			size = m.staged.At(at.staged).layout.Bytes()
		}
		bytes := m.freeStagedObjects(s, at, now, force)
		freed += bytes
		switch r := &at.resident; {
		case at.staged != 0, r.state != absent && r.held(now) && !force:
			codes = append(codes, KeyIsLocked)
			m.index.Release(s)
			continue
		case r.state != absent:
			o := m.drop(s)
			size = o.layout.Bytes()
			if o.pins > 0 {
				m.leave(s, o)
			} else {
				freed += m.physical(o.layout)
				m.release(s, &o)
			}
			wereResident = append(wereResident, s)
		case hadStaged:
			wereStaged = append(wereStaged, s)
		}
		codes = append(codes, Success)
		if removed != nil {
			removed(s, size)
		}
	}
	m.gone = [...][]uint32{wereResident, wereStaged}
	m.forget(wereResident)
	m.forget(wereStaged)
	for _, list := range [...][]uint32{wereResident, wereStaged} {
		for _, s := range list {
			m.index.Release(s)
		}
	}
	return codes, freed
}

// freeStagedObjects frees the reservations of s whose lock has expired, with
// force all of them, and returns their bytes.
func (m *Manager) freeStagedObjects(s uint32, at *slot, now int64, force bool) (bytes int64) {
	for number := at.staged; number != 0; {
		r := m.staged.At(number)
		next := r.next
		if force || !r.live(now) {
			tag := r.tag
			o := m.unstage(s, number)
			if tag != Writer {
				m.leaveLoading(s, tag, o)
			} else {
				bytes += m.physical(o.layout)
				m.release(s, &o)
			}
		}
		number = next
	}
	return bytes
}

// Evicted is what one eviction pass removed.
type Evicted struct {
	Keys  []kv.ObjectKey // in the order in which the policy chose them
	Bytes int64

	sizes []int64 // of Keys, without padding
}

// evictBatch is how many keys go under one hold of the gate: some 30 µs, so
// that a pass over a large tier keeps nobody waiting for long. A hold of its own
// costs 0.1 µs.
const evictBatch = 32

// Evict removes up to a share ratio of the tracked keys, in the policy's order.
// Other calls get their turn in between.
//
// Source: reference storage-manager.md, section 14.4.
func (m *Manager) Evict(ratio float64) Evicted { return m.evict(everything, ratio) }

// evict is Evict among the keys of w.
func (m *Manager) evict(w whose, ratio float64) Evicted {
	m.enter()
	now := m.clock.Now()
	for _, s := range slices.Clone(m.orphans) {
		if m.abandoned(m.slots.At(s), now) {
			m.tell(m.policy.Reserved, []uint32{s})
		}
	}
	n := evict.Target(w.len(m.policy), ratio)
	if s, ok := m.policy.(evict.Scanner); ok {
		s.Rewind()
	}
	m.gate.unlock()
	out := Evicted{Keys: make([]kv.ObjectKey, 0, n)}
	refused := map[uint32]bool{}
	for n > 0 {
		got, more := m.evictSome(w, min(n, evictBatch), &out, refused)
		if !more {
			break
		}
		n -= got
		m.gate.yield()
	}
	m.publishGone(departed{out.Keys, out.sizes})
	return out
}

// maxScan bounds how many keys that may not go a hold of the gate looks at, if
// the policy can be left in the middle of a search.
const maxScan = 8 * evictBatch

// evictSome evicts up to n keys, and returns how many the policy gave, and
// whether there may be more that may go. A key that is also being written is
// given, counts, and stays; refused keeps it from being given again.
func (m *Manager) evictSome(w whose, n int, out *Evicted, refused map[uint32]bool) (got int, more bool) {
	m.enter()
	defer m.gate.unlock()
	now := m.clock.Now()
	mayGo := func(s uint32) bool {
		return m.evictable(s, now) && !refused[s] && (m.chainer == nil || m.deletable(s, now))
	}
	victims := m.also[:0]
	if s, ok := m.policy.(evict.Scanner); ok && w.all {
		victims, more = s.Scan(victims, n, maxScan, mayGo)
	} else {
		victims = w.victims(m.policy, victims, n, mayGo)
		more = len(victims) == n
	}
	m.also = victims
	m.index.Prime(victims)
	var bytes int64
	m.codes, bytes = m.deleteSlots(m.codes[:0], victims, false, func(s uint32, bytes int64) {
		out.Keys = append(out.Keys, m.index.Key(s))
		out.sizes = append(out.sizes, bytes)
	})
	out.Bytes += bytes
	for i, c := range m.codes {
		if c != Success {
			refused[victims[i]] = true
		}
	}
	return len(victims), more
}

// evictable reports whether something of the slot may go: the resident object
// without a live read lock, or a reservation whose lock has expired.
func (m *Manager) evictable(s uint32, now int64) bool {
	at := m.slots.At(s)
	return at.resident.state != absent && !at.resident.held(now) || m.abandoned(at, now)
}

// deletable reports whether a key that may go can go as a whole. Most policies
// are told to give one that cannot, as LMCache's do: it counts, and stays. One
// that orders keys by each other is not: it would take for gone what stays.
func (m *Manager) deletable(s uint32, now int64) bool {
	for n := m.slots.At(s).staged; n != 0; n = m.staged.At(n).next {
		if m.staged.At(n).live(now) {
			return false
		}
	}
	r := &m.slots.At(s).resident
	return r.state == absent || !r.held(now)
}

// abandoned reports whether a key has a reservation that has expired.
func (m *Manager) abandoned(at *slot, now int64) bool {
	for n := at.staged; n != 0; n = m.staged.At(n).next {
		if !m.staged.At(n).live(now) {
			return true
		}
	}
	return false
}

// Clear removes every object that no live lock holds, with force every object, as
// Delete does, and returns how many keys left. Other calls get their turn in
// between; what they add meanwhile may stay.
func (m *Manager) Clear(force bool) (n int) {
	m.enter()
	last := m.index.Last()
	m.gate.unlock()
	for s := uint32(1); s <= last; {
		var gone int
		s, gone = m.clearSome(s, last, force)
		n += gone
		m.gate.yield()
	}
	return n
}

// clearSome clears slots from first on, up to last at the most, and returns the
// next, and how many keys left.
func (m *Manager) clearSome(first, last uint32, force bool) (next uint32, n int) {
	var gone departed
	defer func() {
		if len(gone.keys) > 0 {
			m.publishGone(gone)
		}
	}()
	m.enter()
	defer m.gate.unlock()
	m.also = m.also[:0]
	next = first
	for ; next <= last && next < first+8*evictBatch && len(m.also) < evictBatch; next++ {
		if at := m.slots.At(next); at.resident.state != absent || at.staged != 0 {
			m.also = append(m.also, next)
		}
	}
	m.index.Prime(m.also)
	m.codes, _ = m.deleteSlots(m.codes[:0], m.also, force, m.collect(&gone))
	for _, c := range m.codes {
		if c == Success {
			n++
		}
	}
	return next, n
}

// Usage is the present state of the tier.
type Usage struct {
	UsedBytes, CapacityBytes int64 // staged objects count, aligned sizes
	Resident, Staged         int64 // objects
	StagingBytes             int64 // of UsedBytes: staged objects
}

// Usage returns the present state.
func (m *Manager) Usage() Usage {
	m.gate.rlock()
	defer m.gate.runlock()
	return Usage{m.arena.used(), m.arena.capacity(), m.resident, m.inFlight, m.staging}
}

// Check reports whether the tier's accounting is consistent: the arena with
// itself, and with the objects, which overlap neither each other nor a hole.
func (m *Manager) Check() error {
	m.enter()
	defer m.gate.unlock()
	if err := m.arena.check(); err != nil {
		return err
	}
	type extent struct{ start, length int64 }
	var taken []extent
	var bytes, resident, staged, staging int64
	add := func(o *object) {
		taken = append(taken, extent{o.offset, m.physical(o.layout)})
		bytes += m.physical(o.layout)
	}
	for s := uint32(1); s <= m.index.Last(); s++ {
		at := m.slots.At(s)
		if at.resident.state != absent {
			resident++
			add(&at.resident)
		}
		for n := at.staged; n != 0; n = m.staged.At(n).next {
			staged++
			staging += m.physical(m.staged.At(n).layout)
			add(&m.staged.At(n).object)
		}
	}
	m.left.each(func(o *leftover) { add(&o.object) })
	if err := m.salts.check(m); err != nil {
		return err
	}
	if staging != m.staging {
		return fmt.Errorf("staged objects have %d bytes; counted are %d", staging, m.staging)
	}
	if resident != m.resident || staged != m.inFlight || bytes != m.arena.used() {
		return fmt.Errorf("tables hold %d resident and %d staged objects of %d bytes; counted are %d, %d and %d",
			resident, staged, bytes, m.resident, m.inFlight, m.arena.used())
	}
	err := m.arena.holes.check(func(start, length int64) error {
		taken = append(taken, extent{start, length})
		return nil
	})
	slices.SortFunc(taken, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	end := int64(0)
	for _, e := range taken { // with the sums right, a gap is an overlap elsewhere
		if e.start < end {
			return fmt.Errorf("the %d bytes at %d begin before %d, where others end", e.length, e.start, end)
		}
		end = e.start + e.length
	}
	return err
}
