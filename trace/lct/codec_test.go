package lct

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/tinylib/msgp/msgp"
)

// pack encodes a value by hand-made rules: raw bytes are msgpack already, dict
// keeps its order.
func pack(v any) []byte {
	switch v := v.(type) {
	case raw:
		return v
	case dict:
		b := msgp.AppendMapHeader(nil, uint32(len(v)/2))
		for _, x := range v {
			b = append(b, pack(x)...)
		}
		return b
	case array:
		b := msgp.AppendArrayHeader(nil, uint32(len(v)))
		for _, x := range v {
			b = append(b, pack(x)...)
		}
		return b
	case int:
		return appendInt(nil, int64(v))
	case string:
		return msgp.AppendString(nil, v)
	case []byte:
		return msgp.AppendBytes(nil, v)
	case bool:
		return msgp.AppendBool(nil, v)
	case nil:
		return msgp.AppendNil(nil)
	}
	panic("pack: no such type")
}

type (
	raw   []byte
	dict  []any
	array []any
)

func tagged(tag string, payload any) dict { return dict{"__t__", tag, "v", payload} }

// okey is a key whose hash is one letter.
func okey(hash string, rank, group int) dict {
	return tagged("ObjectKey", dict{"chunk_hash", []byte(hash), "model_name", "m", "kv_rank", rank, "object_group_id", group})
}

func olayout(n int) dict {
	return tagged("MemoryLayoutDesc", dict{"shapes", array{array{n}}, "dtypes", array{"torch.uint8"}})
}

func request(change ...any) dict {
	spec := dict{"keys", array{okey("a", 1, 0)}, "num_kv_readers", 2, "policy", tagged("TrimPolicy", "PREFIX"),
		"attn_desc", tagged("AttnWindowDesc", dict{"num_chunks_in_sw", array{-1}, "world_size", 1}),
		"group_layout_descs", dict{"0", olayout(8)}, "mode", tagged("PrefetchMode", "LOOKUP")}
	return dict{"spec", tagged("PrefetchRequestSpec", replace(spec, change))}
}

func group(change ...any) dict {
	g := dict{"keys", array{okey("a", 1, 0)}, "object_group_id", 0, "layout_desc", olayout(8), "sliding_window_size", -1}
	return tagged("GroupedObjectKeys", replace(g, change))
}

func task(change ...any) dict {
	spec := dict{"key_groups", array{group()}, "num_kv_readers", 1, "fetching_policy", "prefix", "lock_mode", tagged("PrefetchLockMode", "LOCK")}
	return dict{"spec", tagged("PrefetchTaskSpec", replace(spec, change))}
}

// absent as a value in replace takes the entry away.
type absent struct{}

// replace returns d with the entries of change put in the place of those of the
// same key, or added.
func replace(d dict, change []any) dict {
	for i := 0; i < len(change); i += 2 {
		found := false
		for j := 0; j < len(d); j += 2 {
			if d[j] == change[i] {
				found = true
				if d[j+1] = change[i+1]; change[i+1] == (any)(absent{}) {
					d = append(d[:j:j], d[j+2:]...)
				}
				break
			}
		}
		if !found {
			d = append(d, change[i], change[i+1])
		}
	}
	return d
}

