package rawblock

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Errors of a store task.
var (
	ErrFull     = errors.New("no slot is free")
	ErrTooLarge = errors.New("the object is larger than a slot")
	ErrKey      = errors.New("the key does not fit into a slot's header")
)

// Store is the adapter. It evicts nothing by itself: when all slots are taken,
// stores fail.
type Store struct {
	*l2.Tasks
	c     Config
	env   l2.Env
	dev   *device
	slots int64
	epoch uint64
	small buffers // a header and a block
	large buffers // a slot
	task  clock.Task

	outage, ckptOutage l2.Outage

	ckptMu  sync.Mutex // one checkpoint at a time; taken before mu
	ckptSeq uint64     // of the newest copy; guarded by ckptMu

	mu      sync.Mutex // guards all below; not held over I/O
	objects map[kv.ObjectKey]*object
	next    int64   // slots from here on were never used
	free    []int64 // the last is used first
	seq     uint64
	dirty   bool
	changed int64 // when the index last changed
	written int64 // when the last checkpoint was
	closed  bool
	deletes sync.WaitGroup // calls of Delete that write; grows under mu, while not closed
}

// object is one slot in use. Its fields are guarded by Store.mu.
type object struct {
	slot  int64
	size  int64
	locks int
	reads int           // loads under way: the slot must stay
	done  chan struct{} // of one that is being written: closed when it is in the index or out
	epoch uint64        // that the slot's record must have; 0: LMCache wrote the slot, or nobody knows
}

// New opens the device and reads its index.
func New(c Config, env l2.Env) (_ *Store, err error) {
	s := &Store{c: c, env: env, objects: map[kv.ObjectKey]*object{}}
	if s.dev, err = openDevice(&s.c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.dev.close()
		}
	}()
	s.slots = (s.c.CapacityBytes - s.c.MetaBytes) / s.c.SlotBytes
	workers := s.c.StoreWorkers + s.c.LoadWorkers
	s.small = buffers{size: s.dev.roundUp(s.c.HeaderBytes) + s.c.BlockAlign, free: make(chan []byte, workers)}
	s.large = buffers{size: s.c.SlotBytes, free: make(chan []byte, workers)}
	if err := s.recover(); err != nil {
		return nil, err
	}
	s.tellFound()
	if err := s.writeCheckpoint(false); err != nil { // from now on the slots count, not this index
		return nil, fmt.Errorf("checkpoint of %s: %w", s.c.DevicePath, err)
	}
	s.written = env.Clock.Now()
	s.task = env.Clock.Go(clock.Never, s.step)
	s.Tasks = l2.NewTasks(env, s, l2.Effort{Workers: s.c.StoreWorkers, Batch: 1},
		l2.Effort{Workers: s.c.LookupWorkers, Batch: 1024}, l2.Effort{Workers: s.c.LoadWorkers, Batch: 1})
	return s, nil
}

// tellFound tells of what the index has, by slot: the index does not say when an
// object was used.
func (s *Store) tellFound() {
	if s.env.Found == nil || len(s.objects) == 0 {
		return
	}
	keys, sizes := make([]kv.ObjectKey, 0, len(s.objects)), make([]int64, len(s.objects))
	for k := range s.objects {
		sizes[len(keys)] = s.c.SlotBytes
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b kv.ObjectKey) int { return cmp.Compare(s.objects[a].slot, s.objects[b].slot) })
	s.env.Found(keys, sizes)
}

// Name returns "raw_block".
func (s *Store) Name() string { return "raw_block" }

// Close waits for running tasks and writes the index.
func (s *Store) Close() error {
	if !s.Tasks.Close() {
		return nil
	}
	s.task.Stop()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.deletes.Wait()
	err := s.dev.sync()
	if err == nil {
		err = s.writeCheckpoint(true)
	}
	s.small.close()
	s.large.close()
	return errors.Join(err, s.dev.close())
}

// Usage counts whole slots.
func (s *Store) Usage() l2.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l2.Usage{UsedBytes: int64(len(s.objects)) * s.c.SlotBytes, CapacityBytes: s.slots * s.c.SlotBytes}
}

// Report counts the slots.
func (s *Store) Report() l2.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := l2.Report{Err: s.outage.Err(), Backend: s.c.DevicePath, Slots: s.slots, FreeSlots: s.slots - s.next + int64(len(s.free))}
	for _, o := range s.objects {
		if o.done == nil {
			r.Objects++
		}
		if o.locks > 0 {
			r.Locked++
		}
	}
	return r
}

