package lct

import (
	"errors"
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/tinylib/msgp/msgp"
)

// readSpec reads the argument spec of any era into d.spec.
func (d *argsDecoder) readSpec(b []byte) (rest []byte, err error) {
	tag, payload, after, err := wrapped(b)
	switch {
	case err != nil:
		return nil, err
	case tag == nil:
		return nil, fmt.Errorf("expected %s, got %s", tagTaskSpec, kindName(b))
	case string(tag) == tagTaskSpec:
		rest, err = d.readTask(payload)
	case string(tag) == tagRequestSpec:
		rest, err = d.readRequest(payload)
	default:
		return nil, wrongTag(tag, tagTaskSpec)
	}
	if after != nil {
		rest = after
	}
	return rest, err
}

// readTask reads the payload of a PrefetchTaskSpec of E6 or S2.
//
// Source: reference lct-v1.md, sections 2.2 and 2.3.
func (d *argsDecoder) readTask(b []byte) (rest []byte, err error) {
	n, b, err := fields(b)
	if err != nil {
		return nil, err
	}
	d.spec = kv.PrefetchSpec{Groups: d.spec.Groups[:0]}
	const hasGroups, hasReaders, hasPolicy, hasLock, hasL1, hasL2 = 1, 2, 4, 8, 16, 32
	seen := 0
	for range n {
		name, rest, err := mapKey(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch string(name) {
		case "key_groups":
			seen |= hasGroups
			b, err = d.readGroups(b)
		case "num_kv_readers":
			seen |= hasReaders
			var v int64
			if v, b, err = readInt(b); err == nil && (v < 1 || v > math.MaxInt32) {
				err = fmt.Errorf("%d readers, at least 1", v)
			}
			d.spec.Readers = int32(v)
		case "fetching_policy":
			seen |= hasPolicy
			d.spec.Policy, b, err = readFetchPolicy(b)
		case "lock_mode":
			seen |= hasLock
			d.spec.Lock, b, err = readLockMode(b)
		case "allowed_l1_memory_tags":
			seen |= hasL1
			d.spec.L1Tags, b, err = readMemoryTags(&d.l1Tags, b)
		case "allowed_l2_memory_tags":
			seen |= hasL2
			d.spec.L2Tags, b, err = readMemoryTags(&d.l2Tags, b)
		default:
			b, err = checkTags(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case seen&hasGroups == 0:
		return nil, errors.New("missing key_groups")
	case seen&hasReaders == 0:
		return nil, errors.New("missing num_kv_readers")
	case seen&hasPolicy == 0:
		return nil, errors.New("missing fetching_policy")
	case seen&hasLock == 0:
		return nil, errors.New("missing lock_mode")
	case seen&hasL1 != 0 != (seen&hasL2 != 0):
		return nil, errors.New("one of allowed_l1_memory_tags and allowed_l2_memory_tags is missing")
	}
	return b, d.spec.Validate()
}

// readGroups reads a list of wrapped GroupedObjectKeys. Their keys go into one
// block of memory, which may move while it grows: it is divided at the end.
func (d *argsDecoder) readGroups(b []byte) (rest []byte, err error) {
	groups := d.spec.Groups[:0]
	d.cells, d.ends = d.cells[:0], d.ends[:0]
	n, b, after, err := list(b)
	if err != nil {
		return nil, err
	}
	for i := range n {
		payload, end, err := codec(b, tagGroup)
		if err != nil {
			return nil, err
		}
		g, rest, err := d.readGroup(payload)
		if err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
		if b = rest; end != nil {
			b = end
		}
		groups = append(groups, g)
		d.ends = append(d.ends, len(d.cells))
	}
	from := 0
	for i, to := range d.ends {
		groups[i].Keys = d.cells[from:to:to]
		from = to
	}
	d.spec.Groups = groups
	if after != nil {
		b = after
	}
	return b, nil
}

// readGroup reads the payload of a GroupedObjectKeys; its keys go to the end
// of d.cells.
func (d *argsDecoder) readGroup(b []byte) (g kv.KeyGroup, rest []byte, err error) {
	n, b, err := fields(b)
	if err != nil {
		return g, nil, err
	}
	const hasKeys, hasGroup, hasLayout, hasWindow = 1, 2, 4, 8
	seen := 0
	start := len(d.cells)
	for range n {
		name, rest, err := mapKey(b)
		if err != nil {
			return g, nil, err
		}
		b = rest
		switch string(name) {
		case "keys":
			seen |= hasKeys
			d.cells, b, err = d.keyReader.list(d.cells[:start], b)
		case "object_group_id":
			seen |= hasGroup
			var v int64
			if v, b, err = readInt(b); err == nil && (v < 0 || v > math.MaxUint32) {
				err = fmt.Errorf("%d is out of range", v)
			}
			g.Group = uint32(v)
		case "layout_desc":
			seen |= hasLayout
			g.Layout, b, err = d.layouts.read(b)
		case "sliding_window_size":
			seen |= hasWindow
			g.Window, b, err = readWindow(b)
		default:
			b, err = checkTags(b)
		}
		if err != nil {
			return g, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case seen&hasKeys == 0:
		err = errors.New("missing keys")
	case seen&hasGroup == 0:
		err = errors.New("missing object_group_id")
	case seen&hasLayout == 0:
		err = errors.New("missing layout_desc")
	case seen&hasWindow == 0:
		err = errors.New("missing sliding_window_size")
	}
	return g, b, err
}

func readFetchPolicy(b []byte) (p kv.FetchPolicy, rest []byte, err error) {
	v, rest, err := readStr(b)
	if err != nil {
		return 0, nil, err
	}
	switch string(v) {
	case "prefix":
		return kv.FetchPrefix, rest, nil
	case "full":
		return kv.FetchFull, rest, nil
	}
	return 0, nil, fmt.Errorf("unknown policy %s", pyfmt.Repr(string(v)))
}

var (
	memorySegments    = []string{"vram", "dram", "cxl", "gds", "storage"}
	memoryResidencies = []string{"local", "remote", "dummy"}
)

// readMemoryTags reads nil, which allows all memory, or a list of wrapped
// MemoryTags, whose memory is *mem.
func readMemoryTags(mem *[]kv.MemoryTag, b []byte) (tags []kv.MemoryTag, rest []byte, err error) {
	if msgp.IsNil(b) {
		return nil, b[1:], nil
	}
	n, b, after, err := list(b)
	if err != nil {
		return nil, nil, err
	}
	if tags = (*mem)[:0]; tags == nil {
		tags = make([]kv.MemoryTag, 0, len(memorySegments))
	}
	for range n {
		payload, end, err := codec(b, tagMemory)
		if err != nil {
			return nil, nil, err
		}
		t, rest, err := readMemoryTag(payload)
		if err != nil {
			return nil, nil, err
		}
		if b = rest; end != nil {
			b = end
		}
		tags = append(tags, t)
	}
	*mem = tags
	if after != nil {
		b = after
	}
	return tags, b, nil
}

func readMemoryTag(b []byte) (t kv.MemoryTag, rest []byte, err error) {
	n, b, err := fields(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = mapKey(b); err != nil {
			break
		}
		switch string(name) {
		case "segment":
			t.Segment, b, err = oneOf(memorySegments, b)
		case "residency":
			t.Residency, b, err = oneOf(memoryResidencies, b)
		default:
			b, err = msgp.Skip(b)
		}
	}
	if err == nil && (t.Segment == "" || t.Residency == "") {
		err = errors.New("missing segment or residency")
	}
	return t, b, err
}

// oneOf reads a str that must be one of words.
func oneOf(words []string, b []byte) (word string, rest []byte, err error) {
	v, rest, err := readStr(b)
	if err != nil {
		return "", nil, err
	}
	for _, w := range words {
		if w == string(v) {
			return w, rest, nil
		}
	}
	return "", nil, fmt.Errorf("unknown memory tag %s", pyfmt.Repr(string(v)))
}
