package l1

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// model is first fit as the reference tells it: a list of free extents, sorted
// by address and searched from the start for every single allocation.
type model struct {
	align int64
	holes []hole
}

type hole struct{ start, length int64 }

func newModel(size, align int64) *model {
	m := &model{align: align}
	if heap := size / align * align; heap > 0 {
		m.holes = []hole{{0, heap}}
	}
	return m
}

func (m *model) alloc(bytes int64) (off int64, ok bool) {
	need := (bytes + m.align - 1) / m.align * m.align
	for i := range m.holes {
		h := &m.holes[i]
		if h.length < need {
			continue
		}
		off = h.start
		h.start, h.length = h.start+need, h.length-need
		if h.length == 0 {
			m.holes = slices.Delete(m.holes, i, i+1)
		}
		return off, true
	}
	return 0, false
}

// allocBatch is n single allocations, of which none stays if one fails.
func (m *model) allocBatch(bytes int64, n int) ([]int64, bool) {
	before := slices.Clone(m.holes)
	offs := make([]int64, 0, n)
	for range n {
		off, ok := m.alloc(bytes)
		if !ok {
			m.holes = before
			return nil, false
		}
		offs = append(offs, off)
	}
	return offs, true
}

func (m *model) free(off, bytes int64) {
	n := (bytes + m.align - 1) / m.align * m.align
	i, _ := slices.BinarySearchFunc(m.holes, off, func(h hole, off int64) int { return int(min(max(h.start-off, -1), 1)) })
	m.holes = slices.Insert(m.holes, i, hole{off, n})
	if i+1 < len(m.holes) && off+n == m.holes[i+1].start {
		m.holes[i].length += m.holes[i+1].length
		m.holes = slices.Delete(m.holes, i+1, i+2)
	}
	if i > 0 && m.holes[i-1].start+m.holes[i-1].length == off {
		m.holes[i-1].length += m.holes[i].length
		m.holes = slices.Delete(m.holes, i, i+1)
	}
}

