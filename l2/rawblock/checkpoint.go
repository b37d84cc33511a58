package rawblock

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	copyHeader = 32
	minPayload = 2048 // the JSON without entries, with room for a long path
)

// checkpoint is the payload of a metadata copy.
type checkpoint struct {
	Version       int              `json:"version"`
	DevicePath    string           `json:"device_path"`
	CapacityBytes int64            `json:"capacity_bytes"`
	BlockAlign    int64            `json:"block_align"`
	HeaderBytes   int64            `json:"header_bytes"`
	SlotBytes     int64            `json:"slot_bytes"`
	MetaBytes     int64            `json:"meta_total_bytes"`
	Magic         string           `json:"meta_magic"`
	MetaVersion   int              `json:"meta_version"`
	DataBase      int64            `json:"data_base_offset"`
	NextSlot      int64            `json:"next_slot"`
	FreeSlots     []int64          `json:"free_slots"`
	Entries       map[string]entry `json:"entries"`

	Ours *ours `json:"lmcache_go,omitempty"`
}

// ours is what LMCache's payload does not have.
type ours struct {
	Epoch uint64 `json:"epoch"` // of the slots that belong to this index
	Seq   uint64 `json:"seq"`   // no slot has a higher one, if Clean
	Clean bool   `json:"clean"` // nothing was written since
}

// entry is one object. LMCache describes the tensor too; we have bytes.
type entry struct {
	Offset    int64   `json:"offset"`
	Size      int64   `json:"size"`
	Shape     []int64 `json:"shape"`
	DType     string  `json:"dtype"`
	Format    *string `json:"fmt"`
	Positions *[]int  `json:"cached_positions"`
	Theirs    bool    `json:"theirs,omitempty"` // LMCache wrote the slot
}

var (
	errNoCheckpoint = errors.New("no checkpoint")
	errTooLarge     = errors.New("the index does not fit into its checkpoint")
)

// putCopyHeader fills the first bytes of a copy.
func putCopyHeader(b []byte, magic string, seq uint64, payload []byte) {
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], 1)
	le.PutUint64(b[12:], seq)
	le.PutUint64(b[20:], uint64(len(payload)))
	le.PutUint32(b[28:], crc32.ChecksumIEEE(payload))
}

// parseCopyHeader reads the first bytes of a copy, whose payload is at most most
// bytes long.
func parseCopyHeader(b []byte, magic string, most int64) (seq uint64, length int64, crc uint32, ok bool) {
	le := binary.LittleEndian
	if len(b) < copyHeader || string(b[:8]) != magic || le.Uint32(b[8:]) != 1 {
		return 0, 0, 0, false
	}
	n := le.Uint64(b[20:])
	if n == 0 || n > uint64(most) {
		return 0, 0, 0, false
	}
	return le.Uint64(b[12:]), int64(n), le.Uint32(b[28:]), true
}

// parseCheckpoint reads a payload whose checksum is right, and holds it against
// the configuration.
func parseCheckpoint(payload []byte, c *Config) (*checkpoint, error) {
	var p checkpoint
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, fmt.Errorf("checkpoint of %s: %w", c.DevicePath, err)
	}
	for _, s := range []struct {
		name      string
		got, want int64
	}{{"block_align", p.BlockAlign, c.BlockAlign}, {"header_bytes", p.HeaderBytes, c.HeaderBytes}, {"slot_bytes", p.SlotBytes, c.SlotBytes},
		{"meta_total_bytes", p.MetaBytes, c.MetaBytes}, {"data_base_offset", p.DataBase, c.MetaBytes}} {
		if s.got != s.want {
			return nil, fmt.Errorf("%s was filled with %s %d, not %d; to start empty set load_checkpoint_on_init to false",
				c.DevicePath, s.name, s.got, s.want)
		}
	}
	return &p, nil
}

// readCheckpoint returns the newest whole copy and its sequence number.
func (s *Store) readCheckpoint() (*checkpoint, uint64, error) {
	type found struct {
		seq     uint64
		payload []byte
	}
	var best *found
	for i := range int64(2) {
		at := i * s.c.copyBytes()
		head := make([]byte, s.c.BlockAlign)
		if err := s.dev.readAt(head, at); err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", s.c.DevicePath, err)
		}
		seq, n, crc, ok := parseCopyHeader(head, s.c.Magic, s.c.copyBytes()-s.c.BlockAlign)
		if !ok || best != nil && best.seq >= seq {
			continue
		}
		payload := make([]byte, n)
		if err := s.dev.readAt(payload, at+s.c.BlockAlign); err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", s.c.DevicePath, err)
		}
		if crc32.ChecksumIEEE(payload) == crc {
			best = &found{seq, payload}
		}
	}
	if best == nil {
		return nil, 0, errNoCheckpoint
	}
	p, err := parseCheckpoint(best.payload, &s.c)
	return p, best.seq, err
}

// writeCheckpoint writes the copy that is not the newest. The payload and the
// slots are on the device before the header says so. An index that does not fit
// is left out, and read back from the slots next time.
func (s *Store) writeCheckpoint(clean bool) error {
	s.ckptMu.Lock()
	defer s.ckptMu.Unlock()
	p := s.snapshot(clean)
	payload, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if int64(len(payload)) > s.c.copyBytes()-s.c.BlockAlign {
		p.Entries, p.FreeSlots, p.Ours.Clean = map[string]entry{}, []int64{}, false
		if payload, err = json.Marshal(p); err != nil {
			return err
		}
		if int64(len(payload)) > s.c.copyBytes()-s.c.BlockAlign {
			return errTooLarge
		}
	}
	seq := s.ckptSeq + 1
	at := int64((seq-1)%2) * s.c.copyBytes()
	head := make([]byte, copyHeader)
	putCopyHeader(head, s.c.Magic, seq, payload)
	if err := s.dev.writeAt(payload, at+s.c.BlockAlign); err != nil {
		return err
	}
	if err := s.dev.sync(); err != nil {
		return err
	}
	if err := s.dev.writeAt(head, at); err != nil {
		return err
	}
	s.ckptSeq = seq
	return s.dev.sync()
}