// TestCodecErrors has what upstream's codecs refuse: the record is skipped.
//
// Source: reference lct-v1.md, sections 2.1 to 2.4.
func TestCodecErrors(t *testing.T) {
	keyOf := func(change ...any) dict {
		k := dict{"chunk_hash", []byte("a"), "model_name", "m", "kv_rank", 1}
		return dict{"keys", array{tagged("ObjectKey", replace(k, change))}}
	}
	layout := func(l any) dict { return dict{"keys", array{}, "layout_desc", l} }
	submit, write, finish := trace.OpSubmitPrefetchTask, trace.OpReserveWrite, trace.OpFinishWrite
	tests := []struct {
		op   trace.Op
		args dict
		want string // the end of the message; "" for none
	}{
		{finish, keyOf(), ""},
		{finish, keyOf("object_group_id", 3, "of a later release", array{1}), ""},
		{finish, dict{"keys", tagged("tuple", array{okey("a", 1, 0)})}, ""},
		{finish, dict{"keys", dict{"v", array{}, "__t__", "tuple"}}, ""},
		{finish, dict{"keys", array{dict{"v", dict{"kv_rank", 1, "model_name", "m", "chunk_hash", []byte{}}, "__t__", "ObjectKey"}}}, ""},
		{finish, dict{"keys", array{tagged("NoSuchTag", dict{})}}, "trace.codecs: unknown tag 'NoSuchTag'"},
		{finish, dict{"keys", array{}, "later", array{tagged("it's", 1)}}, `trace.codecs: unknown tag "it's"`},
		{finish, dict{"keys", array{}, "later", dict{"a", dict{"__t__", nil, "b", tagged("X", 1)}}}, "trace.codecs: unknown tag 'X'"},
		{finish, dict{"keys", array{}, "later", tagged("torch.dtype", "torch.half")}, ""},
		{trace.OpUnknown, dict{"anything", tagged("NoSuchTag", 1)}, "trace.codecs: unknown tag 'NoSuchTag'"},
		{trace.OpUnknown, dict{"keys", 7, "spec", true}, ""},
		{trace.OpUnknown, dict{"a", tagged("tuple", array{tagged("set", array{1}), dict{"b", okey("a", 1, 0)}})}, ""},
		{trace.OpUnknown, dict{"a", dict{"__t__", 7, "v", 1}}, "trace.codecs: unknown tag of type int"},
		{trace.OpUnknown, dict{"a", dict{"__t__", "tuple"}}, "trace.codecs: wrapper without v"},
		{finish, dict{"keys", array{dict{"__t__", "ObjectKey"}}}, "trace.codecs: wrapper without v"},
		{finish, dict{"keys", array{tagged("TrimPolicy", "PREFIX")}}, "expected ObjectKey, got TrimPolicy"},
		{finish, dict{"keys", array{"a"}}, "expected ObjectKey, got str"},
		{finish, dict{"keys", 1}, "expected array, got int"},
		{finish, dict{}, "missing argument keys"},
		{finish, keyOf("model_name", "a@b"), `model name "a@b" contains @`},
		{finish, keyOf("cache_salt", "a/b"), `cache salt "a/b" contains @, /, \ or NUL`},
		{finish, keyOf("cache_salt", strings.Repeat("é", 129)), "cache salt of 129 characters, at most 128"},
		{finish, keyOf("cache_salt", strings.Repeat("é", 128)), ""},
		{finish, keyOf("object_group_id", -1), "object_group_id -1"},
		{finish, keyOf("chunk_hash", make([]byte, 33)), "chunk hash of 33 bytes, at most 32"},
		{finish, keyOf("chunk_hash", make([]byte, 32)), ""},
		{finish, keyOf("chunk_hash", "a"), "chunk_hash: expected bytes, got str"},
		{finish, keyOf("chunk_hash", absent{}), "missing chunk_hash"},
		{finish, keyOf("model_name", absent{}), "missing model_name"},
		{finish, keyOf("kv_rank", absent{}), "missing kv_rank"},
		{finish, keyOf("kv_rank", raw("\xcf\xff\xff\xff\xff\xff\xff\xff\xff")), ""},
		{finish, keyOf("kv_rank", "1"), "kv_rank: expected int, got str"},
		{write, layout(olayout(8)), ""},
		{write, dict{"keys", array{}}, "missing argument layout_desc"},
		{write, layout(tagged("MemoryLayoutDesc", dict{"shapes", array{array{1}}, "dtypes", array{}})), "1 shapes and 0 dtypes, must have the same length"},
		{write, layout(tagged("MemoryLayoutDesc", dict{"shapes", array{array{1}}, "dtypes", array{"torch.nope"}})), "trace.codecs: unknown torch dtype 'torch.nope'"},
		{write, layout(tagged("MemoryLayoutDesc", dict{"shapes", array{}})), "missing dtypes"},
		{write, append(layout(olayout(8)), "mode", "all"), ""},
		{write, append(layout(olayout(8)), "mode", "some"), "unknown mode 'some'"},
		{submit, request(), ""},
		{submit, request("num_kv_readers", 0), "num_kv_readers is 0, at least 1"},
		{submit, request("num_kv_readers", 1<<40), "1099511627776 readers are too many"},
		{submit, request("policy", tagged("TrimPolicy", "WORST")), "unknown TrimPolicy 'WORST'"},
		{submit, request("mode", tagged("PrefetchMode", "COLD")), "unknown PrefetchMode 'COLD'"},
		{submit, request("mode", "WARM"), "expected PrefetchMode, got str"},
		{submit, request("attn_desc", tagged("AttnWindowDesc", array{0})), "window 0, must be -1 or at least 1"},
		{submit, request("attn_desc", tagged("AttnWindowDesc", array{-2})), "window -2, must be -1 or at least 1"},
		{submit, request("attn_desc", tagged("AttnWindowDesc", dict{"num_chunks_in_sw", array{1}, "world_size", 0})), "world_size is 0, at least 1"},
		{submit, request("attn_desc", tagged("AttnWindowDesc", array{-1, 4})), "attn_desc has 2 groups, group 1 has no layout"},
		{submit, request("group_layout_descs", dict{"x", olayout(8)}), "bad group id 'x'"},
		{submit, request("group_layout_descs", dict{"4294967296", olayout(8)}), "bad group id '4294967296'"},
		{submit, request("group_layout_descs", absent{}, "layout_desc", olayout(8)), ""},
		{submit, request("num_kv_readers", absent{}, "extra_count", 3), ""},
		{submit, request("num_kv_readers", absent{}), ""},
		{submit, request("keys", absent{}), "missing keys"},
		{submit, request("policy", absent{}), "missing policy"},
		{submit, request("attn_desc", absent{}), "missing attn_desc"},
		{submit, request("mode", absent{}), "missing mode"},
		{submit, task(), ""},
		{submit, task("key_groups", array{}), "no key groups"},
		{submit, task("key_groups", array{group(), group("keys", array{})}), "group 1 has 0 keys, group 0 has 1"},
		{submit, task("key_groups", array{group("sliding_window_size", 0)}), "window 0, must be -1 or at least 1"},
		{submit, task("key_groups", array{group("object_group_id", absent{})}), "missing object_group_id"},
		{submit, task("fetching_policy", "segmented_prefix"), "unknown policy 'segmented_prefix'"},
		{submit, task("num_kv_readers", 0), "0 readers, at least 1"},
		{submit, task("lock_mode", tagged("PrefetchLockMode", "lock")), "unknown PrefetchLockMode 'lock'"},
		{submit, task("lock_mode", absent{}), "missing lock_mode"},
		{submit, task("allowed_l1_memory_tags", nil), "one of allowed_l1_memory_tags and allowed_l2_memory_tags is missing"},
		{submit, task("allowed_l1_memory_tags", nil, "allowed_l2_memory_tags", array{}), ""},
		{submit, task("allowed_l1_memory_tags", nil, "allowed_l2_memory_tags", array{tagged("MemoryTags", dict{"segment", "ram", "residency", "local"})}), "unknown memory tag 'ram'"},
		{submit, dict{"spec", tagged("TaskSpec2", dict{})}, "trace.codecs: unknown tag 'TaskSpec2'"},
		{submit, dict{"keys", array{}}, "missing argument layout_desc"},
		{submit, dict{"layout_desc", olayout(8)}, "missing argument spec"},
		{submit, dict{"keys", array{okey("a", 1, 0)}, "layout_desc", olayout(8), "skip_l2", 1}, "expected bool, got int"},
		{trace.OpFinishReadPrefetched, dict{"keys", array{}, "extra_count", raw("\xd3\x7f\xff\xff\xff\xff\xff\xff\xff")}, "9223372036854775807 is too large"},
	}
	var d argsDecoder // one for all: what an error leaves behind must not disturb the next
	for _, tt := range tests {
		var a trace.Args
		err := d.decode(tt.op, pack(tt.args), &a)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%v %v: got %v; want no error", tt.op, tt.args, err)
		case tt.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.want)):
			t.Errorf("%v %v: got %v; want …%s", tt.op, tt.args, err, tt.want)
		}
	}
}