// compare holds the holes of an arena, which it also checks, against those of
// its model.
func compare(t *testing.T, a *arena, m *model) {
	t.Helper()
	if err := a.check(); err != nil {
		t.Fatal(err)
	}
	var got []hole
	if err := a.holes.check(func(start, length int64) error {
		got = append(got, hole{start, length})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, m.holes) {
		t.Fatalf("holes %v; want %v", got, m.holes)
	}
}

// object is one allocation of a pair under test.
type placed struct{ off, bytes int64 }

// pair drives an arena and its model with the same calls.
type pair struct {
	a    *arena
	m    *model
	live []placed
}

func newPair(t *testing.T, size, align int64) *pair {
	t.Helper()
	a, err := newArena(size, align)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{a: a, m: newModel(size, align)}
}

func (p *pair) alloc(t *testing.T, bytes int64, n int) bool {
	t.Helper()
	used := p.a.used()
	got := make([]int64, n)
	ok := p.a.allocBatch(bytes, n, got)
	want, wantOK := p.m.allocBatch(bytes, n)
	if ok != wantOK {
		t.Fatalf("%d slots of %d: %v; want %v, holes %v", n, bytes, ok, wantOK, p.m.holes)
	}
	if !ok {
		if p.a.used() != used {
			t.Fatalf("%d slots of %d refused, used went from %d to %d", n, bytes, used, p.a.used())
		}
		return false
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d slots of %d at %v; want %v", n, bytes, got, want)
	}
	if step := int64(n) * ((bytes + p.m.align - 1) / p.m.align * p.m.align); p.a.used() != used+step {
		t.Fatalf("used %d after %d slots of %d; want %d", p.a.used(), n, bytes, used+step)
	}
	for _, off := range got {
		p.live = append(p.live, placed{off, bytes})
	}
	return true
}

func (p *pair) free(i int) {
	o := p.live[i]
	p.live[i] = p.live[len(p.live)-1]
	p.live = p.live[:len(p.live)-1]
	p.a.free(o.off, o.bytes)
	p.m.free(o.off, o.bytes)
}

func TestArenaAgainstModel(t *testing.T) {
	cases := []struct {
		size, align int64
		sizes       []int64
		batch       int // most slots of one call
		steps       int
	}{
		{1 << 20, 4096, []int64{1, 4096, 4097, 65536}, 20, 20000},
		{4 << 20, 512, []int64{512}, 40, 20000},                  // one size, as in most L1s
		{4 << 20, 512, []int64{100, 700, 5000, 33000}, 8, 20000}, // mixed
		{1<<20 + 333, 1, []int64{1, 2, 3, 97, 1000}, 30, 20000},
		{64 << 30, 1 << 30, []int64{1, 1 << 30, 3 << 30}, 4, 5000},
		{math.MaxInt64, 1, []int64{math.MaxInt64 / 3, math.MaxInt64 / 5, 1, 1 << 40}, 3, 5000},
		{math.MaxInt64, 1 << 30, []int64{math.MaxInt64 / 7, 1, 1 << 40}, 5, 5000},
		{1000, 4096, []int64{1, 1000}, 2, 50},
		{0, 4096, []int64{1}, 2, 50},
	}
	for _, c := range cases {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("size=%d/align=%d/sizes=%d/seed=%d", c.size, c.align, len(c.sizes), seed), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(c.size)))
				p := newPair(t, c.size, c.align)
				full := 0
				for i := range c.steps {
					// Phases fill and drain the arena in turn, so that the
					// tree grows and shrinks through all its shapes.
					filling := i/1500%2 == 0
					if len(p.live) == 0 || (rng.IntN(4) > 0) == filling {
						if !p.alloc(t, c.sizes[rng.IntN(len(c.sizes))], rng.IntN(c.batch+1)) {
							full++
						}
					} else {
						p.free(rng.IntN(len(p.live)))
					}
					if i%251 == 0 {
						compare(t, p.a, p.m)
					}
				}
				if full == 0 {
					t.Error("the arena was never full; the workload does not test refusals")
				}
				for len(p.live) > 0 {
					p.free(rng.IntN(len(p.live)))
				}
				compare(t, p.a, p.m)
				if p.a.used() != 0 || p.a.capacity() != c.size {
					t.Errorf("used %d, capacity %d; want 0, %d", p.a.used(), p.a.capacity(), c.size)
				}
			})
		}
	}
}

// TestArenaDeep makes every second slot a hole, so that the tree is several
// levels high, and fills the holes again in random order and in batches.
func TestArenaDeep(t *testing.T) {
	const n, slot = 60000, 64
	for _, order := range []string{"ascending", "descending", "random"} {
		t.Run("order="+order, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, n*slot, slot)
			p.alloc(t, slot, n)
			slices.SortFunc(p.live, func(x, y placed) int { return int(min(max(x.off-y.off, -1), 1)) })
			var odd []placed
			for i := 1; i < n; i += 2 {
				odd = append(odd, p.live[i])
			}
			switch order {
			case "descending":
				slices.Reverse(odd)
			case "random":
				rand.New(rand.NewPCG(1, 2)).Shuffle(len(odd), func(i, j int) { odd[i], odd[j] = odd[j], odd[i] })
			}
			for _, o := range odd {
				p.a.free(o.off, o.bytes)
			}
			if p.a.holes.height < 3 {
				t.Fatalf("tree of height %d; want at least 3", p.a.holes.height)
			}
			if err := p.a.check(); err != nil {
				t.Fatal(err)
			}

			// Nothing fits that is longer than a hole, though half is free.
			dst := make([]int64, n/2)
			if p.a.allocBatch(slot+1, 1, dst) {
				t.Fatalf("two slots at %d, where no two neighbours are free", dst[0])
			}
			if p.a.allocBatch(slot, n/2+1, make([]int64, n/2+1)) {
				t.Fatal("more slots than are free")
			}
			if !p.a.allocBatch(slot, n/2, dst) {
				t.Fatal("the holes do not take a batch of their number")
			}
			for i, off := range dst {
				if want := int64(2*i+1) * slot; off != want {
					t.Fatalf("slot %d at %d; want %d", i, off, want)
				}
			}
			if err := p.a.check(); err != nil {
				t.Fatal(err)
			}
			if p.a.used() != n*slot || p.a.holes.leaves.inUse() != 1 || p.a.holes.inners.inUse() != 0 {
				t.Errorf("full arena: used %d, %d leaves, %d inner nodes", p.a.used(), p.a.holes.leaves.inUse(), p.a.holes.inners.inUse())
			}
		})
	}
}

