package wire

import (
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// Reply is a reply as a client gets it. Its slices point into the frames.
type Reply struct {
	UID    uint64
	Op     []byte // the request's operation frame
	Result []byte // nil for no result, and for null
}

// ParseReply takes the frames of a reply apart.
func ParseReply(frames [][]byte) (Reply, error) {
	if len(frames) < 2 || len(frames) > 3 {
		return Reply{}, fmt.Errorf("reply of %d frames: %w", len(frames), ErrMalformed)
	}
	r := Reply{Op: frames[1]}
	if err := argument("uid", frames[0], msgp.ReadUint64Bytes, &r.UID); err != nil {
		return Reply{}, err
	}
	if len(frames) == 3 && !(len(frames[2]) == 1 && msgp.IsNil(frames[2])) {
		r.Result = frames[2]
	}
	return r, nil
}

// Text decodes the result of noop.
func (r *Reply) Text() (s string, err error) {
	return s, argument("result", r.Result, readText, &s)
}

// Count decodes the result of get_chunk_size or of a status query; ok is false
// for null, which is a status that is not known yet.
func (r *Reply) Count() (n int, ok bool, err error) {
	if r.Result == nil {
		return 0, false, nil
	}
	err = argument("result", r.Result, readInt, &n)
	return n, err == nil, err
}

// Bool decodes the result of ping or a commit.
func (r *Reply) Bool() (v bool, err error) {
	return v, argument("result", r.Result, msgp.ReadBoolBytes, &v)
}

// Names decodes the result of get_experimental.
func (r *Reply) Names() (names []string, err error) {
	return names, argument("result", r.Result, func(b []byte) ([]string, []byte, error) {
		n, b, err := readArray(b, 1)
		if err != nil {
			return nil, b, err
		}
		var list []string
		for range n {
			var s string
			if s, b, err = readText(b); err != nil {
				return nil, b, err
			}
			list = append(list, s)
		}
		return list, b, nil
	}, &names)
}

// Pool decodes the result of a registration.
func (r *Reply) Pool() (p Pool, err error) {
	rest, err := readFields(r.Result, func(name, b []byte) (rest []byte, err error) {
		switch string(name) {
		case "shm_name":
			p.Name, rest, err = readText(b)
		case "pool_size":
			if p.Size, rest, err = msgp.ReadInt64Bytes(b); err == nil && p.Size < 0 {
				err = errRange
			}
		default:
			err = errUnknownField
		}
		return rest, err
	})
	if err != nil || len(rest) > 0 {
		return Pool{}, malformed("pool", r.Result, rest, err)
	}
	return p, nil
}

// PreparedStore decodes the result of prepare_store; shared is false if the
// server wants the bytes with the commit, since it has no pool.
func (r *Reply) PreparedStore() (p PreparedStore, shared bool, err error) {
	rest, err := readFields(r.Result, func(name, b []byte) ([]byte, error) {
		if string(name) != "context" {
			return b, errUnknownField
		}
		return readFields(b, func(name, b []byte) (rest []byte, err error) {
			switch string(name) {
			case "slots":
				shared = true
				p.Slots, rest, err = readSlots(b)
			case "chunk_indices":
				var list []int64
				list, rest, err = readInts(b)
				p.Chunks = p.Chunks[:0]
				for _, n := range list {
					p.Chunks = append(p.Chunks, int(n))
				}
			default:
				err = errUnknownField
			}
			return rest, err
		})
	})
	if err != nil || len(rest) > 0 {
		return PreparedStore{}, false, malformed("prepared store", r.Result, rest, err)
	}
	if len(p.Slots) != len(p.Chunks) {
		return PreparedStore{}, false, fmt.Errorf("prepared store: %w", invalid("%d slots for %d chunks", len(p.Slots), len(p.Chunks)))
	}
	return p, shared, nil
}

// PreparedRetrieve decodes the result of prepare_retrieve; ok is false if a
// chunk is missing or was not locked.
func (r *Reply) PreparedRetrieve() (slots []Slot, ok bool, err error) {
	rest, err := readFields(r.Result, func(name, b []byte) (rest []byte, err error) {
		switch string(name) {
		case "success":
			ok, rest, err = msgp.ReadBoolBytes(b)
		case "context":
			rest, err = readFields(b, func(name, b []byte) (rest []byte, err error) {
				if string(name) != "slots" {
					return b, errUnknownField
				}
				slots, rest, err = readSlots(b)
				return rest, err
			})
		default:
			err = errUnknownField
		}
		return rest, err
	})
	if err != nil || len(rest) > 0 {
		return nil, false, malformed("prepared retrieve", r.Result, rest, err)
	}
	return slots, ok, nil
}

func readSlots(b []byte) ([]Slot, []byte, error) {
	n, b, err := readArray(b, 1)
	if err != nil {
		return nil, b, err
	}
	var slots []Slot
	for range n {
		var s Slot
		b, err = readFields(b, func(name, b []byte) (rest []byte, err error) {
			switch string(name) {
			case "offset":
				s.Offset, rest, err = msgp.ReadInt64Bytes(b)
			case "length":
				s.Length, rest, err = msgp.ReadInt64Bytes(b)
			case "shape":
				s.Shape, rest, err = readInts(b)
			case "dtype":
				s.DType, rest, err = readText(b)
			default:
				err = errUnknownField
			}
			return rest, err
		})
		if err != nil {
			return nil, b, err
		}
		if s.Offset < 0 || s.Length < 0 {
			return nil, b, errRange
		}
		slots = append(slots, s)
	}
	return slots, b, nil
}
