package trace

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/kv"
)

// The arguments of a call in the ring, made to be written fast by the caller
// and to be read by any process. Everything is in 8-byte words of the machine's
// byte order; an argument follows the other in the order of the schema row.
//
//	keys    count | runs<<32, then for each run of keys that differ in the hash only:
//	        count | hash length<<32, scope id | group<<32, rank, count × 32 bytes of hash
//	layout  layout id
//	mode, flag, count: the value
//	text    length, bytes, zero up to a multiple of 8
//	spec    flags | policy<<8 | lock mode<<16 | readers<<32; number of groups;
//	        for each group: group | layout id<<32, window, keys;
//	        for each tag list that is not nil: count, then segment and residency as text
//
// Scope and layout ids are those of the recording process; the definitions in
// the ring say what they stand for.
const (
	ringRunBytes   = 24
	ringGroupBytes = 24 // the least of a group: two words and an empty list

	specPresent  = 1 << 0
	specFlat     = 1 << 1
	specL1Tagged = 1 << 2 // L1Tags is not nil
	specL2Tagged = 1 << 3
)

func ringWord(b []byte, off int) uint64       { return binary.NativeEndian.Uint64(b[off : off+8]) }
func putRingWord(b []byte, off int, v uint64) { binary.NativeEndian.PutUint64(b[off:off+8], v) }

// ringArgsSize returns the bytes of a's arguments in the ring, a multiple of 8, and
// the number of runs in a.Keys; known is false if an id still needs a definition.
func ringArgsSize(args []Arg, a *Args, d *ringDefs) (n, runs int, known bool) {
	known = true
	for i := range args {
		switch args[i].Type {
		case ArgKeys:
			var ok bool
			runs, ok = countRuns(a.Keys, d)
			n += 8 + runs*ringRunBytes + len(a.Keys)*kv.MaxHash
			known = known && ok
		case ArgLayout:
			n += 8
			known = known && d.layouts.has(uint32(a.Layout))
		case ArgText:
			n += ringTextSize(a.Text)
		case ArgSpec:
			size, ok := ringSpecSize(a.Spec, d)
			n += size
			known = known && ok
		default:
			n += 8
		}
	}
	return n, runs, known
}

func ringTextSize(s string) int { return 8 + (len(s)+7)&^7 }

func ringSpecSize(s *kv.PrefetchSpec, d *ringDefs) (n int, known bool) {
	if s == nil {
		return 8, true
	}
	n, known = 16, true
	for i := range s.Groups {
		g := &s.Groups[i]
		runs, ok := countRuns(g.Keys, d)
		n += ringGroupBytes + runs*ringRunBytes + len(g.Keys)*kv.MaxHash
		known = known && ok && d.layouts.has(uint32(g.Layout))
	}
	for _, tags := range [...][]kv.MemoryTag{s.L1Tags, s.L2Tags} {
		if tags == nil {
			continue
		}
		n += 8
		for i := range tags {
			n += ringTextSize(tags[i].Segment) + ringTextSize(tags[i].Residency)
		}
	}
	return n, known
}

// countRuns returns the number of runs in keys, and whether their scopes are
// defined.
func countRuns(keys []kv.ObjectKey, d *ringDefs) (runs int, known bool) {
	known = true
	for len(keys) > 0 {
		known = known && d.scopes.has(uint32(keys[0].Scope))
		runs++
		keys = keys[runLength(keys):]
	}
	return runs, known
}

// runLength returns how many of keys, which is not empty, differ from the first
// in the hash only.
func runLength(keys []kv.ObjectKey) int {
	first := &keys[0]
	rank, scope, group, hashLen := first.Rank, first.Scope, first.Group, first.HashLen
	for i := 1; i < len(keys); i++ {
		k := &keys[i]
		if k.Rank != rank || k.Scope != scope || k.Group != group || k.HashLen != hashLen {
			return i
		}
	}
	return len(keys)
}

// opShape says what the arguments of an operation look like in the ring.
type opShape struct {
	keysFirst bool  // and words behind them: the usual ones
	layout    bool  // one of the words is a layout
	words     []Arg // the arguments behind the keys
}

func shapeOf(args []Arg) opShape {
	s := opShape{keysFirst: len(args) > 0 && args[0].Type == ArgKeys}
	if !s.keysFirst {
		return s
	}
	s.words = args[1:]
	for i := range s.words {
		switch s.words[i].Type {
		case ArgLayout:
			s.layout = true
		case ArgMode, ArgFlag, ArgCount:
		default:
			s.keysFirst = false
		}
	}
	return s
}

// putWords writes arguments of one word each.
//
//go:nosplit
func putWords(b []byte, words []Arg, a *Args) {
	for i := range words {
		v := uint64(0)
		switch words[i].Type {
		case ArgLayout:
			v = uint64(a.Layout)
		case ArgMode:
			v = uint64(a.Mode)
		case ArgFlag:
			if a.Flag {
				v = 1
			}
		case ArgCount:
			v = uint64(a.Count)
		}
		putRingWord(b, 8*i, v)
	}
}