// TestArenaGrowingHoles frees longer and longer holes at random places, so that
// each is the longest so far when the nodes on its path split, all levels of them.
func TestArenaGrowingHoles(t *testing.T) {
	const n, cell = 12000, 1 << 18
	a, err := newArena(n*cell, 16)
	if err != nil {
		t.Fatal(err)
	}
	if !a.allocBatch(n*cell, 1, make([]int64, 1)) {
		t.Fatal("does not fit")
	}
	for i, at := range rand.New(rand.NewPCG(7, 8)).Perm(n) {
		a.free(int64(at)*cell, int64(i+1)*16)
		if i%7 == 0 || i > n-100 {
			if err := a.check(); err != nil {
				t.Fatalf("after %d holes: %v", i+1, err)
			}
		}
	}
	if a.holes.height < 3 {
		t.Fatalf("tree of height %d; want at least 3", a.holes.height)
	}
}

// TestArenaAllOrNothing refuses a batch late, when the sum of the holes is
// enough but their lengths are not, and expects the same holes afterwards.
func TestArenaAllOrNothing(t *testing.T) {
	p := newPair(t, 1000*16, 16)
	p.alloc(t, 16, 1000)
	slices.SortFunc(p.live, func(x, y placed) int { return int(x.off - y.off) })
	live := slices.Clone(p.live)
	for i, o := range live {
		if i%5 > 1 || i%50 == 1 { // holes of three and four slots
			p.a.free(o.off, o.bytes)
			p.m.free(o.off, o.bytes)
		}
	}
	compare(t, p.a, p.m)
	// 200 holes take one double slot, 20 of them two.
	p.live = nil
	if p.alloc(t, 32, 221) {
		t.Fatal("221 double slots fit; want refusal")
	}
	compare(t, p.a, p.m)
	if !p.alloc(t, 32, 220) {
		t.Fatal("220 double slots do not fit")
	}
	compare(t, p.a, p.m)
}

// TestArenaTail pins what release 0.5.6 gives for 0.05 and 0.001 GB.
//
// Source: reference storage-manager.md, section 4.3.
func TestArenaTail(t *testing.T) {
	cases := []struct {
		size, bytes int64
		fit         int   // slots of bytes
		tail        int   // slots of 4096 after them
		used        int64 // at the end
	}{
		{53687091, 65536, 819, 3, 819*65536 + 3*4096},
		{1073741, 65536, 16, 6, 16*65536 + 6*4096},
		{4096, 1, 1, 0, 4096},
		{4095, 1, 0, 0, 0},
		{8191, 4097, 0, 1, 4096},
		{1, 1, 0, 0, 0},
		{0, 1, 0, 0, 0},
	}
	for _, c := range cases {
		p := newPair(t, c.size, 4096)
		for _, step := range []struct {
			bytes int64
			n     int
		}{{c.bytes, c.fit}, {4096, c.tail}} {
			if step.n > 0 && !p.alloc(t, step.bytes, step.n) {
				t.Errorf("size %d: %d slots of %d do not fit", c.size, step.n, step.bytes)
			}
			if p.alloc(t, step.bytes, 1) {
				t.Errorf("size %d: one more than %d slots of %d fits", c.size, step.n, step.bytes)
			}
		}
		if p.a.used() != c.used || p.a.capacity() != c.size {
			t.Errorf("size %d: used %d, capacity %d; want %d, %d", c.size, p.a.used(), p.a.capacity(), c.used, c.size)
		}
	}
}

