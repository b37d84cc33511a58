package trace

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
)

// callGen makes random calls: mixed ranks, groups, tenants and hash lengths,
// empty lists, tags that are nil, empty and full.
type callGen struct{ *rand.Rand }

func newCallGen(seed uint64) callGen { return callGen{rand.New(rand.NewPCG(seed, 17))} }

func (g callGen) keys(most int) []kv.ObjectKey {
	keys := make([]kv.ObjectKey, g.IntN(most+1))
	mixed := g.IntN(3) == 0
	for i := range keys {
		k := &keys[i]
		if i > 0 && !(mixed && g.IntN(2) == 0) {
			*k = keys[i-1]
		} else {
			k.Rank, k.Group, k.HashLen = g.Uint64(), g.Uint32(), uint8(g.IntN(kv.MaxHash+1))
			k.Scope = g.scope()
		}
		k.Hash = [kv.MaxHash]byte{}
		for j := range k.ChunkHash() {
			k.Hash[j] = byte(g.Uint32())
		}
	}
	return keys
}

func (g callGen) scope() kv.Scope {
	if g.IntN(8) == 0 {
		return 0
	}
	s, err := kv.InternScope(fmt.Sprintf("model-%d", g.IntN(5)), [...]string{"", "tenant-a", "b"}[g.IntN(3)])
	if err != nil {
		panic(err)
	}
	return s
}

func (g callGen) layout() kv.Layout {
	dtypes := []kv.DType{}
	shapes := [][]int64{}
	for range g.IntN(3) {
		d, _ := kv.ParseDType([...]string{"bfloat16", "uint8", "float32"}[g.IntN(3)])
		shape := make([]int64, g.IntN(4))
		for i := range shape {
			shape[i] = g.Int64N(300)
		}
		dtypes, shapes = append(dtypes, d), append(shapes, shape)
	}
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: shapes, DTypes: dtypes})
	if err != nil {
		panic(err)
	}
	return l
}

func (g callGen) text() string {
	b := make([]byte, g.IntN(40))
	for i := range b {
		b[i] = byte(' ' + g.IntN(90))
	}
	return string(b)
}

func (g callGen) tags() []kv.MemoryTag {
	n := g.IntN(4) - 1
	if n < 0 {
		return nil
	}
	tags := make([]kv.MemoryTag, n)
	for i := range tags {
		tags[i] = kv.MemoryTag{Segment: g.text(), Residency: g.text()}
	}
	return tags
}

// call returns arguments for op, as its schema row has them.
func (g callGen) call(op Op) *Args {
	a := &Args{}
	for _, arg := range op.Row().Args {
		switch arg.Type {
		case ArgKeys:
			a.Keys = g.keys(40)
		case ArgLayout:
			a.Layout = g.layout()
		case ArgMode:
			a.Mode = kv.WriteMode(g.IntN(3))
		case ArgSpec:
			a.Spec = &kv.PrefetchSpec{
				Readers: g.Int32N(4) - 1, Policy: kv.FetchPolicy(g.IntN(3)), Lock: kv.LockMode(g.IntN(2)),
				Flat: g.IntN(2) == 0, L1Tags: g.tags(), L2Tags: g.tags(),
			}
			for range g.IntN(5) {
				a.Spec.Groups = append(a.Spec.Groups, kv.KeyGroup{
					Keys: g.keys(12), Group: g.Uint32(), Layout: g.layout(), Window: g.Int32N(5) - 1})
			}
		case ArgText:
			a.Text = g.text()
		case ArgFlag:
			a.Flag = g.IntN(2) == 0
		case ArgCount:
			a.Count = g.Int64() - g.Int64()
		}
	}
	return a
}

// plain returns a copy of a in which empty and nil lists of keys are the same,
// as they are in a call.
func plain(a *Args) Args {
	c := *a
	c.Keys = append([]kv.ObjectKey(nil), a.Keys...)
	if a.Spec == nil {
		return c
	}
	s := *a.Spec
	s.Groups = append([]kv.KeyGroup(nil), a.Spec.Groups...)
	for i := range s.Groups {
		s.Groups[i].Keys = append([]kv.ObjectKey(nil), s.Groups[i].Keys...)
	}
	c.Spec = &s
	return c
}

