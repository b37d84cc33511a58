package trace

import (
	"fmt"
	"math"
	"slices"

	"github.com/lmcache/lmcache-go/kv"
)

// argsDecoder turns the arguments part of a call into Args.
type argsDecoder struct {
	tables *tables
	budget int              // keys that this call may still have
	spare  *kv.PrefetchSpec // memory of a Spec while its Args have none
}

// decode decodes the arguments that def lists from c into a.
func (d *argsDecoder) decode(c *cursor, def *opDefinition, a *Args) error {
	if a.Spec != nil {
		d.spare = a.Spec
	}
	keys, text := a.Keys[:0], a.Text
	*a = Args{Keys: keys, Raw: a.Raw[:0]}
	if def.err != nil {
		return def.err
	}
	d.budget = maxListKeys
	for _, arg := range def.args {
		var err error
		switch arg.typ {
		case ArgKeys:
			a.Keys, err = d.keys(c, a.Keys[:0])
		case ArgLayout:
			a.Layout, err = d.layout(c)
		case ArgMode:
			a.Mode = kv.WriteMode(c.u8())
			if a.Mode > kv.ModeAll {
				err = fmt.Errorf("write mode %d", a.Mode)
			}
		case ArgSpec:
			if a.Spec = d.spare; a.Spec == nil {
				a.Spec = new(kv.PrefetchSpec)
			}
			d.spare = nil
			err = d.spec(c, a.Spec)
		case ArgText:
			a.Text = reuse(text, c.str())
		case ArgFlag:
			b := c.u8()
			if a.Flag = b == 1; b > 1 {
				err = fmt.Errorf("flag %d", b)
			}
		case ArgCount:
			a.Count = c.sv()
		case ArgRaw:
			a.Raw = append(a.Raw[:0], c.str()...)
		}
		if err == nil {
			err = c.err
		}
		if err != nil {
			return fmt.Errorf("argument %s: %w", arg.name, err)
		}
	}
	return c.end()
}

// reuse returns b as a string: old, if that is what it says.
func reuse(old string, b []byte) string {
	if old == string(b) {
		return old
	}
	return string(b)
}

func (d *argsDecoder) layout(c *cursor) (kv.Layout, error) {
	id := c.uv()
	if id >= uint64(len(d.tables.layouts)) {
		return 0, fmt.Errorf("layout %d: %w", id, ErrUndefined)
	}
	l := d.tables.layouts[id]
	return l.layout, l.err
}

func (d *argsDecoder) spec(c *cursor, s *kv.PrefetchSpec) error {
	bits, policy, lock := c.u8(), c.u8(), c.u8()
	if bits > 7 || policy > uint8(kv.FetchSegmentedPrefix) || lock > uint8(kv.NoLock) {
		return fmt.Errorf("bits %#x, policy %d, lock mode %d", bits, policy, lock)
	}
	readers := c.sv()
	if readers != int64(int32(readers)) {
		return fmt.Errorf("%d readers", readers)
	}
	s.Flat, s.Policy, s.Lock, s.Readers = bits&1 != 0, kv.FetchPolicy(policy), kv.LockMode(lock), int32(readers)
	n := c.count(4)
	s.Groups = slices.Grow(s.Groups[:0], n)[:n]
	for i := range s.Groups {
		g := &s.Groups[i]
		group := c.uv()
		var err error
		if g.Layout, err = d.layout(c); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
		window := c.sv()
		if group > math.MaxUint32 || window != int64(int32(window)) {
			return fmt.Errorf("group %d: object group %d, window %d", i, group, window)
		}
		g.Group, g.Window = uint32(group), int32(window)
		if g.Keys, err = d.keys(c, g.Keys[:0]); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
	}
	s.L1Tags = tags(c, s.L1Tags, bits&2 != 0)
	s.L2Tags = tags(c, s.L2Tags, bits&4 != 0)
	return c.err
}

