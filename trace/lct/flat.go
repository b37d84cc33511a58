package lct

import (
	"errors"
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/tinylib/msgp/msgp"
)

// flatSpec is a prefetch as the eras E1 to E5 record it: one list of keys,
// chunk-major, with the shape of a chunk beside it.
type flatSpec struct {
	keys    []kv.ObjectKey
	readers int64
	policy  kv.FetchPolicy
	lock    kv.LockMode

	layout    kv.Layout // of all groups, where there are no layouts by group
	hasLayout bool
	byGroup   []groupLayout

	hasAttn bool
	windows []int32 // by object group, in the order in which the groups appear
	world   int64   // ranks a chunk has; 0 where the record does not say
}

type groupLayout struct {
	group  uint32
	layout kv.Layout
}

func (f *flatSpec) reset() {
	*f = flatSpec{keys: f.keys[:0], byGroup: f.byGroup[:0], windows: f.windows[:0]}
}

// readRequest reads the payload of a PrefetchRequestSpec of E3b, E4 or E5.
//
// Source: reference lct-v1.md, sections 2.2 (migration included) and 2.3.
func (d *argsDecoder) readRequest(b []byte) (rest []byte, err error) {
	f := &d.flat
	n, b, err := fields(b)
	if err != nil {
		return nil, err
	}
	const hasKeys, hasPolicy, hasAttn, hasMode, hasReaders = 1, 2, 4, 8, 16
	seen := 0
	extra := int64(1)
	for range n {
		name, rest, err := mapKey(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch string(name) {
		case "keys":
			seen |= hasKeys
			f.keys, b, err = d.keyReader.list(f.keys[:0], b)
		case "layout_desc":
			f.hasLayout = true
			f.layout, b, err = d.layouts.read(b)
		case "group_layout_descs":
			b, err = d.readGroupLayouts(b)
		case "extra_count":
			extra, b, err = readExtra(b)
		case "num_kv_readers":
			seen |= hasReaders
			f.readers, b, err = readInt(b)
		case "policy":
			seen |= hasPolicy
			f.policy, b, err = readTrimPolicy(b)
		case "attn_desc":
			seen |= hasAttn
			b, err = f.readAttn(b)
		case "mode":
			seen |= hasMode
			f.lock, b, err = readPrefetchMode(b)
		default:
			b, err = checkTags(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case seen&hasKeys == 0:
		return nil, errors.New("missing keys")
	case seen&hasPolicy == 0:
		return nil, errors.New("missing policy")
	case seen&hasAttn == 0:
		return nil, errors.New("missing attn_desc")
	case seen&hasMode == 0:
		return nil, errors.New("missing mode")
	case seen&hasReaders == 0:
		f.readers = extra
		return b, d.regroup()
	case f.readers < 1:
		return nil, fmt.Errorf("num_kv_readers is %d, at least 1", f.readers)
	}
	for g := range f.windows {
		if _, ok := f.layoutOf(uint32(g)); !ok {
			return nil, fmt.Errorf("attn_desc has %d groups, group %d has no layout", len(f.windows), g)
		}
	}
	return b, d.regroup()
}

// readGroupLayouts reads a map from group ids in decimal to layouts.
func (d *argsDecoder) readGroupLayouts(b []byte) (rest []byte, err error) {
	d.flat.byGroup = d.flat.byGroup[:0]
	n, b, err := fields(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var g groupLayout
		var id []byte
		if id, b, err = readStr(b); err != nil {
			break
		}
		var ok bool
		if g.group, ok = parseGroup(id); !ok {
			return nil, fmt.Errorf("bad group id %s", pyfmt.Repr(string(id)))
		}
		g.layout, b, err = d.layouts.read(b)
		d.flat.byGroup = append(d.flat.byGroup, g)
	}
	return b, err
}

func parseGroup(text []byte) (id uint32, ok bool) {
	var v uint64
	for _, c := range text {
		if c < '0' || c > '9' || v > math.MaxUint32 {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return uint32(v), len(text) > 0 && v <= math.MaxUint32
}

// readAttn reads a wrapped AttnWindowDesc: an array of windows (E3), or a map
// that also has the number of ranks (E4, E5).
func (f *flatSpec) readAttn(b []byte) (rest []byte, err error) {
	b, after, err := codec(b, tagAttn)
	if err != nil {
		return nil, err
	}
	f.hasAttn, f.world = true, 0
	if isKind(b, kindArray) {
		b, err = f.readWindows(b)
	} else {
		b, err = f.readAttnMap(b)
	}
	if after != nil {
		b = after
	}
	return b, err
}

func (f *flatSpec) readAttnMap(b []byte) (rest []byte, err error) {
	n, b, err := fields(b)
	f.world = 1
	windows := false
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = mapKey(b); err != nil {
			break
		}
		switch string(name) {
		case "num_chunks_in_sw":
			windows = true
			b, err = f.readWindows(b)
		case "world_size":
			if f.world, b, err = readInt(b); err == nil && f.world < 1 {
				err = fmt.Errorf("world_size is %d, at least 1", f.world)
			}
		default:
			b, err = msgp.Skip(b)
		}
	}
	if err == nil && !windows {
		err = errors.New("missing num_chunks_in_sw")
	}
	return b, err
}

func (f *flatSpec) readWindows(b []byte) (rest []byte, err error) {
	f.windows = f.windows[:0]
	n, b, after, err := list(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var w int32
		w, b, err = readWindow(b)
		f.windows = append(f.windows, w)
	}
	if after != nil {
		b = after
	}
	return b, err
}

// readWindow reads how many chunks a group's attention looks back.
func readWindow(b []byte) (w int32, rest []byte, err error) {
	v, rest, err := readInt(b)
	if err == nil && (v != kv.FullAttention && v < 1 || v > math.MaxInt32) {
		err = fmt.Errorf("window %d, must be -1 or at least 1", v)
	}
	return int32(v), rest, err
}

// layoutOf returns the layout of the objects of a group. A single layout is
// that of group 0 where the record has windows by group, but the releases that
// wrote it used it for every key.
func (f *flatSpec) layoutOf(group uint32) (l kv.Layout, ok bool) {
	if len(f.byGroup) == 0 {
		return f.layout, f.hasLayout
	}
	for i := len(f.byGroup) - 1; i >= 0; i-- { // a key that is there twice: the last counts
		if f.byGroup[i].group == group {
			return f.byGroup[i].layout, true
		}
	}
	return 0, false
}