func heapDefs(size int) (*ringDefs, *ringIDs) {
	_, all := ringLayout(0, size)
	mem := make([]byte, all)
	data, _ := ringLayout(0, size)
	r := newRing(mem, data, 0, 1)
	d := newRingDefs(mem[ringHeaderBytes+data:], r.word(ringAtDefsTail), nil)
	return d, newRingIDs(d.mem, d.tail)
}

func TestRingFrameHoldsEveryCall(t *testing.T) {
	defs, ids := heapDefs(1 << 20)
	var got Args
	var spec kv.PrefetchSpec
	for _, row := range Schema() {
		g := newCallGen(uint64(row.Op))
		for range 2000 {
			a := g.call(row.Op)
			if g.IntN(50) == 0 {
				a = &Args{} // no spec either
			}
			n, runs, known := ringArgsSize(row.Args, a, defs)
			if !known {
				if err := defs.define(a); err != nil {
					t.Fatal(err)
				}
				if _, _, known := ringArgsSize(row.Args, a, defs); !known {
					t.Fatalf("%s: ids unknown after define", row.Op)
				}
			}
			b := make([]byte, n)
			putRingArgs(b, row.Args, a, runs)
			if err := decodeRingArgs(b, row.Args, ids, &got, &spec); err != nil {
				t.Fatalf("%s: %v", row.Op, err)
			}
			if want, got := plain(a), plain(&got); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s:\ngot  %+v\nwant %+v", row.Op, got, want)
			}
		}
	}
}

// TestRingIDsComeFromTheRing shows that the drain takes nothing from the
// interner of the process: ids that it never gave resolve by definitions.
func TestRingIDsComeFromTheRing(t *testing.T) {
	defs, ids := heapDefs(1 << 12)
	w := func(kind, id uint32, texts ...string) {
		n := 0
		for _, s := range texts {
			n += ringTextSize(s)
		}
		b, err := defs.open(kind, id, n)
		if err != nil {
			t.Fatal(err)
		}
		out := ringArgsWriter{b}
		for _, s := range texts {
			out.text(s)
		}
		defs.publish(n)
	}
	w(defScope, 4_000_000_000, "elsewhere", "salt")
	scope, err := ids.scope(4_000_000_000)
	if err != nil || scope.Model() != "elsewhere" || scope.Salt() != "salt" {
		t.Errorf("got %q, %q, %v", scope.Model(), scope.Salt(), err)
	}
	if _, err := ids.scope(12345); err == nil {
		t.Error("a scope without a definition was resolved")
	}
	if _, err := ids.layout(12345); err == nil {
		t.Error("a layout without a definition was resolved")
	}
	w(defScope, 7, "a@b", "") // no process of ours interns this
	if _, err := ids.scope(7); err == nil {
		t.Error("a scope that LMCache refuses was resolved")
	}
}