func TestNewArenaErrors(t *testing.T) {
	for _, c := range []struct {
		size, align int64
		want        string
	}{
		{1 << 30, 0, "align_bytes must be a positive power of two, not 0"},
		{1 << 30, -4096, "align_bytes must be a positive power of two, not -4096"},
		{1 << 30, 3, "align_bytes must be a positive power of two, not 3"},
		{1 << 30, math.MinInt64, "align_bytes must be a positive power of two, not -9223372036854775808"},
		{-1, 4096, "size_in_bytes must not be negative, not -1"},
	} {
		if _, err := newArena(c.size, c.align); err == nil || err.Error() != c.want {
			t.Errorf("newArena(%d, %d): %v; want %s", c.size, c.align, err, c.want)
		}
	}
	for _, align := range []int64{1, 2, 4096, 1 << 30, 1 << 62} {
		if _, err := newArena(1<<40, align); err != nil {
			t.Errorf("newArena(1 TiB, %d): %v", align, err)
		}
	}
}

// TestArenaPanics frees what is not allocated, in every way that the arena can
// tell. Nothing may have changed afterwards.
func TestArenaPanics(t *testing.T) {
	cases := []struct {
		name       string
		off, bytes int64
		want       string
	}{
		{"a hole", 8192, 4096, "free in part"},
		{"over the start of a hole", 4096, 8192, "free in part"},
		{"over the end of a hole", 12288, 8192, "free in part"},
		{"around a hole", 0, 65536, "free in part"},
		{"inside the free tail", 1 << 19, 4096, "free in part"},
		{"unaligned", 100, 4096, "aligned to 4096"},
		{"negative offset", -4096, 4096, "free of 4096 bytes at -4096"},
		{"no bytes", 0, 0, "free of 0 bytes"},
		{"negative bytes", 0, -1, "free of -1 bytes"},
		{"past the end", 1 << 20, 4096, "free of 4096 bytes at 1048576"},
		{"over the end", 1<<20 - 4096, 4097, "free of 4097 bytes"},
		{"bytes near overflow", 4096, math.MaxInt64, "free of 9223372036854775807 bytes"},
		{"offset near overflow", math.MaxInt64 &^ 4095, 4096, "free of 4096 bytes"},
	}
	p := newPair(t, 1<<20, 4096)
	p.alloc(t, 4096, 16)
	p.free(slices.IndexFunc(p.live, func(o placed) bool { return o.off == 8192 }))
	p.free(slices.IndexFunc(p.live, func(o placed) bool { return o.off == 12288 }))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, c.want) {
					t.Errorf("panic %q; want one with %q", got, c.want)
				}
				compare(t, p.a, p.m)
			}()
			p.a.free(c.off, c.bytes)
		})
	}
	for _, bytes := range []int64{0, -1, math.MinInt64} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("allocation of %d bytes does not panic", bytes)
				}
			}()
			p.a.allocBatch(bytes, 1, make([]int64, 1))
		}()
	}
}

// TestArenaCheckSees breaks an arena on purpose: the check has to notice.
func TestArenaCheckSees(t *testing.T) {
	leafOf := func(a *arena) *node { leaf, _ := a.holes.find(0); return leaf }
	cases := []struct {
		name  string
		wreck func(a *arena)
		want  string
	}{
		{"lost bytes", func(a *arena) { a.taken -= 64 }, "in the books"},
		{"forgotten hole", func(a *arena) { a.avail -= 64; a.taken += 64 }, "in the books"},
		{"unaligned hole", func(a *arena) { leafOf(a).start[1]++ }, "aligned to 64"},
		{"joined badly", func(a *arena) { leafOf(a).length[1] *= 2 }, "not joined"},
		{"overlap", func(a *arena) { leafOf(a).length[1] *= 4 }, "overlaps"},
		{"longest", func(a *arena) { a.holes.inners.at(a.holes.root).length[0] *= 2 }, "longest"},
		{"start", func(a *arena) { a.holes.inners.at(a.holes.root).start[1]++ }, "start"},
		{"underfull", func(a *arena) { leafOf(a).n = 1 }, "entries"},
		{"leaked node", func(a *arena) { a.holes.leaves.alloc() }, "in use"},
		{"past the end", func(a *arena) { a.heap -= 128 }, "in an arena of"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, err := newArena(1000*64, 64)
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]int64, 1000)
			a.allocBatch(64, 1000, dst)
			for i := 1; i < 1000; i += 2 {
				a.free(dst[i], 64)
			}
			if err := a.check(); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.wreck(a)
			if err := a.check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("check: %v; want an error with %q", err, c.want)
			}
		})
	}
}