// putRingArgs writes a's arguments into b, which is zero and of the size that
// ringArgsSize gave together with runs.
func putRingArgs(b []byte, args []Arg, a *Args, runs int) {
	w := ringArgsWriter{b}
	for i := range args {
		switch args[i].Type {
		case ArgKeys:
			w.keys(a.Keys, runs)
		case ArgLayout:
			w.word(uint64(a.Layout))
		case ArgMode:
			w.word(uint64(a.Mode))
		case ArgSpec:
			w.spec(a.Spec)
		case ArgText:
			w.text(a.Text)
		case ArgFlag:
			var v uint64
			if a.Flag {
				v = 1
			}
			w.word(v)
		case ArgCount:
			w.word(uint64(a.Count))
		}
	}
}

// ringArgsWriter writes arguments one behind the other into zero bytes.
type ringArgsWriter struct {
	rest []byte // as long as what is still to be written
}

func (w *ringArgsWriter) word(v uint64) {
	putRingWord(w.rest, 0, v)
	w.rest = w.rest[8:]
}

func (w *ringArgsWriter) text(s string) {
	putRingWord(w.rest, 0, uint64(len(s)))
	copy(w.rest[8:], s)
	w.rest = w.rest[ringTextSize(s):]
}

// keys writes a key list of as many runs. A list of one run, the usual one, is
// copied without looking for its end.
func (w *ringArgsWriter) keys(keys []kv.ObjectKey, runs int) {
	b := w.rest
	putRingWord(b, 0, uint64(len(keys))|uint64(runs)<<32)
	b = b[8:]
	for len(keys) > 0 {
		n := len(keys)
		if runs != 1 {
			n = runLength(keys)
		}
		first := &keys[0]
		putRingWord(b, 0, uint64(n)|uint64(first.HashLen)<<32)
		putRingWord(b, 8, uint64(first.Scope)|uint64(first.Group)<<32)
		putRingWord(b, 16, first.Rank)
		b = b[ringRunBytes:]
		hashes := b[:n*kv.MaxHash]
		for i := range keys[:n] {
			*(*[kv.MaxHash]byte)(hashes) = keys[i].Hash
			hashes = hashes[kv.MaxHash:]
		}
		b, keys = b[n*kv.MaxHash:], keys[n:]
	}
	w.rest = b
}

func (w *ringArgsWriter) spec(s *kv.PrefetchSpec) {
	if s == nil {
		w.word(0)
		return
	}
	flags := uint64(specPresent) | uint64(s.Policy)<<8 | uint64(s.Lock)<<16 | uint64(uint32(s.Readers))<<32
	if s.Flat {
		flags |= specFlat
	}
	if s.L1Tags != nil {
		flags |= specL1Tagged
	}
	if s.L2Tags != nil {
		flags |= specL2Tagged
	}
	w.word(flags)
	w.word(uint64(len(s.Groups)))
	for i := range s.Groups {
		g := &s.Groups[i]
		w.word(uint64(g.Group) | uint64(g.Layout)<<32)
		w.word(uint64(uint32(g.Window)))
		w.keys(g.Keys, numRuns(g.Keys))
	}
	w.tags(s.L1Tags)
	w.tags(s.L2Tags)
}

// numRuns returns the number of runs in keys.
func numRuns(keys []kv.ObjectKey) (runs int) {
	for ; len(keys) > 0; runs++ {
		keys = keys[runLength(keys):]
	}
	return runs
}

func (w *ringArgsWriter) tags(tags []kv.MemoryTag) {
	if tags == nil {
		return
	}
	w.word(uint64(len(tags)))
	for i := range tags {
		w.text(tags[i].Segment)
		w.text(tags[i].Residency)
	}
}

// ringArgs takes the arguments of a frame apart. It trusts nothing: the frame
// may be what a dead process left. The first thing that is wrong ends it.
type ringArgs struct {
	rest []byte
	ids  *ringIDs
	err  error
}

// decodeRingArgs is the inverse of putRingArgs: it fills a, and spec if the frame has
// one, reusing the memory of their slices, so that it allocates for texts alone.
// Ids become those of this process. What a refers to is valid until the next
// call with the same a or spec.
func decodeRingArgs(b []byte, args []Arg, ids *ringIDs, a *Args, spec *kv.PrefetchSpec) error {
	d := ringArgs{rest: b, ids: ids}
	*a = Args{Keys: a.Keys[:0]}
	for i := range args {
		switch args[i].Type {
		case ArgKeys:
			a.Keys = d.keys(a.Keys)
		case ArgLayout:
			a.Layout = d.layout(d.word())
		case ArgMode:
			a.Mode = kv.WriteMode(d.word())
		case ArgSpec:
			a.Spec = d.spec(spec)
		case ArgText:
			a.Text = d.text()
		case ArgFlag:
			a.Flag = d.word() != 0
		case ArgCount:
			a.Count = int64(d.word())
		}
	}
	if d.err == nil && len(d.rest) != 0 {
		d.fail("%d bytes left over", len(d.rest))
	}
	return d.err
}