func TestDefinitionsAreBounded(t *testing.T) {
	defs, ids := heapDefs(4096)
	var made int
	for ; ; made++ {
		s, err := kv.InternScope(fmt.Sprintf("bounded-%d", made), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := defs.define(&Args{Keys: []kv.ObjectKey{{Scope: s}}}); err != nil {
			if defs.scopes.has(uint32(s)) {
				t.Error("a scope counts as defined that is not")
			}
			break
		}
		if got, err := ids.scope(uint32(s)); err != nil || got != s {
			t.Fatalf("scope %d: got %d, %v", s, got, err)
		}
	}
	if made < 4096/64 {
		t.Errorf("only %d definitions in 4096 bytes", made)
	}
}

func TestIDSetGrows(t *testing.T) {
	var s idSet
	for _, id := range []uint32{0, 1, 63, 64, 1000, 5000, 5001, 100_000} {
		if s.has(id) {
			t.Errorf("%d is in the set", id)
		}
		s.add(id)
	}
	for _, id := range []uint32{0, 1, 63, 64, 1000, 5000, 5001, 100_000} {
		if !s.has(id) {
			t.Errorf("%d is not in the set", id)
		}
	}
	if s.has(2) || s.has(65) || s.has(1<<31) {
		t.Error("the set has what was never added")
	}
}

// TestCallAllocatesNothing runs every operation against a ring that nothing
// drains, on each clock, both while there is room and when it is full.
func TestCallAllocatesNothing(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	for _, c := range []clock.Clock{nil, clock.NewVirtual(0)} {
		for _, row := range Schema() {
			r, _ := heapRecorder(Options{Clock: c, RingBytes: 1 << 20})
			h := r.header(Options{Clock: c})
			_ = h
			r.on.Store(true)
			g := newCallGen(3)
			calls := make([]*Args, 8)
			for i := range calls {
				calls[i] = g.call(row.Op)
				r.Call(row.Op, calls[i]) // defines what it uses
			}
			i := 0
			if got := testing.AllocsPerRun(5000, func() {
				r.Call(row.Op, calls[i%len(calls)])
				i++
			}); got != 0 {
				t.Errorf("%s: %v allocations a call; want 0", row.Op, got)
			}
			if len(calls[0].Keys) > 0 && r.ring.dropped.Load() == 0 {
				t.Errorf("%s: the ring never was full", row.Op)
			}
		}
	}
}

// FuzzRingFrame decodes any bytes as arguments. What decodes is encoded and
// decoded again to the same; nothing allocates beyond the input's size.
func FuzzRingFrame(f *testing.F) {
	defs, _ := heapDefs(1 << 16)
	for _, row := range Schema() {
		g := newCallGen(uint64(row.Op))
		for range 5 {
			a := g.call(row.Op)
			if err := defs.define(a); err != nil {
				f.Fatal(err)
			}
			n, runs, _ := ringArgsSize(row.Args, a, defs)
			b := make([]byte, n)
			putRingArgs(b, row.Args, a, runs)
			f.Add(uint16(row.Op), b)
		}
	}
	f.Fuzz(func(t *testing.T, op uint16, data []byte) {
		row := Op(op).Row()
		var a, again Args
		var spec, specAgain kv.PrefetchSpec
		if err := decodeRingArgs(data, row.Args, newRingIDs(defs.mem, defs.tail), &a, &spec); err != nil {
			return
		}
		n, runs, known := ringArgsSize(row.Args, &a, defs)
		if !known || n > len(data) {
			t.Fatalf("%s: %d bytes decoded, %d encoded, ids known %t", row.Op, len(data), n, known)
		}
		b := make([]byte, n)
		putRingArgs(b, row.Args, &a, runs)
		if err := decodeRingArgs(b, row.Args, newRingIDs(defs.mem, defs.tail), &again, &specAgain); err != nil {
			t.Fatalf("%s: decoding what was encoded: %v", row.Op, err)
		}
		if !reflect.DeepEqual(plain(&a), plain(&again)) {
			t.Fatalf("%s:\nfirst %+v\nagain %+v", row.Op, a, again)
		}
	})
}

// FuzzRingDefinitions reads any bytes as definitions.
func FuzzRingDefinitions(f *testing.F) {
	defs, _ := heapDefs(1 << 16)
	g := newCallGen(9)
	for range 20 {
		if err := defs.define(g.call(OpReserveWrite)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(defs.mem[:defs.tail.Load()], uint32(1))
	f.Fuzz(func(t *testing.T, data []byte, id uint32) {
		d, ids := heapDefs(len(data))
		copy(d.mem, data)
		d.tail.Store(uint64(len(data)) + 1000) // more than there is, as in a damaged header
		if _, err := ids.scope(id); err == nil && id != 0 && len(ids.scopes) == 0 {
			t.Error("resolved from nothing")
		}
		_, _ = ids.layout(id)
		if ids.read > len(data) {
			t.Errorf("read %d of %d bytes", ids.read, len(data))
		}
	})
}
