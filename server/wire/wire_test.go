package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"

	"github.com/lmcache/lmcache-go/server/wire"
)

func sampleKey(tokens int) *wire.Key {
	k := &wire.Key{Model: "test-model", WorldSize: 1, Worker: wire.AllWorkers, End: tokens, RequestID: "req-0-cold", Readers: 1}
	for i := range tokens {
		k.Tokens = append(k.Tokens, uint32(i*7919%128256)) // a vocabulary of one, two and four bytes
	}
	return k
}

// text and the others make an argument by hand.
func text(s string) []byte   { return msgp.AppendString(nil, s) }
func integer(n int64) []byte { return msgp.AppendInt64(nil, n) }

// TestForms has what eras differ in, and where the decoder is strict.
func TestForms(t *testing.T) {
	null := []byte{0xc0}
	key := wire.AppendKey(nil, sampleKey(4))
	field := func(name string, value []byte) []byte { // the key with one more entry, which wins
		b := msgp.AppendMapHeader(nil, 11)
		return append(append(append(b, key[1:]...), text(name)...), value...)
	}
	only := func(names ...string) []byte { // a key with these fields alone
		b := msgp.AppendMapHeader(nil, uint32(len(names)))
		for _, name := range names {
			b = msgp.AppendString(b, name)
			switch name {
			case "model_name", "request_id":
				b = msgp.AppendString(b, "x")
			case "token_ids":
				b = append(b, 0x90)
			default:
				b = append(b, 1)
			}
		}
		return b
	}
	deep := bytes.Repeat([]byte{0x91}, 200_000) // arrays in arrays
	for name, c := range map[string]struct {
		op   wire.Op
		args [][]byte
		want error
		is   func(*wire.Request) bool // nil: any
	}{
		"ping, era C":           {wire.OpPing, nil, nil, func(r *wire.Request) bool { return !r.Known }},
		"ping of nobody":        {wire.OpPing, [][]byte{null}, nil, func(r *wire.Request) bool { return !r.Known }},
		"ping":                  {wire.OpPing, [][]byte{integer(-7)}, nil, func(r *wire.Request) bool { return r.Known && r.Instance == -7 }},
		"ping, a float":         {wire.OpPing, [][]byte{msgp.AppendFloat64(nil, 1)}, wire.ErrMalformed, nil},
		"ping, empty frame":     {wire.OpPing, [][]byte{{}}, wire.ErrMalformed, nil},
		"ping, more behind":     {wire.OpPing, [][]byte{{0xc0, 0xc0}}, wire.ErrMalformed, nil},
		"ping, above int64":     {wire.OpPing, [][]byte{msgp.AppendUint64(nil, math.MaxUint64)}, wire.ErrMalformed, nil},
		"clear, era C":          {wire.OpClear, nil, nil, func(r *wire.Request) bool { return !r.Force }},
		"clear, forced":         {wire.OpClear, [][]byte{{0xc3}}, nil, func(r *wire.Request) bool { return r.Force }},
		"clear, 1":              {wire.OpClear, [][]byte{{1}}, nil, func(r *wire.Request) bool { return r.Force }},
		"clear, nil":            {wire.OpClear, [][]byte{null}, wire.ErrMalformed, nil},
		"end_session":           {wire.OpEndSession, [][]byte{text("r")}, nil, func(r *wire.Request) bool { return r.RequestID == "r" }},
		"end_session, newer":    {wire.OpEndSession, [][]byte{text("r"), {0x80}}, nil, func(r *wire.Request) bool { return r.RequestID == "r" }},
		"end_session, bin":      {wire.OpEndSession, [][]byte{msgp.AppendBytes(nil, []byte("r"))}, wire.ErrMalformed, nil},
		"end_session, no UTF-8": {wire.OpEndSession, [][]byte{text("\xff")}, wire.ErrMalformed, nil},
		"wait":                  {wire.OpWaitPrefetchStatus, [][]byte{text("r"), msgp.AppendFloat64(nil, 0.5)}, nil, func(r *wire.Request) bool { return r.Timeout == time.Second/2 }},
		"wait, integer":         {wire.OpWaitPrefetchStatus, [][]byte{text("r"), {2}}, nil, func(r *wire.Request) bool { return r.Timeout == 2*time.Second }},
		"wait, float32":         {wire.OpWaitPrefetchStatus, [][]byte{text("r"), msgp.AppendFloat32(nil, 0.25)}, nil, func(r *wire.Request) bool { return r.Timeout == time.Second/4 }},
		"wait, before":          {wire.OpWaitPrefetchStatus, [][]byte{text("r"), integer(-1)}, nil, func(r *wire.Request) bool { return r.Timeout == 0 }},
		"wait, for ever":        {wire.OpWaitPrefetchStatus, [][]byte{text("r"), msgp.AppendFloat64(nil, math.Inf(1))}, nil, func(r *wire.Request) bool { return r.Timeout >= 24*time.Hour }},
		"wait, not a number":    {wire.OpWaitPrefetchStatus, [][]byte{text("r"), msgp.AppendFloat64(nil, math.NaN())}, wire.ErrMalformed, nil},
		"lookup": {wire.OpLookup, [][]byte{key, {1}}, nil, func(r *wire.Request) bool {
			return reflect.DeepEqual(&r.Key, sampleKey(4)) && r.RequestID == "req-0-cold"
		}},
		"lookup, newer field":    {wire.OpLookup, [][]byte{field("null_chunk_mask", []byte{0x91, 0x92, 0xc2, 0xc3}), {1}}, nil, func(r *wire.Request) bool { return reflect.DeepEqual(&r.Key, sampleKey(4)) }},
		"lookup, deep field":     {wire.OpLookup, [][]byte{field("deep", deep), {1}}, wire.ErrMalformed, nil},
		"lookup, field no text":  {wire.OpLookup, [][]byte{append(append(msgp.AppendMapHeader(nil, 11), key[1:]...), 1, 1), {1}}, wire.ErrMalformed, nil},
		"lookup, fewest fields":  {wire.OpLookup, [][]byte{only("model_name", "world_size", "worker_id", "token_ids", "start", "end", "request_id"), {1}}, nil, func(r *wire.Request) bool { return r.Key.Worker == 1 && r.Key.Readers == 0 }},
		"lookup, no request id":  {wire.OpLookup, [][]byte{only("model_name", "world_size", "worker_id", "token_ids", "start", "end"), {1}}, wire.ErrMalformed, nil},
		"lookup, worker -1":      {wire.OpLookup, [][]byte{field("worker_id", integer(-1)), {1}}, wire.ErrMalformed, nil},
		"lookup, worker true":    {wire.OpLookup, [][]byte{field("worker_id", []byte{0xc3}), {1}}, wire.ErrMalformed, nil},
		"lookup, salt of 128 ü":  {wire.OpLookup, [][]byte{field("cache_salt", text(strings.Repeat("ü", 128))), {1}}, nil, nil},
		"lookup, salt of 129 ü":  {wire.OpLookup, [][]byte{field("cache_salt", text(strings.Repeat("ü", 129))), {1}}, wire.ErrMalformed, nil},
		"lookup, salt with NUL":  {wire.OpLookup, [][]byte{field("cache_salt", text("a\x00")), {1}}, wire.ErrMalformed, nil},
		"lookup, largest token":  {wire.OpLookup, [][]byte{field("token_ids", []byte{0x91, 0xce, 255, 255, 255, 255}), {1}}, nil, func(r *wire.Request) bool { return slices.Equal(r.Key.Tokens, []uint32{math.MaxUint32}) }},
		"lookup, odd tokens":     {wire.OpLookup, [][]byte{field("token_ids", []byte{0x92, 0xcf, 0, 0, 0, 0, 0, 0, 1, 0, 0xd1, 0, 7}), {1}}, nil, func(r *wire.Request) bool { return slices.Equal(r.Key.Tokens, []uint32{256, 7}) }},
		"lookup, 2^32-1 tokens":  {wire.OpLookup, [][]byte{field("token_ids", []byte{0xdd, 255, 255, 255, 255, 1}), {1}}, wire.ErrMalformed, nil},
		"lookup, 2^32-1 fields":  {wire.OpLookup, [][]byte{{0xdf, 255, 255, 255, 255, 0xa1, 'x', 1}, {1}}, wire.ErrMalformed, nil},
		"commit":                 {wire.OpCommitStore, [][]byte{key, {7}, {0xc4, 2, 1, 2}}, nil, func(r *wire.Request) bool { return r.Instance == 7 && bytes.Equal(r.Data, []byte{1, 2}) }},
		"commit, data cut":       {wire.OpCommitStore, [][]byte{key, {7}, {0xc6, 255, 255, 255, 255, 1}}, wire.ErrMalformed, nil},
		"report":                 {wire.OpReportBlockAllocation, [][]byte{{7}, text("m"), {0x91, 0x80}}, nil, func(r *wire.Request) bool { return len(r.Blocks) == 1 }},
		"report, 2^32-1 entries": {wire.OpReportBlockAllocation, [][]byte{{7}, text("m"), {0xdd, 255, 255, 255, 255, 0x80}}, wire.ErrMalformed, nil},
		"p2p":                    {wire.OpP2PUnlockObjects, [][]byte{{0x90}}, wire.ErrNotServed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := wire.DecodeRequest(c.op, c.args)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v; want %v", err, c.want)
			}
			if c.is != nil && !c.is(&r) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestParseOp(t *testing.T) {
	for op := wire.Op(1); op <= wire.MaxOp; op++ {
		for form, frame := range map[string][]byte{
			"number": wire.AppendOp(nil, op), "name": text(op.String()),
			"uint8": {0xcc, byte(op)}, "int64": {0xd3, 0, 0, 0, 0, 0, 0, 0, byte(op)},
		} {
			if got, err := wire.ParseOp(frame); err != nil || got != op {
				t.Errorf("%s of %v: got %v, %v", form, op, got, err)
			}
		}
	}
	for _, c := range []struct {
		frame []byte
		want  error
	}{
		{integer(34), wire.ErrUnknownOp}, {integer(-1), wire.ErrUnknownOp}, {integer(256 + 24), wire.ErrUnknownOp},
		{text(""), wire.ErrUnknownOp}, {text("LOOKUP"), wire.ErrUnknownOp}, {[]byte{}, wire.ErrMalformed},
		{[]byte{0xa4, 'p'}, wire.ErrMalformed}, {append(text("ping"), 0), wire.ErrMalformed},
	} {
		if _, err := wire.ParseOp(c.frame); !errors.Is(err, c.want) {
			t.Errorf("%x: got %v; want %v", c.frame, err, c.want)
		}
	}
}

// TestReplies has what a client must take, and what it must not.
func TestReplies(t *testing.T) {
	if r, err := wire.ParseReply([][]byte{{5}, {9}, {0xc0}}); err != nil || r.UID != 5 || r.Result != nil {
		t.Errorf("null result: got %+v, %v", r, err)
	}
	for _, frames := range [][][]byte{{{5}}, {{5}, {9}, {1}, {1}}, {{}, {9}}, {{0xa1, 'x'}, {9}}} {
		if _, err := wire.ParseReply(frames); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%x: got %v; want ErrMalformed", frames, err)
		}
	}
	pickled := wire.Reply{Result: []byte("\x81\xa7context\x80")}
	if p, shared, err := pickled.PreparedStore(); err != nil || shared || len(p.Slots) > 0 {
		t.Errorf("a store without pool: got %+v, %v, %v", p, shared, err)
	}
	uneven := wire.Reply{Result: []byte("\x81\xa7context\x82\xa5slots\x90\xadchunk_indices\x91\x00")}
	if _, _, err := uneven.PreparedStore(); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a chunk without slot: got %v; want ErrMalformed", err)
	}
	newer := wire.Reply{Result: []byte("\x83\xa8shm_name\xa1x\xa9pool_size\x07\xa5error\xc0")}
	if p, err := newer.Pool(); err != nil || p != (wire.Pool{Name: "x", Size: 7}) {
		t.Errorf("a newer registration: got %+v, %v", p, err)
	}
}