func (d *ringArgs) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("ring frame: "+format, args...)
	}
	d.rest = nil
}

// word returns the next word, 0 when there is none.
func (d *ringArgs) word() uint64 {
	if len(d.rest) < 8 {
		d.fail("cut off")
		return 0
	}
	v := ringWord(d.rest, 0)
	d.rest = d.rest[8:]
	return v
}

// count returns n if as many items of at least size bytes can follow, else 0.
func (d *ringArgs) count(n uint64, size int) int {
	if n > uint64(len(d.rest)/size) {
		d.fail("%d items of %d bytes in %d bytes", n, size, len(d.rest))
		return 0
	}
	return int(n)
}

func (d *ringArgs) text() string {
	n := d.count(d.word(), 1)
	padded := (n + 7) &^ 7
	if padded > len(d.rest) {
		d.fail("text of %d bytes is cut off", n)
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[padded:]
	return s
}

func (d *ringArgs) layout(id uint64) kv.Layout {
	if id > math.MaxUint32 {
		d.fail("layout id %d", id)
		return 0
	}
	l, err := d.ids.layout(uint32(id))
	if err != nil {
		d.fail("%w", err)
	}
	return l
}

// keys reads a key list into the memory of into. It works on copies of the
// fields, in registers: it is what the drain does for nearly every call.
func (d *ringArgs) keys(into []kv.ObjectKey) []kv.ObjectKey {
	head := d.word()
	total, runs := d.count(head&math.MaxUint32, kv.MaxHash), d.count(head>>32, ringRunBytes)
	if cap(into) < total {
		into = make([]kv.ObjectKey, total)
	}
	into = into[:total]
	left, b := into, d.rest
	for range runs {
		if len(b) < ringRunBytes {
			d.fail("cut off in a key list")
			return into[:0]
		}
		size, ids, rank := ringWord(b, 0), ringWord(b, 8), ringWord(b, 16)
		b = b[ringRunBytes:]
		n, hashLen := int(size&math.MaxUint32), size>>32
		if n == 0 || n > len(left) || n > len(b)/kv.MaxHash || hashLen > kv.MaxHash {
			d.fail("run of %d keys with hashes of %d bytes, where %d keys and %d bytes are left", n, hashLen, len(left), len(b))
			return into[:0]
		}
		scope, err := d.ids.scope(uint32(ids))
		if err != nil {
			d.fail("%w", err)
			return into[:0]
		}
		group := uint32(ids >> 32)
		for i := range left[:n] {
			k := &left[i]
			k.Hash = [kv.MaxHash]byte(b)
			k.Rank, k.Scope, k.Group, k.HashLen = rank, scope, group, uint8(hashLen)
			b = b[kv.MaxHash:]
		}
		left = left[n:]
	}
	if d.err != nil || len(left) > 0 {
		d.fail("%d keys missing", len(left))
		return into[:0]
	}
	d.rest = b
	return into
}

// spec fills s and returns it, or nil if the frame has none.
func (d *ringArgs) spec(s *kv.PrefetchSpec) *kv.PrefetchSpec {
	flags := d.word()
	if flags&specPresent == 0 {
		return nil
	}
	n := d.count(d.word(), ringGroupBytes)
	groups := s.Groups[:cap(s.Groups)]
	if len(groups) < n {
		groups = append(groups, make([]kv.KeyGroup, n-len(groups))...)
	}
	*s = kv.PrefetchSpec{
		Groups:  groups[:n],
		Readers: int32(flags >> 32),
		Policy:  kv.FetchPolicy(flags >> 8),
		Lock:    kv.LockMode(flags >> 16),
		Flat:    flags&specFlat != 0,
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		ids := d.word()
		g.Group = uint32(ids)
		g.Layout = d.layout(ids >> 32)
		g.Window = int32(d.word())
		g.Keys = d.keys(g.Keys[:0])
	}
	if flags&specL1Tagged != 0 {
		s.L1Tags = d.tags()
	}
	if flags&specL2Tagged != 0 {
		s.L2Tags = d.tags()
	}
	return s
}

func (d *ringArgs) tags() []kv.MemoryTag {
	tags := make([]kv.MemoryTag, d.count(d.word(), 16))
	for i := range tags {
		tags[i] = kv.MemoryTag{Segment: d.text(), Residency: d.text()}
	}
	return tags
}
