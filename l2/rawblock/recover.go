package rawblock

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/lmcache/lmcache-go/kv"
)

// scanEnd is how many slots in a row that this epoch never used end a scan.
// Slots are first used in order, and no more than the workers write at once.
const scanEnd = 2 * maxWorkers

// foreignBytes is how much of the device must be empty, or ours, before it is
// filled: file systems and partition tables show themselves there.
const foreignBytes = 128 << 10

// recover reads the index: from the checkpoint if that was written last, else
// from the slots.
func (s *Store) recover() error {
	if !s.c.Load {
		s.epoch = rand.Uint64()
		_, seq, _ := s.readCheckpoint() // ours must be newer than what stays in the other copy
		s.ckptSeq = seq
		return nil
	}
	p, seq, err := s.readCheckpoint()
	s.ckptSeq = seq
	if errors.Is(err, errNoCheckpoint) {
		s.epoch = rand.Uint64()
		return s.checkForeign()
	}
	if err != nil {
		return err
	}
	if p.Ours == nil { // LMCache's
		s.epoch = rand.Uint64()
		err = s.trust(p, s.c.Verify, nil)
	} else {
		s.epoch, s.seq = p.Ours.Epoch, p.Ours.Seq
		var taken map[int64]bool
		isOld := !p.Ours.Clean && s.c.Verify
		if isOld {
			taken, err = s.scan(p.NextSlot)
		}
		if err == nil {
			err = s.trust(p, isOld, taken)
		}
	}
	if err != nil {
		return fmt.Errorf("read the index of %s: %w", s.c.DevicePath, err)
	}
	return nil
}

// checkForeign refuses a device that seems to hold something else.
func (s *Store) checkForeign() error {
	b := make([]byte, min(foreignBytes, s.c.MetaBytes))
	if err := s.dev.readAt(b, 0); err != nil {
		return fmt.Errorf("read %s: %w", s.c.DevicePath, err)
	}
	if bytes.HasPrefix(b, []byte(s.c.Magic)) || len(bytes.Trim(b, "\x00")) == 0 {
		return nil // a first checkpoint that was torn, or nothing
	}
	return fmt.Errorf("%s is not empty and does not begin with %s; to overwrite it set load_checkpoint_on_init to false", s.c.DevicePath, s.c.Magic)
}

// trust takes the index from a checkpoint. With verify each slot's header must
// agree. After a scan, whose slots are taken, it takes only what the scan does
// not see: slots that LMCache wrote.
func (s *Store) trust(p *checkpoint, verify bool, taken map[int64]bool) error {
	isScanned := taken != nil
	if !isScanned {
		taken = map[int64]bool{}
	}
	head := make([]byte, s.dev.roundUp(s.c.HeaderBytes))
	s.next = max(s.next, min(max(p.NextSlot, 0), s.slots))
	for text, e := range p.Entries {
		k, ok := decodeKey(text)
		slot := (e.Offset - s.c.MetaBytes) / s.c.SlotBytes
		if !ok || e.Offset < s.c.MetaBytes || slot >= s.slots || e.Offset != s.at(slot) || taken[slot] ||
			e.Size < 0 || e.Size > s.c.SlotBytes-s.c.HeaderBytes || isScanned && (!e.Theirs || s.objects[k] != nil) {
			continue
		}
		o := &object{slot: slot, size: e.Size}
		if p.Ours != nil && !e.Theirs {
			o.epoch = s.epoch
		}
		if verify {
			if err := s.dev.readAt(head, e.Offset); err != nil {
				return err
			}
			if h, ok := parseSlot(head); !ok || h.Identity != identity(text) || h.Length != uint64(e.Size) {
				continue
			}
		}
		taken[slot] = true
		s.next = max(s.next, slot+1)
		s.objects[k] = o
	}
	for slot := s.next - 1; slot >= 0; slot-- { // the lowest is used first
		if !taken[slot] {
			s.free = append(s.free, slot)
		}
	}
	return nil
}

// scan reads the headers of all slots that this epoch may have used: those
// below known, and on until there are none.
func (s *Store) scan(known int64) (taken map[int64]bool, err error) {
	const batch = 256
	type winner struct {
		o   *object
		seq uint64
	}
	found := map[kv.ObjectKey]winner{}
	headers := make([]slotHeader, batch)
	for at, unused := int64(0), 0; at < s.slots && (at < known || unused < scanEnd); at += batch {
		n := min(batch, s.slots-at)
		if err := s.readHeaders(at, headers[:n]); err != nil {
			return nil, err
		}
		for i := range headers[:n] {
			h, slot := &headers[i], at+int64(i)
			if !h.Ours || h.Epoch != s.epoch {
				unused++
				continue
			}
			unused = 0
			s.next, s.seq = slot+1, max(s.seq, h.Seq)
			k, ok := decodeKey(h.Key)
			if !ok || h.Length > uint64(s.c.SlotBytes-s.c.HeaderBytes) {
				continue
			}
			if w, ok := found[k]; !ok || h.Seq > w.seq {
				found[k] = winner{&object{slot: slot, size: int64(h.Length), epoch: s.epoch}, h.Seq}
			}
		}
	}
	taken = make(map[int64]bool, len(found))
	for k, w := range found {
		s.objects[k] = w.o
		taken[w.o.slot] = true
	}
	return taken, nil
}

// readHeaders reads the headers of slots that follow each other, several at once.
func (s *Store) readHeaders(first int64, headers []slotHeader) error {
	const readers = 8
	errs := make([]error, readers)
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			buf, err := newBuffer(s.dev.roundUp(s.c.HeaderBytes))
			if err != nil {
				errs[r] = err
				return
			}
			defer func() { _ = unmap(buf) }()
			for i := r; i < len(headers); i += readers {
				if errs[r] = s.dev.readv(s.at(first+int64(i)), buf); errs[r] != nil {
					return
				}
				h, ok := parseSlot(buf[:s.c.HeaderBytes])
				if !ok {
					h = slotHeader{}
				}
				headers[i] = h
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// snapshot returns the index as a checkpoint.
func (s *Store) snapshot(clean bool) *checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &checkpoint{Version: 1, DevicePath: s.c.DevicePath, CapacityBytes: s.c.CapacityBytes, BlockAlign: s.c.BlockAlign,
		HeaderBytes: s.c.HeaderBytes, SlotBytes: s.c.SlotBytes, MetaBytes: s.c.MetaBytes, Magic: s.c.Magic, MetaVersion: 1,
		DataBase: s.c.MetaBytes, NextSlot: s.next, FreeSlots: slices.Concat([]int64{}, s.free),
		Entries: make(map[string]entry, len(s.objects))}
	p.Ours = &ours{Epoch: s.epoch, Seq: s.seq, Clean: clean}
	for k, o := range s.objects {
		if o.done == nil {
			p.Entries[encodeKey(&k)] = entry{Offset: s.at(o.slot), Size: o.size, Shape: []int64{o.size}, DType: "uint8", Theirs: o.epoch == 0}
		}
	}
	return p
}