// FuzzRequest has as property: what is decoded, encoded, is decoded the same; and
// a decoded request is no larger than a multiple of its bytes.
func FuzzRequest(f *testing.F) {
	for _, list := range readSessions(f) {
		for _, x := range list {
			frames := x.Request.Frames
			if op, err := wire.ParseOp(frames[1]); err == nil && op.Served() && len(frames) <= 5 {
				args := append(slices.Clone(frames[2:]), nil, nil, nil)
				f.Add(uint8(op), uint8(len(frames)-2), args[0], args[1], args[2])
			}
		}
	}
	f.Fuzz(func(t *testing.T, op, n uint8, a, b, c []byte) {
		args := [][]byte{a, b, c}[:min(n, 3)]
		r, err := wire.DecodeRequest(wire.Op(op), args)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrArity) && !errors.Is(err, wire.ErrNotServed) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if len(r.Key.Tokens) > len(a) {
			t.Errorf("%d tokens in %d bytes", len(r.Key.Tokens), len(a))
		}
		var e wire.Encoder
		again, err := wire.DecodeRequest(r.Op, encode(&e, 1, &r)[2:])
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v comes back as %+v, %v", r, again, err)
		}
	})
}

// FuzzOp has as property: an operation that is read has a name, and its number
// reads the same.
func FuzzOp(f *testing.F) {
	f.Add([]byte{8})
	f.Add(text("ping"))
	f.Add(text("subscribe_kv_events"))
	f.Add([]byte{0xd3, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, frame []byte) {
		op, err := wire.ParseOp(frame)
		if err != nil {
			return
		}
		if again, err := wire.ParseOp(text(op.String())); err != nil || again != op {
			t.Errorf("%x is %v, whose name is %v, %v", frame, op, again, err)
		}
	})
}

