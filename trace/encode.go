package trace

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// FORMAT.md, sections 4.5 and 4.6.
const (
	maxListKeys = 1 << 20 // keys in all lists of one call
	maxPattern  = 256     // contexts
)

// keyContext is what a key has beside its hash.
type keyContext struct {
	rank  uint64
	scope kv.Scope
	group uint32
}

func contextOf(k *kv.ObjectKey) keyContext { return keyContext{k.Rank, k.Scope, k.Group} }

// checkArgs reports what of a the format cannot hold, before anything of it is
// interned.
func checkArgs(row *Row, a *Args) error {
	keys := 0
	check := func(list []kv.ObjectKey) error {
		for i := range list {
			if list[i].HashLen > kv.MaxHash {
				return fmt.Errorf("key %d: chunk hash of %d bytes, at most %d", i, list[i].HashLen, kv.MaxHash)
			}
		}
		if keys += len(list); keys > maxListKeys {
			return fmt.Errorf("%w: more than %d keys", ErrTooLarge, maxListKeys)
		}
		return nil
	}
	for _, arg := range row.Args {
		switch arg.Type {
		case ArgKeys:
			if err := check(a.Keys); err != nil {
				return err
			}
		case ArgMode:
			if a.Mode > kv.ModeAll {
				return fmt.Errorf("write mode %d", a.Mode)
			}
		case ArgText:
			if len(a.Text) > maxPayload/2 {
				return fmt.Errorf("%w: text of %d bytes", ErrTooLarge, len(a.Text))
			}
		case ArgRaw:
			if len(a.Raw) > maxPayload/2 {
				return fmt.Errorf("%w: arguments of %d bytes", ErrTooLarge, len(a.Raw))
			}
		case ArgSpec:
			if a.Spec == nil {
				return fmt.Errorf("argument %s is missing", arg.Name)
			}
			if a.Spec.Policy > kv.FetchSegmentedPrefix || a.Spec.Lock > kv.NoLock {
				return fmt.Errorf("fetch policy %d, lock mode %d", a.Spec.Policy, a.Spec.Lock)
			}
			if len(a.Spec.Groups) > maxListKeys {
				return fmt.Errorf("%w: more than %d key groups", ErrTooLarge, maxListKeys)
			}
			for i := range a.Spec.Groups {
				if err := check(a.Spec.Groups[i].Keys); err != nil {
					return fmt.Errorf("group %d: %w", i, err)
				}
			}
		}
	}
	return nil
}