// List implements l2.Lister.
func (s *Store) List(model, token string, limit int) (l2.Page, error) {
	p := l2.NewPager(model, token, limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.objects {
		if o.done == nil {
			p.Add(k, o.size)
		}
	}
	return p.Page(), nil
}

// change notes that the index is not that of the checkpoint any more. The
// caller holds mu.
func (s *Store) change() {
	s.changed = s.env.Clock.Now()
	if !s.dirty {
		s.dirty = true
		if s.c.Periodic && s.task != nil {
			s.task.Wake()
		}
	}
}

// step writes the checkpoint when it is due and nothing has changed for a while.
func (s *Store) step(now int64) (next int64) {
	s.mu.Lock()
	if !s.dirty || s.closed {
		s.mu.Unlock()
		return clock.Never
	}
	if due := max(s.written+int64(s.c.CheckpointEvery), s.changed+int64(s.c.QuietFor)); now < due {
		s.mu.Unlock()
		return due
	}
	s.dirty, s.written = false, now
	s.mu.Unlock()
	if s.ckptOutage.Report(&s.env, "checkpoint of "+s.c.DevicePath, s.writeCheckpoint(false)) != nil {
		s.mu.Lock()
		s.dirty = true // once more after the interval
		s.mu.Unlock()
		return now + max(int64(s.c.CheckpointEvery), int64(s.c.QuietFor), 1e9)
	}
	return clock.Never
}

// at returns the offset of a slot.
func (s *Store) at(slot int64) int64 { return s.c.MetaBytes + slot*s.c.SlotBytes }

// take returns a free slot, -1 if there is none. The caller holds mu.
func (s *Store) take() int64 {
	slot := int64(-1)
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else if s.next < s.slots {
		slot = s.next
		s.next++
	}
	return slot
}

// StoreBatch writes the objects that are new.
func (s *Store) StoreBatch(objects []l2.Object) (keys int, bytes int64, err error) {
	for i := range objects {
		o := &objects[i]
		written, e := s.storeOne(o)
		if !errors.Is(e, ErrTooLarge) && !errors.Is(e, ErrKey) { // which say nothing about the device
			e = s.outage.Report(&s.env, s.Name(), e)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("store %v: %w", o.Key, e))
		} else if written {
			keys++
			bytes += int64(len(o.Bytes))
		}
	}
	return keys, bytes, err
}

func (s *Store) storeOne(o *l2.Object) (written bool, err error) {
	h := slotHeader{Key: encodeKey(&o.Key), Length: uint64(len(o.Bytes)), Epoch: s.epoch}
	if int64(len(h.Key)+keyAt) > s.c.HeaderBytes {
		return false, ErrKey
	}
	if int64(len(o.Bytes)) > s.c.SlotBytes-s.c.HeaderBytes {
		return false, ErrTooLarge
	}
	h.Identity = identity(h.Key)
	mine := &object{size: int64(len(o.Bytes)), done: make(chan struct{}), epoch: s.epoch}
	s.mu.Lock()
	for s.objects[o.Key] != nil {
		other := s.objects[o.Key].done
		if other == nil {
			s.mu.Unlock()
			return false, nil
		}
		s.mu.Unlock()
		<-other // whether it is in the store is known then
		s.mu.Lock()
	}
	if mine.slot = s.take(); mine.slot < 0 {
		s.mu.Unlock()
		return false, ErrFull
	}
	s.objects[o.Key] = mine
	s.seq++
	h.Seq = s.seq
	s.change()
	s.mu.Unlock()

	if !s.env.NoPayload { // else others may change the bytes meanwhile, and nobody reads them
		h.CRC = crc32.Checksum(o.Bytes, castagnoli)
	}
	err = s.writeSlot(mine.slot, &h, o.Bytes)

	s.mu.Lock()
	defer s.mu.Unlock()
	close(mine.done)
	mine.done = nil
	s.change()
	if err != nil {
		delete(s.objects, o.Key)
		s.free = append(s.free, mine.slot)
	}
	return err == nil, err
}

// writeSlot writes header and object at once: in place where the memory allows
// it, with only what does not fill a block copied.
func (s *Store) writeSlot(slot int64, h *slotHeader, b []byte) error {
	head := s.c.HeaderBytes
	if s.c.ZeroCopy && s.dev.isAligned(b) {
		buf, err := s.small.get()
		if err != nil {
			return err
		}
		defer s.small.put(buf)
		h.put(buf[:head])
		whole := int64(len(b)) &^ (s.c.BlockAlign - 1)
		tail := buf[head : head+s.dev.roundUp(int64(len(b))-whole)]
		clear(tail[copy(tail, b[whole:]):])
		return s.dev.writev(s.at(slot), buf[:head], b[:whole], tail)
	}
	buf, err := s.large.get()
	if err != nil {
		return err
	}
	defer s.large.put(buf)
	h.put(buf[:head])
	end := s.dev.roundUp(head + int64(len(b)))
	clear(buf[head+int64(copy(buf[head:], b)) : end])
	return s.dev.writev(s.at(slot), buf[:end])
}