// TestArenaFootprint counts the memory behind arenas of a terabyte and more.
func TestArenaFootprint(t *testing.T) {
	cases := []struct {
		name        string
		size, align int64
		bytes       int64
		n           int
		limit       int // bytes of nodes
	}{
		{"empty", 1 << 40, 4096, 1, 0, 64 << 10},
		{"packed", 1 << 40, 4096, 4096, 1 << 18, 64 << 10},
		{"1 GiB, half of it holes of 64 KiB", 1 << 40, 4096, 64 << 10, 1 << 14, 512 << 10},
		{"200 GiB, half of it holes of 2 MiB, align 1", 200 << 30, 1, 2 << 20, 100 << 10, 3 << 20},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, err := newArena(c.size, c.align)
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]int64, c.n)
			if !a.allocBatch(c.bytes, c.n, dst) {
				t.Fatal("does not fit")
			}
			if c.bytes > 4096 {
				rand.New(rand.NewPCG(1, 1)).Shuffle(c.n, func(i, j int) { dst[i], dst[j] = dst[j], dst[i] })
				for _, off := range dst {
					if off/c.bytes%2 == 1 {
						a.free(off, c.bytes)
					}
				}
			}
			if got := a.holes.footprint(); got > c.limit {
				t.Errorf("%d bytes of nodes; want at most %d", got, c.limit)
			}
		})
	}
}

// TestArenaAllocatesNothing: in a steady state the tree reuses its nodes.
func TestArenaAllocatesNothing(t *testing.T) {
	const n, batch = 20000, 16
	a, err := newArena(n*4096, 4096)
	if err != nil {
		t.Fatal(err)
	}
	live, dst := make([]int64, n), make([]int64, batch)
	if !a.allocBatch(4096, n, live) {
		t.Fatal("does not fit")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	rng.Shuffle(n, func(i, j int) { live[i], live[j] = live[j], live[i] })
	for _, off := range live[n/2:] {
		a.free(off, 4096)
	}
	live = live[:n/2]
	cycle := func() {
		at := rng.IntN(len(live) - batch)
		for _, off := range live[at : at+batch] {
			a.free(off, 4096)
		}
		if !a.allocBatch(4096, batch, dst) {
			t.Fatal("does not fit")
		}
		copy(live[at:], dst)
	}
	for range 1000 {
		cycle() // the lists of free nodes find their size
	}
	if got := testing.AllocsPerRun(1000, cycle); got != 0 {
		t.Errorf("%v allocations a cycle of %d frees and a batch; want 0", got, batch)
	}
}

// FuzzArena reads calls from the input. Property: the arena does what the model
// does, and frees of what is allocated never panic.
func FuzzArena(f *testing.F) {
	f.Add(uint32(1<<20), uint8(12), []byte{0x10, 1, 0x20, 2, 0x90, 0, 0x11, 5})
	f.Add(uint32(1073741), uint8(12), []byte{0x7f, 255, 0xff, 1, 0x01, 9, 0xff, 3})
	f.Add(uint32(5000), uint8(0), []byte(strings.Repeat("\x02\x03\x81\x07", 60)))
	f.Add(uint32(1<<16), uint8(4), []byte(strings.Repeat("\x7c\x00", 40)+strings.Repeat("\xc0\x5b", 300)))
	f.Fuzz(func(t *testing.T, size uint32, shift uint8, calls []byte) {
		p := newPair(t, int64(size), 1<<(shift%31))
		calls = calls[:min(len(calls), 4096)] // the model takes quadratic time
		for ; len(calls) >= 2; calls = calls[2:] {
			op, arg := calls[0], int64(calls[1])
			if op&0x80 != 0 { // free one
				if len(p.live) > 0 {
					p.free((int(op&0x7f)<<8 | int(arg)) % len(p.live))
				}
				continue
			}
			unit := p.a.align
			if arg%3 == 0 {
				unit = max(unit/3, 1) // sizes between multiples of the alignment
			}
			p.alloc(t, 1+arg*unit%max(int64(size), 1), int(op&0x3f))
		}
		compare(t, p.a, p.m)
	})
}