func tags(c *cursor, old []kv.MemoryTag, present bool) []kv.MemoryTag {
	if !present {
		return nil
	}
	n := c.count(2)
	list := slices.Grow(old[:0], n)[:n]
	if list == nil {
		list = []kv.MemoryTag{} // an empty list is not the same as none
	}
	for i := range list {
		list[i].Segment = reuse(list[i].Segment, c.str())
		list[i].Residency = reuse(list[i].Residency, c.str())
	}
	return list
}

// keys appends a key list to dst.
func (d *argsDecoder) keys(c *cursor, dst []kv.ObjectKey) ([]kv.ObjectKey, error) {
	head := c.uv()
	if head == 0 {
		return dst, c.err
	}
	for {
		end, count := c.uv(), c.uv()
		if c.err != nil {
			return dst, c.err
		}
		id := head >> 1
		if id == 0 || count == 0 {
			return dst, fmt.Errorf("segment of %d nodes, pattern %d", count, id)
		}
		if id >= uint64(len(d.tables.patterns)) || d.tables.patterns[id] == nil {
			return dst, fmt.Errorf("pattern %d: %w", id, ErrUndefined)
		}
		pattern := d.tables.patterns[id]
		if end >= uint64(len(d.tables.runOf)) {
			return dst, fmt.Errorf("node %d: %w", end, ErrUndefined)
		}
		if count > end { // nodes lead to lower ones
			return dst, fmt.Errorf("%d nodes lead to node %d", count, end)
		}
		if count > uint64(d.budget/len(pattern)) {
			return dst, fmt.Errorf("%w: more than %d keys", ErrTooLarge, maxListKeys)
		}
		n := int(count) * len(pattern)
		d.budget -= n
		old := len(dst)
		dst = slices.Grow(dst, n)[:old+n]
		if err := d.walk(dst[old:], pattern, uint32(end), int(count)); err != nil {
			return dst[:old], err
		}
		if head&1 == 0 {
			return dst, nil
		}
		if head = c.uv(); c.err != nil {
			return dst, c.err
		}
	}
}

// walk fills dst with the keys of the count nodes that lead to end, last first.
func (d *argsDecoder) walk(dst []kv.ObjectKey, pattern []kv.ObjectKey, end uint32, count int) error {
	for n := end; count > 0; {
		id := d.tables.runOf[n]
		if id == 0 {
			if n == 0 {
				return fmt.Errorf("%d nodes are missing before the first", count)
			}
			return fmt.Errorf("node %d: %w", n, ErrUndefined)
		}
		r := &d.tables.runs[id]
		have := int(n-r.first) + 1
		take := min(have, count)
		size := int(r.size)
		at := r.offset + int64(have-take)*int64(size)
		hashes := d.tables.hashes[at : at+int64(take*size)]
		part := dst[(count-take)*len(pattern) : count*len(pattern)]
		if len(pattern) == 1 && size == kv.MaxHash {
			fillSimple(part, hashes, &pattern[0])
		} else {
			fill(part, hashes, pattern, size)
		}
		count -= take
		n = r.parent
	}
	return nil
}

// fillSimple is fill for the common case: one context, hashes of full size.
func fillSimple(dst []kv.ObjectKey, hashes []byte, context *kv.ObjectKey) {
	for i := range dst {
		k := &dst[i]
		k.Hash = [kv.MaxHash]byte(hashes[:kv.MaxHash])
		hashes = hashes[kv.MaxHash:]
		k.Rank, k.Scope, k.Group, k.HashLen = context.Rank, context.Scope, context.Group, kv.MaxHash
	}
}

func fill(dst []kv.ObjectKey, hashes []byte, pattern []kv.ObjectKey, size int) {
	for len(dst) > 0 {
		for j := range pattern {
			dst[j] = pattern[j]
			dst[j].HashLen = uint8(size)
			copy(dst[j].Hash[:], hashes[:size])
		}
		dst, hashes = dst[len(pattern):], hashes[size:]
	}
}
