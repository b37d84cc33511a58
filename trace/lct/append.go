package lct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// AppendHeader appends the frame of a header. Its schema version is taken from
// h, and the values of level_meta are written as text. It fails for a text that
// is not UTF-8, which upstream refuses, and a frame that is longer than a length
// can say.
//
// Source: reference lct-v1.md, section 1.3.
func AppendHeader(dst []byte, h *trace.Header) ([]byte, error) {
	return appendHeader(dst, h, float64(h.MonoStartNS)/1e9, wallSeconds(h.WallStartNS), nil)
}

// AppendHeaderOf appends the frame of the header h as the releases of era write
// it. What h says of the file that it was converted from counts: the very bytes in
// the same era, times and level_meta in any.
func AppendHeaderOf(dst []byte, era Era, h *trace.Header) ([]byte, error) {
	own := *h
	own.SchemaVersion = era.SchemaVersion()
	if h.Upstream == nil {
		return AppendHeader(dst, &own)
	}
	start := len(dst)
	dst = append(append(dst, 0, 0, 0, 0), h.Upstream...)
	dst, err := closeFrame(dst, start)
	if err != nil {
		return dst, err
	}
	var v [numHeaderFields]fieldValue
	if err := scanStruct(h.Upstream, "header", headerFields, v[:]); err != nil {
		return dst[:start], fmt.Errorf("header of LMCache's file: %w", err)
	}
	if from, ok := EraOf(h.Release); ok && from == era && v[hdrSchema].num.i == int64(own.SchemaVersion) {
		return dst, nil
	}
	return appendHeader(dst[:start], &own, v[hdrMono].num.f, v[hdrWall].num.f, v[hdrMeta].raw)
}