// appendArgs appends the arguments of row to b. It writes the definitions that
// they need and interns the keys.
func (w *writer) appendArgs(b []byte, row *Row, a *Args) ([]byte, error) {
	for _, arg := range row.Args {
		var err error
		switch arg.Type {
		case ArgKeys:
			b, err = w.appendKeys(b, a.Keys)
		case ArgLayout:
			b, err = w.appendLayout(b, a.Layout)
		case ArgMode:
			b = append(b, uint8(a.Mode))
		case ArgSpec:
			b, err = w.appendSpec(b, a.Spec)
		case ArgText:
			b = appendStr(b, a.Text)
		case ArgFlag:
			b = append(b, boolByte(a.Flag))
		case ArgCount:
			b = binary.AppendVarint(b, a.Count)
		case ArgRaw:
			b = append(binary.AppendUvarint(b, uint64(len(a.Raw))), a.Raw...)
		default:
			err = fmt.Errorf("argument %s of type %d", arg.Name, arg.Type)
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

func (w *writer) appendSpec(b []byte, s *kv.PrefetchSpec) ([]byte, error) {
	b = append(b, boolByte(s.Flat)|boolByte(s.L1Tags != nil)<<1|boolByte(s.L2Tags != nil)<<2, uint8(s.Policy), uint8(s.Lock))
	b = binary.AppendVarint(b, int64(s.Readers))
	b = binary.AppendUvarint(b, uint64(len(s.Groups)))
	for i := range s.Groups {
		g := &s.Groups[i]
		b = binary.AppendUvarint(b, uint64(g.Group))
		var err error
		if b, err = w.appendLayout(b, g.Layout); err != nil {
			return b, err
		}
		b = binary.AppendVarint(b, int64(g.Window))
		if b, err = w.appendKeys(b, g.Keys); err != nil {
			return b, err
		}
	}
	for _, tags := range [][]kv.MemoryTag{s.L1Tags, s.L2Tags} {
		if tags == nil {
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(tags)))
		for _, t := range tags {
			b = appendStr(appendStr(b, t.Segment), t.Residency)
		}
	}
	return b, nil
}

// appendKeys appends a key list as segments.
func (w *writer) appendKeys(b []byte, keys []kv.ObjectKey) ([]byte, error) {
	if len(keys) == 0 {
		return append(b, 0), nil
	}
	for len(keys) > 0 {
		pattern, width, err := w.pattern(keys)
		if err != nil {
			return b, err
		}
		var end uint32
		count, at, expected := 0, 0, 0
		for at+width <= len(keys) && (at == 0 || continues(keys[:width], keys[at:at+width])) {
			if width == 1 && len(keys) > 1 {
				n := 0
				if n, end = w.chains.known(end, &keys[0], keys[at:]); n > 0 {
					count += n
					at += n
					continue
				}
			}
			n := w.chains.follow(end, &keys[at])
			if n == 0 {
				break // known, but behind another node
			}
			end = n
			count++
			at += width
			if int(n) == w.chains.len() && at >= expected { // it may be new
				expected = min(at+16*width, len(keys))
				w.chains.expect(keys[at:expected], width)
			}
		}
		keys = keys[at:]
		b = binary.AppendUvarint(b, uint64(pattern)<<1|uint64(boolByte(len(keys) > 0)))
		b = binary.AppendUvarint(b, uint64(end))
		b = binary.AppendUvarint(b, uint64(count))
	}
	return b, nil
}

// pattern returns the pattern that keys begin with: the contexts of the leading
// keys that share a hash.
func (w *writer) pattern(keys []kv.ObjectKey) (id uint32, width int, err error) {
	if width = patternWidth(keys); width == 1 {
		c := contextOf(&keys[0])
		if c == w.lastContext && w.lastPattern != 0 {
			return w.lastPattern, 1, nil
		}
		id, ok := w.single[c]
		if !ok {
			if id, err = w.definePattern(keys[:1]); err != nil {
				return 0, 0, err
			}
			w.single[c] = id
		}
		w.lastContext, w.lastPattern = c, id
		return id, 1, nil
	}
	w.patternKey = w.patternKey[:0]
	for i := range keys[:width] {
		k := &keys[i]
		w.patternKey = binary.LittleEndian.AppendUint64(w.patternKey, k.Rank)
		w.patternKey = binary.LittleEndian.AppendUint32(w.patternKey, uint32(k.Scope))
		w.patternKey = binary.LittleEndian.AppendUint32(w.patternKey, k.Group)
	}
	id, ok := w.grids[string(w.patternKey)]
	if !ok {
		if id, err = w.definePattern(keys[:width]); err != nil {
			return 0, 0, err
		}
		w.grids[string(w.patternKey)] = id
	}
	return id, width, nil
}

// patternWidth returns how many of keys, at least one, share the first one's
// hash and so make a pattern.
func patternWidth(keys []kv.ObjectKey) int {
	first := &keys[0]
	width := 1
	for width < len(keys) && width < maxPattern {
		if k := &keys[width]; !sameHash(&k.Hash, &first.Hash) || k.HashLen != first.HashLen {
			break
		}
		width++
	}
	return width
}

// continues reports whether column has one hash and the contexts of first.
func continues(first, column []kv.ObjectKey) bool {
	for i := range column {
		k, f := &column[i], &first[i]
		if k.Rank != f.Rank || k.Scope != f.Scope || k.Group != f.Group {
			return false
		}
		if i > 0 && (!sameHash(&k.Hash, &column[0].Hash) || k.HashLen != column[0].HashLen) {
			return false
		}
	}
	return true
}

// definePattern writes the definition of the contexts of keys.
func (w *writer) definePattern(keys []kv.ObjectKey) (uint32, error) {
	ids := make([]uint32, len(keys))
	for i := range keys {
		var err error
		if ids[i], err = w.scope(keys[i].Scope); err != nil {
			return 0, err
		}
	}
	w.patterns++
	b := w.define(w.patterns)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for i := range keys {
		b = binary.AppendUvarint(b, uint64(ids[i]))
		b = binary.AppendUvarint(b, keys[i].Rank)
		b = binary.AppendUvarint(b, uint64(keys[i].Group))
	}
	return w.patterns, w.emit(kindPattern, 0, b)
}

// scope returns the file's id of s.
func (w *writer) scope(s kv.Scope) (uint32, error) {
	if s == 0 {
		return 0, nil
	}
	if id, ok := w.scopes[s]; ok {
		return id, nil
	}
	id := uint32(len(w.scopes) + 1)
	w.scopes[s] = id
	b := appendStr(appendStr(w.define(id), s.Model()), s.Salt())
	return id, w.emit(kindScope, 0, b)
}

// appendLayout appends the file's id of l.
func (w *writer) appendLayout(b []byte, l kv.Layout) ([]byte, error) {
	if l == 0 {
		return append(b, 0), nil
	}
	id, ok := w.layouts[l]
	if !ok {
		id = uint32(len(w.layouts) + 1)
		w.layouts[l] = id
		desc := l.Desc()
		d := binary.AppendUvarint(w.define(id), uint64(len(desc.Shapes)))
		for i, shape := range desc.Shapes {
			d = appendStr(d, strings.TrimPrefix(desc.DTypes[i].String(), "torch."))
			d = binary.AppendUvarint(d, uint64(len(shape)))
			for _, n := range shape {
				d = binary.AppendUvarint(d, uint64(n))
			}
		}
		if err := w.emit(kindLayout, 0, d); err != nil {
			return b, err
		}
	}
	return binary.AppendUvarint(b, uint64(id)), nil
}

// operation returns the file's number of row's operation.
func (w *writer) operation(row *Row) (uint16, error) {
	if w.opsDefined[row.Op] {
		return uint16(row.Op), nil
	}
	w.opsDefined[row.Op] = true
	return uint16(row.Op), w.defineOp(uint16(row.Op), row)
}

func (w *writer) defineOp(id uint16, row *Row) error {
	b := appendStr(w.defs[:frameStart], row.Qualname)
	b = binary.AppendUvarint(b, uint64(len(row.Args)))
	for _, arg := range row.Args {
		b = appendStr(appendStr(b, arg.Name), arg.Type.String())
	}
	b = binary.AppendUvarint(b, uint64(len(row.Counts)))
	for _, name := range row.Counts {
		b = appendStr(b, name)
	}
	return w.emit(kindOp, id, b)
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