// TestGrid checks which flat lists become a grid, and its rows. A key is
// written hash, rank, group.
//
// Source: reference lct-v1.md, sections 2.5 and 3.4.
func TestGrid(t *testing.T) {
	array3 := func(w ...any) dict { return tagged("AttnWindowDesc", array(w)) }
	attn := func(world int, w ...any) dict {
		return tagged("AttnWindowDesc", dict{"num_chunks_in_sw", array(w), "world_size", world})
	}
	tests := []struct {
		name string
		keys string
		attn any // nil: none
		want string
	}{
		{"one group", "a10 b10 c10", nil, "0/-1: a b c"},
		{"two ranks", "a10 a20 b10 b20", nil, "0/-1: a b | 0/-1: a b"},
		{"two groups, two ranks", "a10 a20 a11 a21 b10 b20 b11 b21", attn(2, -1, 4), "0/-1: a b | 0/-1: a b | 1/4: a b | 1/4: a b"},
		{"windows by appearance", "a11 a10 b11 b10", array3(3, -1), "1/3: a b | 0/-1: a b"},
		{"one chunk", "a10 a11", array3(-1, 2), "0/-1: a | 1/2: a"},
		{"a chunk cut off", "a10 a20 b10", nil, "flat 0/-1: a a b"},
		{"group-major", "a10 b10 a11 b11", nil, "flat 0/-1: a b a b"},
		{"another order in the second chunk", "a10 a20 b20 b10", nil, "flat 0/-1: a a b b"},
		{"a context twice in a chunk", "a10 a20 a20", nil, "flat 0/-1: a a a"},
		{"hashes differ in a chunk", "a10 b20", nil, "flat 0/-1: a b"},
		{"fewer groups than windows", "a10 b10", array3(-1, 2), "flat 0/-1: a b"},
		{"more groups than windows", "a10 a11", attn(1, 5), "flat 0/5: a a"},
		{"more ranks than world_size", "a10 a20", attn(1, -1), "flat 0/-1: a a"},
		{"world_size not said", "a10 a20", array3(7), "0/7: a | 0/7: a"},
		{"empty", "", nil, "flat 0/-1:"},
	}
	var d argsDecoder
	for _, tt := range tests {
		var keys array
		for k := range strings.FieldsSeq(tt.keys) {
			keys = append(keys, okey(k[:1], int(k[1]-'0'), int(k[2]-'0')))
		}
		args := dict{"keys", keys, "layout_desc", olayout(8), "extra_count", 1}
		if tt.attn != nil {
			args = append(args, "attn_desc", tt.attn)
		}
		var a trace.Args
		if err := d.decode(trace.OpSubmitPrefetchTask, pack(args), &a); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := rows(a.Spec); got != tt.want || a.Spec.Readers != 2 {
			t.Errorf("%s: %s: got %s, %d readers; want %s, 2", tt.name, tt.keys, got, a.Spec.Readers, tt.want)
		}
	}
}

