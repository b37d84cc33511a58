package main

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
)

// appendRecordBrief appends record number n as one line. argsErr says why there
// are no arguments.
func appendRecordBrief(b []byte, n int64, rec *trace.Record, a *trace.Args, argsErr error) []byte {
	b = fmt.Appendf(b, "%7d  %14.6f  %s", n, float64(rec.MonoNS)/1e9, shortOp(rec.Qualname))
	if argsErr != nil {
		return fmt.Appendf(b, "  cannot be decoded: %v", argsErr)
	}
	row := rec.Op.Row()
	if rec.Op == trace.OpUnknown {
		return append(b, "  (an operation that this build does not know)"...)
	}
	for _, arg := range row.Args {
		b = append(append(append(b, "  "...), arg.Name...), '=')
		switch arg.Type {
		case trace.ArgKeys:
			b = appendKeysText(b, a.Keys)
		case trace.ArgLayout:
			b = append(b, a.Layout.Desc().String()...)
		case trace.ArgMode:
			b = append(b, a.Mode.String()...)
		case trace.ArgSpec:
			b = appendSpecText(b, a.Spec)
		case trace.ArgText:
			b = pyfmt.AppendJSONString(b, a.Text)
		case trace.ArgFlag:
			b = strconv.AppendBool(b, a.Flag)
		case trace.ArgCount:
			b = strconv.AppendInt(b, a.Count, 10)
		default:
			panic("no text form for arguments of type " + arg.Type.String())
		}
	}
	return b
}

func appendKeysText(b []byte, keys []kv.ObjectKey) []byte {
	b = strconv.AppendInt(b, int64(len(keys)), 10)
	if len(keys) == 0 {
		return b
	}
	b = appendKeyText(append(b, '['), &keys[0])
	if len(keys) > 1 {
		b = appendKeyText(append(b, " … "...), &keys[len(keys)-1])
	}
	return append(b, ']')
}

// appendKeyText appends a key in the form of kv.ObjectKey.String, its hash cut
// to the first 8 bytes.
func appendKeyText(b []byte, k *kv.ObjectKey) []byte {
	hash, more := k.ChunkHash(), ""
	if len(hash) > 8 {
		hash, more = hash[:8], "…"
	}
	b = fmt.Appendf(b, "%s@%08x@%x@%x%s", k.Scope.Model(), k.Rank, k.Group, hash, more)
	if salt := k.Scope.Salt(); salt != "" {
		b = append(append(b, '@'), salt...)
	}
	return b
}

func appendSpecText(b []byte, s *kv.PrefetchSpec) []byte {
	if s == nil {
		return append(b, "none"...)
	}
	b = fmt.Appendf(b, "{policy=%v lock=%v readers=%d", s.Policy, s.Lock, s.Readers)
	if s.Flat {
		b = append(b, " flat"...)
	}
	for _, g := range s.Groups {
		b = fmt.Appendf(b, " group=%d window=%d layout=%v keys=", g.Group, g.Window, g.Layout.Desc())
		b = appendKeysText(b, g.Keys)
	}
	return append(b, '}')
}

// appendRecordJSON appends record number n as one JSON object: its number, its
// position among the calls that were made, its place in the file, its times,
// and every argument of its schema row by its name.
func appendRecordJSON(b []byte, n int64, rec *trace.Record, a *trace.Args, argsErr error) []byte {
	b = fmt.Appendf(b, `{"n": %d, "seq": %d, "offset_bytes": %d, "t_mono_ns": %d, "t_wall_ns": %d, "qualname": `,
		n, rec.Seq, rec.Offset, rec.MonoNS, rec.WallNS)
	b = pyfmt.AppendJSONString(b, rec.Qualname)
	if argsErr == nil && rec.Op == trace.OpUnknown {
		argsErr = errUnknownOp
	}
	if argsErr != nil {
		b = append(b, `, "args": null, "error": `...)
		return append(pyfmt.AppendJSONString(b, argsErr.Error()), '}')
	}
	b = append(b, `, "args": {`...)
	for i, arg := range rec.Op.Row().Args {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(pyfmt.AppendJSONString(b, arg.Name), ": "...)
		switch arg.Type {
		case trace.ArgKeys:
			b = appendKeysJSON(b, a.Keys)
		case trace.ArgLayout:
			b = appendLayoutJSON(b, a.Layout)
		case trace.ArgMode:
			b = pyfmt.AppendJSONString(b, a.Mode.String())
		case trace.ArgSpec:
			b = appendSpecJSON(b, a.Spec)
		case trace.ArgText:
			b = pyfmt.AppendJSONString(b, a.Text)
		case trace.ArgFlag:
			b = strconv.AppendBool(b, a.Flag)
		case trace.ArgCount:
			b = strconv.AppendInt(b, a.Count, 10)
		default:
			panic("no JSON form for arguments of type " + arg.Type.String())
		}
	}
	return append(b, "}}"...)
}

var errUnknownOp = fmt.Errorf("an operation that this build does not know")

func appendKeysJSON(b []byte, keys []kv.ObjectKey) []byte {
	b = append(b, '[')
	for i := range keys {
		if i > 0 {
			b = append(b, ", "...)
		}
		k := &keys[i]
		b = append(b, `{"chunk_hash_hex": "`...)
		b = hex.AppendEncode(b, k.ChunkHash())
		b = append(b, `", "model_name": `...)
		b = pyfmt.AppendJSONString(b, k.Scope.Model())
		b = fmt.Appendf(b, `, "kv_rank": %d, "object_group_id": %d, "cache_salt": `, k.Rank, k.Group)
		b = append(pyfmt.AppendJSONString(b, k.Scope.Salt()), '}')
	}
	return append(b, ']')
}

func appendLayoutJSON(b []byte, l kv.Layout) []byte {
	desc := l.Desc()
	shapes, dtypes := make([]any, len(desc.Shapes)), make([]any, len(desc.DTypes))
	for i, shape := range desc.Shapes {
		dims := make([]any, len(shape))
		for j, n := range shape {
			dims[j] = n
		}
		shapes[i], dtypes[i] = dims, desc.DTypes[i].String()
	}
	return pyfmt.AppendJSON(b, map[string]any{"shapes": shapes, "dtypes": dtypes, "size_bytes": l.Bytes()})
}

func appendSpecJSON(b []byte, s *kv.PrefetchSpec) []byte {
	if s == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"key_groups": [`...)
	for i, g := range s.Groups {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = fmt.Appendf(b, `{"object_group_id": %d, "window_chunks": %d, "layout_desc": `, g.Group, g.Window)
		b = append(appendLayoutJSON(b, g.Layout), `, "keys": `...)
		b = append(appendKeysJSON(b, g.Keys), '}')
	}
	b = fmt.Appendf(b, `], "num_kv_readers": %d, "policy": "%v", "lock_mode": "%v", "flat": %t`, s.Readers, s.Policy, s.Lock, s.Flat)
	b = appendTagsJSON(b, "allowed_l1_memory_tags", s.L1Tags)
	b = appendTagsJSON(b, "allowed_l2_memory_tags", s.L2Tags)
	return append(b, '}')
}

// appendTagsJSON appends a member of schema 2; nil, which allows all, is left
// out.
func appendTagsJSON(b []byte, name string, tags []kv.MemoryTag) []byte {
	if tags == nil {
		return b
	}
	list := make([]any, len(tags))
	for i, t := range tags {
		list[i] = map[string]any{"segment": t.Segment, "residency": t.Residency}
	}
	return pyfmt.AppendJSON(fmt.Appendf(b, `, "%s": `, name), list)
}
