package lct

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// AppendHeader appends the frame of a header. Its schema version is taken from
// h, and the values of level_meta are written as text. It fails only for a
// frame that is longer than a length can say.
//
// Source: reference lct-v1.md, section 1.3.
func AppendHeader(dst []byte, h *trace.Header) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	n := uint32(9)
	if len(h.LevelMeta) > 0 {
		n++
	}
	dst = msgp.AppendMapHeader(dst, n)
	dst = appendStr(appendStr(dst, "type"), "header")
	dst = msgp.AppendBytes(appendStr(dst, "magic"), []byte(magic))
	dst = appendInt(appendStr(dst, "format_version"), formatVersion)
	dst = appendStr(appendStr(dst, "level"), string(h.Level))
	dst = appendInt(appendStr(dst, "trace_schema_version"), int64(h.SchemaVersion))
	dst = msgp.AppendFloat64(appendStr(dst, "t_mono_start"), float64(h.MonoStartNS)/1e9)
	dst = msgp.AppendFloat64(appendStr(dst, "t_wall_start"), wallSeconds(h.WallStartNS))
	dst = appendStr(appendStr(dst, "sm_config_json"), h.ConfigJSON)
	dst = appendStr(appendStr(dst, "sm_config_digest"), h.ConfigDigest)
	if len(h.LevelMeta) > 0 {
		dst = msgp.AppendMapHeader(appendStr(dst, "level_meta"), uint32(len(h.LevelMeta)))
		for _, m := range h.LevelMeta {
			dst = appendStr(appendStr(dst, m.Key), m.Value)
		}
	}
	return closeFrame(dst, start)
}

// AppendRecord appends the frame of a record as the releases of era write it,
// and says what of the call they cannot. h is the header of the same file. It
// fails, leaving dst as it was, for an operation that upstream does not have.
//
// Source: reference lct-v1.md, sections 1.4, 2, 3.1 and 3.2.
func AppendRecord(dst []byte, era Era, h *trace.Header, rec *trace.Record, a *trace.Args) ([]byte, Loss, error) {
	start := len(dst)
	e := encoder{era: era, b: append(dst, 0, 0, 0, 0)}
	e.b = msgp.AppendMapHeader(e.b, 5)
	e.b = appendStr(appendStr(e.b, "type"), "record")
	e.b = msgp.AppendFloat64(appendStr(e.b, "t_mono"), monoSeconds(rec.MonoNS, h.MonoStartNS))
	e.b = msgp.AppendFloat64(appendStr(e.b, "t_wall"), wallSeconds(rec.WallNS))
	e.b = appendStr(appendStr(e.b, "qualname"), rec.Qualname)
	e.b = appendStr(e.b, "args")
	switch rec.Op {
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
		if era >= E5 {
			e.int("read_locks", a.Count)
		} else {
			e.extraCount(a.Count)
		}
	default:
		return dst[:start], 0, fmt.Errorf("encode %s: no such operation in LMCache", rec.Qualname)
	}
	out, err := closeFrame(e.b, start)
	return out, e.loss, err
}

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
}

func (e *encoder) lose(what Loss, when bool) {
	if when {
		e.loss |= what
	}
}

func (e *encoder) fields(n uint32)          { e.b = msgp.AppendMapHeader(e.b, n) }
func (e *encoder) name(s string)            { e.b = appendStr(e.b, s) }
func (e *encoder) str(name, v string)       { e.b = appendStr(appendStr(e.b, name), v) }
func (e *encoder) int(name string, v int64) { e.b = appendInt(appendStr(e.b, name), v) }
func (e *encoder) bool(name string, v bool) { e.b = msgp.AppendBool(appendStr(e.b, name), v) }
func (e *encoder) list(name string, n int) {
	e.b = msgp.AppendArrayHeader(appendStr(e.b, name), uint32(n))
}
func (e *encoder) member(name, tag, v string) { e.name(name); e.tag(tag); e.b = appendStr(e.b, v) }

// tag begins a codec's wrapper; the payload follows.
func (e *encoder) tag(tag string) {
	e.b = append(e.b, "\x82\xa5__t__"...)
	e.b = appendStr(e.b, tag)
	e.b = append(e.b, "\xa1v"...)
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
	var windows []int32
	for i := range s.Groups {
		if first := firstRow(s, i); first == i {
			windows = append(windows, s.Groups[i].Window)
		} else {
			e.lose(LossWindow, s.Groups[i].Window != s.Groups[first].Window)
		}
	}
	e.name("attn_desc")
	e.tag(tagAttn)
	if e.era < E4 {
		e.windows(windows)
		return
	}
	e.fields(2)
	e.name("num_chunks_in_sw")
	e.windows(windows)
	e.int("world_size", int64(max(1, len(s.Groups)/max(1, len(windows)))))
}

// firstRow returns the first row of the object group of row i.
func firstRow(s *kv.PrefetchSpec, i int) int {
	for j := range i {
		if s.Groups[j].Group == s.Groups[i].Group {
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
		e.int("num_kv_readers", int64(s.Readers))
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

func (e *encoder) groupLayouts(s *kv.PrefetchSpec) {
	n := uint32(0)
	for i := range s.Groups {
		if first := firstRow(s, i); first == i {
			n++
		} else {
			e.lose(LossLayout, s.Groups[i].Layout != s.Groups[first].Layout)
		}
	}
	e.name("group_layout_descs")
	e.fields(n)
	for i, g := range s.Groups {
		if firstRow(s, i) == i {
			e.layout(strconv.FormatUint(uint64(g.Group), 10), g.Layout)
		}
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
	e.int("num_kv_readers", int64(s.Readers))
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