// rows gives a spec as group/window: hashes, a row each.
func rows(s *kv.PrefetchSpec) string {
	var b strings.Builder
	if s.Flat {
		b.WriteString("flat ")
	}
	for i, g := range s.Groups {
		if i > 0 {
			b.WriteString(" | ")
		}
		fmt.Fprintf(&b, "%d/%d", g.Group, g.Window)
		b.WriteByte(':')
		for _, k := range g.Keys {
			b.WriteString(" " + string(k.ChunkHash()))
		}
	}
	return b.String()
}

// TestGroupLayouts checks which layout a row gets.
func TestGroupLayouts(t *testing.T) {
	var d argsDecoder
	var a trace.Args
	keys := array{okey("a", 1, 0), okey("a", 1, 7)}
	two := tagged("AttnWindowDesc", array{-1, 2})
	args := request("keys", keys, "attn_desc", two, "num_kv_readers", absent{}, "group_layout_descs", dict{"7", olayout(70), "0", olayout(8)})
	if err := d.decode(trace.OpSubmitPrefetchTask, pack(args), &a); err != nil {
		t.Fatal(err)
	}
	if got := []int64{a.Spec.Groups[0].Layout.Bytes(), a.Spec.Groups[1].Layout.Bytes()}; !reflect.DeepEqual(got, []int64{8, 70}) {
		t.Errorf("layouts: got %v bytes; want 8, 70", got)
	}
	args = request("keys", keys, "attn_desc", two, "num_kv_readers", absent{}, "group_layout_descs", dict{"0", olayout(8)})
	if err := d.decode(trace.OpSubmitPrefetchTask, pack(args), &a); err == nil || err.Error() != "argument spec: object group 7 has no layout" {
		t.Errorf("a group without a layout: got %v", err)
	}
}

