package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// memoryFile is the heap double of a mapped output file. Like it, it is zero
// behind its end, and it can be read at any moment.
type memoryFile struct {
	head   int
	data   []byte // len is what is allocated
	off    int
	last   int
	closed bool
	synced int
	room   int // Next fails beyond this size, if not 0
}

var errNoSpace = errors.New("no space left")

func newMemoryFile(head int) *memoryFile {
	return &memoryFile{head: head, off: head, data: make([]byte, head)}
}

func (f *memoryFile) Head() []byte { return f.data[:f.head:f.head] }

func (f *memoryFile) Next(n int) ([]byte, error) {
	if n%8 != 0 || n <= 0 {
		return nil, fmt.Errorf("Next(%d)", n)
	}
	if f.room > 0 && f.off+n > f.room {
		return nil, errNoSpace
	}
	if f.off+n > len(f.data) {
		grown := make([]byte, 2*len(f.data)+n)
		copy(grown, f.data[:f.off])
		f.data = grown
	}
	f.last = n
	return f.data[f.off : f.off+n : f.off+n], nil
}

func (f *memoryFile) Publish(word uint32) {
	binary.LittleEndian.PutUint32(f.data[f.off:], word)
	f.off += f.last
}

func (f *memoryFile) Offset() int64 { return int64(f.off) }
func (f *memoryFile) Sync() error   { f.synced = f.off; return nil }
func (f *memoryFile) Close() error {
	f.data = f.data[:f.off]
	f.closed = true
	return nil
}

// liveFile reads a memoryFile that is written.
type liveFile struct {
	f    *memoryFile
	data []byte
}

func (l *liveFile) Bytes() []byte { return l.data }
func (l *liveFile) Close() error  { return nil }
func (l *liveFile) Remap() (bool, error) {
	before := len(l.data)
	l.data = l.f.data
	return len(l.data) != before, nil
}

const testHead = 16384

var testHeader = Header{
	Native: true, FormatVersion: FormatVersion, SchemaVersion: SchemaVersion, Level: LevelStorage,
	MonoStartNS: 1_000_000_000, WallStartNS: 1_700_000_000_000_000_000,
	ConfigJSON: `{"a": 1}`, ConfigDigest: "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862",
	PID: 4711, Host: "host-a", Build: "test", RingPath: "/dev/shm/ring-4711", BlockBytes: DefaultBlockBytes,
	Clock: "tsc", ClockBound: 100_000,
}