// LookupBatch finds and locks the keys in the index.
func (s *Store) LookupBatch(keys []kv.ObjectKey, found []bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range keys {
		if o := s.objects[k]; o != nil && o.done == nil {
			o.locks++
			found[i] = true
		}
	}
}

// Unlock takes back one lock of each key.
func (s *Store) Unlock(keys []kv.ObjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if o := s.objects[k]; o != nil && o.locks > 0 {
			o.locks--
		}
	}
}

// LoadBatch reads objects, and drops those that are not what the index says.
func (s *Store) LoadBatch(objects []l2.Object, loaded []bool) {
	for i := range objects {
		o := &objects[i]
		s.mu.Lock()
		held := s.objects[o.Key]
		if held == nil || held.done != nil || held.size != int64(len(o.Bytes)) {
			s.mu.Unlock()
			continue
		}
		held.reads++
		s.mu.Unlock()
		isRight, err := s.readSlot(held, o)
		loaded[i] = err == nil && isRight
		s.mu.Lock()
		held.reads--
		if err == nil && !isRight && held.reads == 0 && s.objects[o.Key] == held {
			delete(s.objects, o.Key)
			s.free = append(s.free, held.slot)
			s.change()
		}
		s.mu.Unlock()
	}
}

// readSlot reads an object and reports whether the slot has it.
func (s *Store) readSlot(held *object, o *l2.Object) (isRight bool, err error) {
	b, head := o.Bytes, s.c.HeaderBytes
	check := func(header, b []byte) bool {
		h, ok := parseSlot(header)
		key := encodeKey(&o.Key)
		if !ok || h.Identity != identity(key) || h.Length != uint64(len(b)) {
			return false
		}
		if !h.Ours {
			return held.epoch == 0
		}
		return h.Key == key && (held.epoch == 0 || held.epoch == h.Epoch) && (s.env.NoPayload || h.CRC == crc32.Checksum(b, castagnoli))
	}
	if s.c.ZeroCopy && s.dev.isAligned(b) && !s.env.NoPayload {
		buf, err := s.small.get()
		if err != nil {
			return false, err
		}
		defer s.small.put(buf)
		whole := int64(len(b)) &^ (s.c.BlockAlign - 1)
		tail := buf[head : head+s.dev.roundUp(int64(len(b))-whole)]
		if err := s.dev.readv(s.at(held.slot), buf[:head], b[:whole], tail); err != nil {
			return false, err
		}
		copy(b[whole:], tail)
		return check(buf[:head], b), nil
	}
	buf, err := s.large.get()
	if err != nil {
		return false, err
	}
	defer s.large.put(buf)
	if err := s.dev.readv(s.at(held.slot), buf[:s.dev.roundUp(head+int64(len(b)))]); err != nil {
		return false, err
	}
	got := buf[head : head+int64(len(b))]
	if !check(buf[:head], got) {
		return false, nil
	}
	if !s.env.NoPayload {
		copy(b, got)
	}
	return true, nil
}

// Delete frees the slots of keys that are neither locked nor being read, and
// says so in their headers: a crash does not bring them back.
func (s *Store) Delete(keys []kv.ObjectKey) int {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0
	}
	var gone []int64
	for _, k := range keys {
		if o := s.objects[k]; o != nil && o.locks == 0 && o.reads == 0 && o.done == nil {
			delete(s.objects, k)
			gone = append(gone, o.slot)
		}
	}
	if len(gone) == 0 {
		s.mu.Unlock()
		return 0
	}
	s.seq++
	h := slotHeader{Epoch: s.epoch, Seq: s.seq}
	s.change()
	s.deletes.Add(1)
	defer s.deletes.Done()
	s.mu.Unlock()
	if buf, err := s.small.get(); err == nil {
		h.put(buf[:s.c.HeaderBytes])
		for _, slot := range gone {
			_ = s.dev.writev(s.at(slot), buf[:s.c.HeaderBytes]) // at worst it comes back after a crash
		}
		s.small.put(buf)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Reverse(gone) // the first of keys is used first
	s.free = append(s.free, gone...)
	return len(gone)
}