// TestSalt checks that a salt is taken where a key has one, and that the key is
// not taken for the one without.
func TestSalt(t *testing.T) {
	var d argsDecoder
	var a trace.Args
	salted := tagged("ObjectKey", dict{"chunk_hash", []byte("a"), "model_name", "m", "kv_rank", 1, "object_group_id", 0, "cache_salt", "tenant-a"})
	if err := d.decode(trace.OpFinishWrite, pack(dict{"keys", array{salted, okey("a", 1, 0), salted}}), &a); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"tenant-a", "", "tenant-a"} {
		if got := a.Keys[i].Scope; got.Salt() != want || got.Model() != "m" {
			t.Errorf("key %d: got model %q, salt %q; want m, %q", i, got.Model(), got.Salt(), want)
		}
	}
	if a.Keys[0] != a.Keys[2] || a.Keys[0] == a.Keys[1] {
		t.Errorf("keys %v: want the first and the last equal, and the other not", a.Keys)
	}
}

// FuzzRecord checks one frame and decodes its arguments. Properties: no panic;
// what is accepted is one whole msgpack object, also to msgp; the short way for
// keys agrees with the long one.
func FuzzRecord(f *testing.F) {
	files, err := filepath.Glob("../../testdata/lct-v1/*.lct")
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		r, err := NewReader(data, path, nil)
		for err == nil && r.Next() {
			f.Add(data[r.rec.Offset+prefixSize : r.next])
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var rec rawRecord
		if scanRecord(frame, &rec) != nil {
			return
		}
		if rest, err := msgp.Skip(frame); err != nil || len(rest) != 0 {
			t.Fatalf("accepted, but msgp says %v, %d bytes left", err, len(rest))
		}
		var d argsDecoder
		var a trace.Args
		for op := range trace.Op(len(trace.Schema()) + 1) {
			if err := d.decode(op, rec.args, &a); err != nil {
				continue
			}
			if n := len(a.Keys) + len(d.cells) + len(d.flat.keys); n*minKeySize > 2*len(frame) {
				t.Fatalf("%v: %d keys from %d bytes", op, n, len(frame))
			}
		}
		for i := range rec.args {
			var short, long kv.ObjectKey
			after, ok := d.plain(rec.args[i:], &short)
			if !ok {
				continue
			}
			if rest, err := d.any(rec.args[i:], &long); err != nil || long != short || len(rest) != len(after) {
				t.Fatalf("key at %d: got %v, %d bytes left; the long way gives %v, %d, %v", i, short, len(after), long, len(rest), err)
			}
		}
	})
}