func newTestWriter(t testing.TB, f appendFile, blockBytes int64) *writer {
	t.Helper()
	w, err := newWriter(f, &testHeader, writerOptions{BlockBytes: blockBytes})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func openBytes(t testing.TB, data []byte) *NativeReader {
	t.Helper()
	r, err := newNativeReader("test.lct", bytesFile(data), unguarded, func(m string) { t.Errorf("warning: %s", m) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call is a record with its arguments.
type call struct {
	op   Op
	seq  uint64
	mono int64
	wall int64
	args Args
}

func mustScope(model, salt string) kv.Scope {
	s, err := kv.InternScope(model, salt)
	if err != nil {
		panic(err)
	}
	return s
}

func mustLayout(shapes [][]int64, dtypes ...string) kv.Layout {
	d := kv.LayoutDesc{Shapes: shapes}
	for _, name := range dtypes {
		t, ok := kv.ParseDType(name)
		if !ok {
			panic(name)
		}
		d.DTypes = append(d.DTypes, t)
	}
	l, err := kv.InternLayout(d)
	if err != nil {
		panic(err)
	}
	return l
}

// generator makes random calls: every argument type, lists that repeat, extend
// and cut known chains, grids over ranks and groups, and plain noise.
type generator struct {
	rnd     *rand.Rand
	chains  [][][]byte // hashes
	scopes  []kv.Scope
	layouts []kv.Layout
	seq     uint64
	mono    int64
}

func newGenerator(seed uint64) *generator {
	return &generator{
		rnd:    rand.New(rand.NewPCG(seed, 1)),
		scopes: []kv.Scope{0, mustScope("m", ""), mustScope("meta-llama/Llama-3.1-8B", ""), mustScope("meta-llama/Llama-3.1-8B", "tenant"), mustScope("", "salt only")},
		layouts: []kv.Layout{0, mustLayout([][]int64{{2, 32, 256, 1024}}, "bfloat16"),
			mustLayout([][]int64{{2, 4}, {}, {0}}, "uint8", "float8_e4m3fn", "int64")},
	}
}

func (g *generator) hash() []byte {
	h := make([]byte, []int{32, 32, 32, 32, 8, 4, 0, 1, 31}[g.rnd.IntN(9)])
	for i := range h {
		h[i] = byte(g.rnd.Uint32())
	}
	if len(h) == 8 && g.rnd.IntN(2) == 0 {
		binary.LittleEndian.PutUint64(h, g.rnd.Uint64N(50)) // collisions
	}
	return h
}

func (g *generator) chain() [][]byte {
	if len(g.chains) == 0 || g.rnd.IntN(6) == 0 {
		g.chains = append(g.chains, nil)
	}
	i := g.rnd.IntN(len(g.chains))
	for range g.rnd.IntN(8) {
		g.chains[i] = append(g.chains[i], g.hash())
	}
	c := g.chains[i]
	from := 0
	if len(c) > 0 && g.rnd.IntN(3) == 0 {
		from = g.rnd.IntN(len(c))
	}
	c = c[from:]
	if g.rnd.IntN(3) == 0 {
		c = c[:g.rnd.IntN(len(c)+1)]
	}
	if len(c) > 2 && g.rnd.IntN(8) == 0 { // out of order, with duplicates
		c = append([][]byte(nil), c...)
		c[0], c[len(c)-1] = c[len(c)-1], c[1]
	}
	return c
}

func (g *generator) context() kv.ObjectKey {
	return kv.ObjectKey{Rank: kv.PackRank(2, g.rnd.Uint64N(2), 2, g.rnd.Uint64N(2)), Scope: g.scopes[g.rnd.IntN(len(g.scopes))], Group: uint32(g.rnd.IntN(3))}
}

func (g *generator) keys() []kv.ObjectKey {
	contexts := make([]kv.ObjectKey, 1+max(0, g.rnd.IntN(9)-5))
	for i := range contexts {
		contexts[i] = g.context()
	}
	keys := []kv.ObjectKey{}
	for _, h := range g.chain() {
		for _, c := range contexts {
			k := c
			k.HashLen = uint8(copy(k.Hash[:], h))
			keys = append(keys, k)
		}
	}
	if g.rnd.IntN(10) == 0 && len(keys) > 0 {
		keys[g.rnd.IntN(len(keys))].Rank = 1<<64 - 1
	}
	if g.rnd.IntN(12) == 0 && len(keys) > 1 {
		keys = keys[:len(keys)-1] // the grid is not full
	}
	return keys
}

func (g *generator) tags() []kv.MemoryTag {
	switch g.rnd.IntN(3) {
	case 0:
		return nil
	case 1:
		return []kv.MemoryTag{}
	}
	return []kv.MemoryTag{{Segment: "dram", Residency: "local"}, {Segment: "", Residency: "remote"}}
}

func (g *generator) next() call {
	c := call{op: Op(1 + g.rnd.IntN(int(numOps)-1)), seq: g.seq, mono: g.mono, wall: 1_700_000_000_000_000_000 + g.mono}
	g.seq += 1 + uint64(max(0, g.rnd.IntN(20)-18))*g.rnd.Uint64N(300)
	g.mono += g.rnd.Int64N(1_000_000) - 1000
	for _, arg := range c.op.Row().Args {
		switch arg.Type {
		case ArgKeys:
			c.args.Keys = g.keys()
		case ArgLayout:
			c.args.Layout = g.layouts[g.rnd.IntN(len(g.layouts))]
		case ArgMode:
			c.args.Mode = kv.WriteMode(g.rnd.IntN(3))
		case ArgText:
			c.args.Text = []string{"", "cmpl-1", "chat-\xff\x00"}[g.rnd.IntN(3)]
		case ArgFlag:
			c.args.Flag = g.rnd.IntN(2) == 0
		case ArgCount:
			c.args.Count = g.rnd.Int64() - g.rnd.Int64()
		case ArgSpec:
			s := &kv.PrefetchSpec{
				Readers: int32(g.rnd.Uint32()), Policy: kv.FetchPolicy(g.rnd.IntN(3)), Lock: kv.LockMode(g.rnd.IntN(2)),
				Flat: g.rnd.IntN(4) == 0, L1Tags: g.tags(), L2Tags: g.tags(), Groups: []kv.KeyGroup{},
			}
			for range g.rnd.IntN(4) {
				s.Groups = append(s.Groups, kv.KeyGroup{Keys: g.keys(), Group: uint32(g.rnd.IntN(3)), Layout: g.layouts[g.rnd.IntN(len(g.layouts))], Window: []int32{-1, 4}[g.rnd.IntN(2)]})
			}
			c.args.Spec = s
		}
	}
	return c
}

// write writes n random calls and returns them with the whole file.
func write(t testing.TB, seed uint64, n int, blockBytes int64) ([]call, []byte) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, blockBytes)
	g := newGenerator(seed)
	var calls []call
	for range n {
		c := g.next()
		if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return calls, f.data
}

// sameArgs compares what an operation's schema row names; empty and nil key
// lists are the same.
func sameArgs(a, b *Args) error {
	if err := sameKeys(a.Keys, b.Keys); err != nil {
		return err
	}
	if a.Layout != b.Layout || a.Mode != b.Mode || a.Text != b.Text || a.Flag != b.Flag || a.Count != b.Count {
		return fmt.Errorf("got %+v; want %+v", *a, *b)
	}
	if (a.Spec == nil) != (b.Spec == nil) {
		return fmt.Errorf("spec: got %v; want %v", a.Spec, b.Spec)
	}
	if a.Spec == nil {
		return nil
	}
	x, y := *a.Spec, *b.Spec
	if len(x.Groups) != len(y.Groups) {
		return fmt.Errorf("got %d groups; want %d", len(x.Groups), len(y.Groups))
	}
	for i := range x.Groups {
		p, q := x.Groups[i], y.Groups[i]
		if err := sameKeys(p.Keys, q.Keys); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
		if p.Group != q.Group || p.Layout != q.Layout || p.Window != q.Window {
			return fmt.Errorf("group %d: got %v; want %v", i, p, q)
		}
	}
	x.Groups, y.Groups = nil, nil
	if !reflect.DeepEqual(x, y) {
		return fmt.Errorf("spec: got %+v; want %+v", x, y)
	}
	return nil
}

func sameKeys(a, b []kv.ObjectKey) error {
	if len(a) != len(b) {
		return fmt.Errorf("got %d keys; want %d", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("key %d: got %v; want %v", i, a[i], b[i])
		}
	}
	return nil
}

// sameCall compares the present record of r with want.
func sameCall(r *NativeReader, a *Args, want *call) error {
	rec := r.Record()
	if rec.Op != want.op || rec.Qualname != want.op.String() || rec.Seq != want.seq || rec.MonoNS != want.mono || rec.WallNS != want.wall {
		return fmt.Errorf("got record %+v; want %v seq %d mono %d wall %d", rec, want.op, want.seq, want.mono, want.wall)
	}
	if err := r.Args(a); err != nil {
		return err
	}
	return sameArgs(a, &want.args)
}

func TestNativeRoundTrip(t *testing.T) {
	for _, blockBytes := range []int64{4096, 20000, DefaultBlockBytes} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("block=%d/seed=%d", blockBytes, seed), func(t *testing.T) {
				calls, data := write(t, seed, 800, blockBytes)
				r := openBytes(t, data)
				defer r.Close()
				wantHeader := testHeader
				wantHeader.BlockBytes = blockBytes
				if !reflect.DeepEqual(*r.Header(), wantHeader) {
					t.Errorf("header: got %+v; want %+v", *r.Header(), wantHeader)
				}
				var a Args
				for i := range calls {
					if !r.Next() {
						t.Fatalf("call %d: Next is false, Err %v", i, r.Err())
					}
					if err := sameCall(r, &a, &calls[i]); err != nil {
						t.Fatalf("call %d (%v): %v", i, calls[i].op, err)
					}
				}
				if r.Next() || r.Err() != nil || !r.Sealed() {
					t.Errorf("at the end: Err %v, Sealed %v", r.Err(), r.Sealed())
				}
			})
		}
	}
}