// FuzzReply has as property: a result that is decoded, encoded, is decoded the
// same, whatever the request was.
func FuzzReply(f *testing.F) {
	for _, list := range readSessions(f) {
		for _, x := range list {
			for _, reply := range x.Replies {
				if op, err := wire.ParseOp(x.Request.Frames[1]); err == nil && len(reply.Frames) == 3 {
					f.Add(uint8(op), reply.Frames[2])
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, op uint8, result []byte) {
		r := wire.Reply{Result: result}
		b, err := reencode(wire.Op(op), &r)
		if err != nil || b == nil {
			return
		}
		r.Result = b
		again, err := reencode(wire.Op(op), &r)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is %x, which is %x, %v", result, b, again, err)
		}
	})
}

// BenchmarkDecodeLookup decodes a lookup of so many tokens.
//
//	go test ./server/wire -run '^$' -bench '^Benchmark' -count 6
func BenchmarkDecodeLookup(b *testing.B) {
	for _, c := range []struct {
		name   string
		tokens int
	}{{"tokens=512", 512}, {"tokens=8192", 8192}, {"tokens=131072", 131072}} {
		b.Run(c.name, func(b *testing.B) {
			var e wire.Encoder
			frames := e.Keyed(1, wire.OpLookup, sampleKey(c.tokens), 1)
			b.SetBytes(int64(len(frames[2])))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.DecodeRequest(wire.OpLookup, frames[2:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncodeLookup is the client's side of it.
func BenchmarkEncodeLookup(b *testing.B) {
	var e wire.Encoder
	k := sampleKey(8192)
	b.ReportAllocs()
	for b.Loop() {
		e.Keyed(1, wire.OpLookup, k, 1)
	}
}