// appendHeader appends a header. meta is its level_meta, encoded; that of h if
// nil.
func appendHeader(dst []byte, h *trace.Header, monoS, wallS float64, meta []byte) ([]byte, error) {
	for _, s := range []string{string(h.Level), h.ConfigJSON, h.ConfigDigest} {
		if !utf8.ValidString(s) {
			return dst, fmt.Errorf("encode header: %w", utf8Error([]byte(s)))
		}
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	n := uint32(9)
	if len(h.LevelMeta) > 0 || meta != nil {
		n++
	}
	dst = msgp.AppendMapHeader(dst, n)
	dst = appendStr(appendStr(dst, "type"), "header")
	dst = msgp.AppendBytes(appendStr(dst, "magic"), []byte(magic))
	dst = appendInt(appendStr(dst, "format_version"), formatVersion)
	dst = appendStr(appendStr(dst, "level"), string(h.Level))
	dst = appendInt(appendStr(dst, "trace_schema_version"), int64(h.SchemaVersion))
	dst = msgp.AppendFloat64(appendStr(dst, "t_mono_start"), monoS)
	dst = msgp.AppendFloat64(appendStr(dst, "t_wall_start"), wallS)
	dst = appendStr(appendStr(dst, "sm_config_json"), h.ConfigJSON)
	dst = appendStr(appendStr(dst, "sm_config_digest"), h.ConfigDigest)
	switch {
	case meta != nil:
		dst = append(appendStr(dst, "level_meta"), meta...)
	case len(h.LevelMeta) > 0:
		dst = msgp.AppendMapHeader(appendStr(dst, "level_meta"), uint32(len(h.LevelMeta)))
		for _, m := range h.LevelMeta {
			if !utf8.ValidString(m.Key) || !utf8.ValidString(m.Value) {
				return dst[:start], fmt.Errorf("encode header: level_meta %q is not UTF-8", m.Key)
			}
			dst = appendStr(appendStr(dst, m.Key), m.Value)
		}
	}
	return closeFrame(dst, start)
}

// AppendRecord appends the frame of a record as the releases of era write it,
// and says what of the call they cannot hold. h is the header of the file that
// the record is from. Where rec.Extra has the record of the very era, that is
// what is appended. It fails, leaving dst as it was, for what those releases
// would not read: an operation whose arguments are not known, a text that is not
// UTF-8, a prefetch that is none.
//
// Source: reference lct-v1.md, sections 1.4, 2, 3.1 and 3.2.
func AppendRecord(dst []byte, era Era, h *trace.Header, rec *trace.Record, a *trace.Args) ([]byte, Loss, error) {
	start := len(dst)
	e := encoder{era: era, b: append(dst, 0, 0, 0, 0)}
	monoS, wallS := monoSeconds(rec.MonoNS, h.MonoStartNS), wallSeconds(rec.WallNS)
	if x := rec.Extra; x != nil {
		if x.Frame != nil {
			if from, ok := EraOf(h.Release); ok && from == era {
				out, err := e.verbatim(rec, start)
				return out, 0, err
			}
			e.loss |= LossForm
		}
		if x.HasMono {
			monoS = x.MonoS
		}
		if x.HasWall {
			wallS = x.WallS
		}
	}
	e.lose(LossTime, secondsToNS(monoS) != rec.MonoNS || secondsToNS(wallS) != rec.WallNS)
	e.b = msgp.AppendMapHeader(e.b, 5)
	e.b = appendStr(appendStr(e.b, "type"), "record")
	e.b = msgp.AppendFloat64(appendStr(e.b, "t_mono"), monoS)
	e.b = msgp.AppendFloat64(appendStr(e.b, "t_wall"), wallS)
	e.str("qualname", rec.Qualname)
	e.b = appendStr(e.b, "args")
	e.args(rec.Op, a)
	if e.err != nil {
		return dst[:start], 0, fmt.Errorf("encode %s: %w", rec.Qualname, e.err)
	}
	out, err := closeFrame(e.b, start)
	return out, e.loss, err
}

// verbatim appends the record of upstream's file that rec carries, if that is
// what it is: it may come from any file.
func (e *encoder) verbatim(rec *trace.Record, start int) ([]byte, error) {
	var raw rawRecord
	err := scanRecord(rec.Extra.Frame, &raw)
	if err == nil && string(raw.qualname) != rec.Qualname {
		err = fmt.Errorf("it is one of %s", raw.qualname)
	}
	if err != nil {
		return e.b[:start], fmt.Errorf("encode %s: LMCache's record: %w", rec.Qualname, err)
	}
	return closeFrame(append(e.b, rec.Extra.Frame...), start)
}

// args appends the map of the arguments.
func (e *encoder) args(op trace.Op, a *trace.Args) {
	switch op {
	case trace.OpReserveWrite:
		e.reserveWrite(a)
	case trace.OpFinishWrite, trace.OpReadPrefetchedEnter, trace.OpReadPrefetchedExit:
		e.fields(1)
		e.keys("keys", a.Keys)
	case trace.OpSubmitPrefetchTask:
		e.submitPrefetch(a)
	case trace.OpFinishReadPrefetched:
		e.fields(2)
		e.keys("keys", a.Keys)
		if e.era >= E5 {
			e.int("read_locks", a.Count)
		} else {
			e.extraCount(a.Count)
		}
	case trace.OpClear, trace.OpTouch, trace.OpDelete:
		e.fail(errNotTraced)
	case trace.OpUnknown:
		if len(a.Raw) == 0 {
			e.fail(errors.New("no such operation in LMCache"))
			return
		}
		s := scanner{b: a.Raw}
		h, n, err := s.next()
		if err == nil && h.kind == kindMap {
			err = s.strMap(n)
		}
		if err != nil || h.kind != kindMap || s.pos != len(a.Raw) {
			e.fail(errors.New("its arguments are no msgpack map"))
			return
		}
		e.b = append(e.b, a.Raw...)
	}
}

var errNotTraced = errors.New("LMCache does not trace it")

// closeFrame stores the length of the frame that begins at start.
func closeFrame(b []byte, start int) ([]byte, error) {
	n := len(b) - start - prefixSize
	if n > math.MaxUint32 {
		return b[:start], fmt.Errorf("frame of %d bytes, at most %d", n, uint32(math.MaxUint32))
	}
	binary.BigEndian.PutUint32(b[start:], uint32(n))
	return b, nil
}

func appendStr(b []byte, v string) []byte { return msgp.AppendString(b, v) }

// appendInt appends an int in its shortest form: unsigned from 0 on.
func appendInt(b []byte, v int64) []byte {
	if v >= 0 {
		return msgp.AppendUint64(b, uint64(v))
	}
	return msgp.AppendInt64(b, v)
}

// encoder appends arguments to b.
type encoder struct {
	b    []byte
	era  Era
	loss Loss
	err  error // the first
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *encoder) lose(what Loss, when bool) {
	if when {
		e.loss |= what
	}
}

func (e *encoder) fields(n uint32)          { e.b = msgp.AppendMapHeader(e.b, n) }
func (e *encoder) name(s string)            { e.b = appendStr(e.b, s) }
func (e *encoder) int(name string, v int64) { e.b = appendInt(appendStr(e.b, name), v) }
func (e *encoder) bool(name string, v bool) { e.b = msgp.AppendBool(appendStr(e.b, name), v) }
func (e *encoder) list(name string, n int) {
	e.b = msgp.AppendArrayHeader(appendStr(e.b, name), uint32(n))
}

// str appends a str. Upstream's decoder refuses one that is not UTF-8.
func (e *encoder) str(name, v string) {
	if !utf8.ValidString(v) {
		e.fail(fmt.Errorf("%s %q is not UTF-8", name, v))
	}
	e.b = appendStr(appendStr(e.b, name), v)
}

func (e *encoder) member(name, tag, v string) { e.name(name); e.tag(tag); e.b = appendStr(e.b, v) }

// tag begins a codec's wrapper; the payload follows.
func (e *encoder) tag(tag string) {
	e.b = append(e.b, "\x82\xa5__t__"...)
	e.b = appendStr(e.b, tag)
	e.b = append(e.b, "\xa1v"...)
}

// readers writes a number of readers, which is 1 at least.
func (e *encoder) readers(s *kv.PrefetchSpec) {
	e.lose(LossLocks, s.Readers < 1)
	e.int("num_kv_readers", int64(max(s.Readers, 1)))
}

// extraCount writes read locks as those beyond the first.
func (e *encoder) extraCount(locks int64) {
	e.lose(LossLocks, locks < 1)
	e.int("extra_count", max(0, locks-1))
}

func (e *encoder) keys(name string, keys []kv.ObjectKey) {
	e.list(name, len(keys))
	for i := range keys {
		e.key(&keys[i])
	}
}

func (e *encoder) key(k *kv.ObjectKey) {
	e.lose(LossSalt, k.Scope.Salt() != "")
	e.tag(tagKey)
	if e.era == E1 {
		e.fields(3)
		e.lose(LossGroup, k.Group != 0)
	} else {
		e.fields(4)
	}
	e.name("chunk_hash")
	e.b = msgp.AppendBytes(e.b, k.ChunkHash())
	e.str("model_name", k.Scope.Model())
	e.name("kv_rank")
	e.b = msgp.AppendUint64(e.b, k.Rank)
	if e.era != E1 {
		e.int("object_group_id", int64(k.Group))
	}
}

func (e *encoder) layout(name string, l kv.Layout) {
	e.name(name)
	e.tag(tagLayout)
	e.fields(2)
	d := l.Desc()
	e.list("shapes", len(d.Shapes))
	for _, shape := range d.Shapes {
		e.b = msgp.AppendArrayHeader(e.b, uint32(len(shape)))
		for _, n := range shape {
			e.b = appendInt(e.b, n)
		}
	}
	e.list("dtypes", len(d.DTypes))
	for _, t := range d.DTypes {
		e.b = appendStr(e.b, t.String())
	}
}

func (e *encoder) reserveWrite(a *trace.Args) {
	if e.era >= E6 {
		e.lose(LossWriteMode, a.Mode != kv.ModeNew)
		e.fields(2)
		e.keys("keys", a.Keys)
		e.layout("layout_desc", a.Layout)
		return
	}
	e.fields(3)
	e.keys("keys", a.Keys)
	e.layout("layout_desc", a.Layout)
	e.str("mode", a.Mode.String())
}

// submitPrefetch writes the arguments in the order of each era's signature.
func (e *encoder) submitPrefetch(a *trace.Args) {
	s := a.Spec
	if s == nil {
		e.fail(errors.New("no spec"))
		return
	}
	if err := checkSpec(s); err != nil {
		e.fail(err)
		return
	}
	if e.era >= E6 {
		e.lose(LossShape, s.Flat)
	} else {
		e.lose(LossShape, e.losesShape(s))
		e.lose(LossLayout, s.Chunks() == 0 && hasLayout(s)) // a list without keys has no use for it
	}
	e.lose(LossTags, e.era < S2 && (s.L1Tags != nil || s.L2Tags != nil))
	e.lose(LossSkipL2, a.Flag && (e.era < E2b || e.era == S2))
	switch e.era {
	case E1, E2a, E2b, E3a:
		e.fields(map[Era]uint32{E1: 4, E2a: 5, E2b: 6, E3a: 8}[e.era])
		e.flatKeys(s)
		e.oneLayout(s)
		e.extraCount(int64(s.Readers))
		e.str("external_request_id", a.Text)
		if e.era == E1 {
			e.lose(LossPolicy, s.Policy != kv.FetchPrefix)
		} else {
			e.trimPolicy(s.Policy)
		}
		if e.era == E3a {
			e.attn(s)
		} else {
			e.lose(LossWindow, hasWindows(s))
			e.lose(LossLock, s.Lock != kv.Lock)
		}
		if e.era >= E2b {
			e.bool("skip_l2", a.Flag)
		}
		if e.era == E3a {
			e.prefetchMode(s.Lock)
		}
		return
	case S2:
		e.fields(2)
	default:
		e.fields(3)
	}
	e.name("spec")
	if e.era >= E6 {
		e.taskSpec(s)
	} else {
		e.requestSpec(s)
	}
	e.str("external_request_id", a.Text)
	if e.era != S2 {
		e.bool("skip_l2", a.Flag)
	}
}

// checkSpec returns why no release would read the spec; the number of readers
// apart, which can be put right.
func checkSpec(s *kv.PrefetchSpec) error {
	own := *s
	own.Readers = max(own.Readers, 1)
	if err := own.Validate(); err != nil {
		return err
	}
	for _, tags := range [][]kv.MemoryTag{s.L1Tags, s.L2Tags} {
		for _, t := range tags {
			if !slices.Contains(memorySegments, t.Segment) || !slices.Contains(memoryResidencies, t.Residency) {
				return fmt.Errorf("unknown memory tag %s/%s", t.Segment, t.Residency)
			}
		}
	}
	return nil
}

// losesShape reports whether the flat list that era writes is read as another
// shape than s has, by the rules of reading.
func (e *encoder) losesShape(s *kv.PrefetchSpec) bool {
	f := flatSpec{hasAttn: e.era >= E3a}
	for c := range s.Chunks() {
		for g := range s.Groups {
			k := s.Groups[g].Keys[c]
			k.Scope, _ = kv.InternScope(k.Scope.Model(), "") // it has a scope, so there is this one
			if e.era == E1 {
				k.Group = 0
			} else if s.Groups[g].Group != s.Groups[g].Keys[0].Group {
				return true
			}
			f.keys = append(f.keys, k)
		}
	}
	if f.hasAttn {
		f.windows = e.groupWindows(s)
		if e.era >= E4 {
			f.world = worldSize(s, f.windows)
		}
	}
	rows := f.contexts()
	if s.Flat {
		return rows != 0
	}
	return rows != len(s.Groups)
}

// flatKeys writes the grid as one list, chunk-major.
func (e *encoder) flatKeys(s *kv.PrefetchSpec) {
	e.list("keys", s.Chunks()*len(s.Groups))
	for c := range s.Chunks() {
		for g := range s.Groups {
			e.key(&s.Groups[g].Keys[c])
		}
	}
}

// oneLayout writes the layout of all groups.
func (e *encoder) oneLayout(s *kv.PrefetchSpec) {
	var l kv.Layout
	for i, g := range s.Groups {
		if i == 0 {
			l = g.Layout
		}
		e.lose(LossLayout, g.Layout != l)
	}
	e.layout("layout_desc", l)
}

func hasLayout(s *kv.PrefetchSpec) bool {
	for _, g := range s.Groups {
		if g.Layout != 0 {
			return true
		}
	}
	return false
}

func hasWindows(s *kv.PrefetchSpec) bool {
	for _, g := range s.Groups {
		if g.Window != kv.FullAttention {
			return true
		}
	}
	return false
}

func (e *encoder) trimPolicy(p kv.FetchPolicy) {
	names := [...]string{kv.FetchPrefix: "PREFIX", kv.FetchFull: "SPARSE", kv.FetchSegmentedPrefix: "SEGMENTED_PREFIX"}
	e.member("policy", tagTrim, names[p])
}

func (e *encoder) prefetchMode(m kv.LockMode) {
	names := [...]string{kv.Lock: "LOOKUP", kv.NoLock: "WARM"}
	e.member("mode", tagMode, names[m])
}

// attn writes the windows by object group. Ranks of a group have the same one.
func (e *encoder) attn(s *kv.PrefetchSpec) {
	windows := e.groupWindows(s)
	e.name("attn_desc")
	e.tag(tagAttn)
	if e.era < E4 {
		e.windows(windows)
		return
	}
	e.fields(2)
	e.name("num_chunks_in_sw")
	e.windows(windows)
	e.int("world_size", worldSize(s, windows))
}

// groupWindows returns the windows of the object groups, in the order in which
// these appear.
func (e *encoder) groupWindows(s *kv.PrefetchSpec) (windows []int32) {
	for i := range s.Groups {
		if first := firstRow(s, i); first == i {
			windows = append(windows, s.Groups[i].Window)
		} else {
			e.lose(LossWindow, s.Groups[i].Window != s.Groups[first].Window)
		}
	}
	return windows
}

// worldSize returns how many ranks each object group has.
func worldSize(s *kv.PrefetchSpec, windows []int32) int64 {
	return int64(max(1, len(s.Groups)/max(1, len(windows))))
}

// rowGroup returns the object group of a row. A flat list has it in the keys.
func rowGroup(g *kv.KeyGroup) uint32 {
	if len(g.Keys) > 0 {
		return g.Keys[0].Group
	}
	return g.Group
}

// firstRow returns the first row of the object group of row i.
func firstRow(s *kv.PrefetchSpec, i int) int {
	for j := range i {
		if rowGroup(&s.Groups[j]) == rowGroup(&s.Groups[i]) {
			return j
		}
	}
	return i
}

func (e *encoder) windows(w []int32) {
	e.b = msgp.AppendArrayHeader(e.b, uint32(len(w)))
	for _, v := range w {
		e.b = appendInt(e.b, int64(v))
	}
}

// requestSpec writes a PrefetchRequestSpec.
func (e *encoder) requestSpec(s *kv.PrefetchSpec) {
	e.tag(tagRequestSpec)
	e.fields(6)
	e.flatKeys(s)
	if e.era == E3b {
		e.oneLayout(s)
	}
	if e.era == E5 {
		e.readers(s)
	} else {
		e.extraCount(int64(s.Readers))
	}
	e.trimPolicy(s.Policy)
	e.attn(s)
	if e.era != E3b {
		e.groupLayouts(s)
	}
	e.prefetchMode(s.Lock)
}

// groupLayouts writes the layouts by object group. E5 demands one for each number
// below that of the windows, whatever the groups are called.
func (e *encoder) groupLayouts(s *kv.PrefetchSpec) {
	type entry struct {
		group  uint32
		layout kv.Layout
	}
	var list []entry
	for i := range s.Groups {
		if first := firstRow(s, i); first == i {
			list = append(list, entry{rowGroup(&s.Groups[i]), s.Groups[i].Layout})
		} else {
			e.lose(LossLayout, s.Groups[i].Layout != s.Groups[first].Layout)
		}
	}
	if e.era == E5 {
		for id := range uint32(len(list)) {
			if !slices.ContainsFunc(list, func(g entry) bool { return g.group == id }) {
				list = append(list, entry{id, list[0].layout})
			}
		}
	}
	e.name("group_layout_descs")
	e.fields(uint32(len(list)))
	for _, g := range list {
		e.layout(strconv.FormatUint(uint64(g.group), 10), g.layout)
	}
}

// taskSpec writes a PrefetchTaskSpec.
func (e *encoder) taskSpec(s *kv.PrefetchSpec) {
	e.tag(tagTaskSpec)
	if e.era == S2 {
		e.fields(6)
	} else {
		e.fields(4)
	}
	e.list("key_groups", len(s.Groups))
	for _, g := range s.Groups {
		e.tag(tagGroup)
		e.fields(4)
		e.keys("keys", g.Keys)
		e.int("object_group_id", int64(g.Group))
		e.layout("layout_desc", g.Layout)
		e.int("sliding_window_size", int64(g.Window))
	}
	e.readers(s)
	policy := s.Policy
	if policy == kv.FetchSegmentedPrefix {
		e.lose(LossPolicy, true)
		policy = kv.FetchFull
	}
	e.str("fetching_policy", policy.String())
	e.member("lock_mode", tagLock, s.Lock.String())
	if e.era == S2 {
		e.memoryTags("allowed_l1_memory_tags", s.L1Tags)
		e.memoryTags("allowed_l2_memory_tags", s.L2Tags)
	}
}

func (e *encoder) memoryTags(name string, tags []kv.MemoryTag) {
	if tags == nil {
		e.name(name)
		e.b = msgp.AppendNil(e.b)
		return
	}
	e.list(name, len(tags))
	for _, t := range tags {
		e.tag(tagMemory)
		e.fields(2)
		e.str("segment", t.Segment)
		e.str("residency", t.Residency)
	}
}
