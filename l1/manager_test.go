package l1_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
)

const objectBytes = 4096

type tier struct {
	*l1.Manager
	clk    *clock.Virtual
	layout kv.Layout
	t      *testing.T
}

// newTier returns a tier of n objects with lock lives of 10 s (write) and 5 s (read).
func newTier(t *testing.T, n int64) tier { return newTierOf(t, n, "LRU") }

func newTierOf(t *testing.T, n int64, policy string) tier {
	t.Helper()
	clk := clock.NewVirtual(0)
	m, err := l1.New(l1.Options{SizeBytes: n * objectBytes, AlignBytes: 4096, WriteTTL: 10 * time.Second,
		ReadTTL: 5 * time.Second, Policy: policy, Memory: new(l1.Scratch), Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	d, _ := kv.ParseDType("uint8")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{objectBytes}}, DTypes: []kv.DType{d}})
	if err != nil {
		t.Fatal(err)
	}
	return tier{m, clk, layout, t}
}

func keys(ns ...int) []kv.ObjectKey {
	out := make([]kv.ObjectKey, len(ns))
	for i, n := range ns {
		out[i].HashLen = 4
		binary.BigEndian.PutUint32(out[i].Hash[:], uint32(n))
	}
	return out
}

func (x tier) sleep(d time.Duration) {
	_ = x.clk.SleepUntil(context.Background(), x.clk.Now()+int64(d))
}

// reserve returns one letter a key: R, P or M.
func (x tier) reserve(mode kv.WriteMode, tag l1.Tag, temporary bool, ns ...int) string {
	x.t.Helper()
	res, err := x.Reserve(nil, keys(ns...), x.layout, mode, tag, temporary)
	if err != nil {
		x.t.Fatal(err)
	}
	out := ""
	for _, r := range res {
		out += map[l1.Code]string{l1.Success: "R", l1.KeyNotWritable: "P", l1.OutOfMemory: "M"}[r.Code]
		if (r.Code == l1.Success) != (len(r.Object.Bytes) == objectBytes) {
			x.t.Errorf("reserve gives %v with %d bytes", r.Code, len(r.Object.Bytes))
		}
	}
	return out
}

func letters(codes []l1.Code) string {
	out := ""
	for _, c := range codes {
		out += map[l1.Code]string{l1.Success: "F", l1.KeyNotExist: "X", l1.KeyInWrongState: "W", l1.KeyNotReadable: "L", l1.KeyIsLocked: "K"}[c]
	}
	return out
}

func (x tier) finish(tag l1.Tag, locks int, ns ...int) string {
	codes, _, _ := x.Finish(nil, nil, keys(ns...), tag, locks)
	return letters(codes)
}

func (x tier) write(ns ...int) {
	x.t.Helper()
	if r, f := x.reserve(kv.ModeNew, l1.Writer, false, ns...), x.finish(l1.Writer, 0, ns...); len(r) != len(ns) || f != r2f(r) {
		x.t.Fatalf("write: reserve gives %s, finish %s", r, f)
	}
}

func r2f(r string) string {
	b := []byte(r)
	for i := range b {
		b[i] = 'F'
	}
	return string(b)
}

func (x tier) read(ns ...int) string {
	codes, _ := x.Read(nil, nil, keys(ns...))
	return letters(codes)
}

func (x tier) unlock(n int, ns ...int) string {
	codes, _ := x.Unlock(nil, keys(ns...), n)
	return letters(codes)
}

func (x tier) used() int64 { return x.Usage().UsedBytes / objectBytes }

func (x tier) expect(what, got, want string) {
	x.t.Helper()
	if got != want {
		x.t.Errorf("%s: got %q; want %q", what, got, want)
	}
	if err := x.Check(); err != nil {
		x.t.Errorf("%s: %v", what, err)
	}
}

func TestReserveModes(t *testing.T) {
	x := newTier(t, 8)
	x.expect("new", x.reserve(kv.ModeNew, l1.Writer, false, 0, 1), "RR")
	x.expect("staged keys", x.reserve(kv.ModeAll, l1.Writer, false, 0, 1), "PP")
	x.expect("update of absent keys", x.reserve(kv.ModeUpdate, l1.Writer, false, 5), "P")
	x.expect("finish", x.finish(l1.Writer, 0, 0, 1), "FF")
	x.expect("resident keys", x.reserve(kv.ModeNew, l1.Writer, false, 0, 1), "PP")
	x.expect("all", x.reserve(kv.ModeAll, l1.Writer, false, 0, 2), "RR")
	if x.used() != 3 {
		t.Errorf("an overwritten object takes memory of its own: %d objects in use; want 3", x.used())
	}
	x.LockResident(keys(0, 1), 1)
	x.expect("the key being overwritten", x.read(0, 1), "XF")
	x.expect("a read-locked key", x.reserve(kv.ModeUpdate, l1.Writer, false, 1), "P")
	x.expect("finish again", x.finish(l1.Writer, 0, 0, 2), "FF")
	x.LockResident(keys(0), 1)
	x.expect("overwritten", x.read(0), "F")

	x.expect("temporary", x.reserve(kv.ModeNew, 7, true, 6), "R")
	x.expect("temporary", x.finish(7, 1, 6), "F")
	x.sleep(6 * time.Second) // its lock lapses
	x.expect("a temporary key", x.reserve(kv.ModeAll, l1.Writer, false, 6), "P")
	if _, err := x.Reserve(nil, keys(9), x.layout, kv.ModeAll+1, l1.Writer, false); err == nil {
		t.Error("an unknown mode is no error")
	}
	if _, err := x.Reserve(nil, keys(9), 0, kv.ModeNew, l1.Writer, false); err == nil {
		t.Error("a layout of no bytes is no error")
	}
}

func TestDuplicateKeysInOneCall(t *testing.T) {
	x := newTier(t, 8)
	res, err := x.Reserve(nil, keys(1, 1, 2), x.layout, kv.ModeNew, l1.Writer, false)
	if err != nil || res[0].Code != l1.Success || res[1].Code != l1.Success || res[0].Object.Offset != res[1].Object.Offset || res[2].Object.Offset == res[0].Object.Offset {
		t.Fatalf("got %+v, %v; want one reservation for both places of key 1", res, err)
	}
	if x.used() != 2 {
		t.Errorf("%d objects in use; want 2", x.used())
	}
	x.expect("finish", x.finish(l1.Writer, 0, 1, 1, 2), "FXF")
	full := newTier(t, 2)
	full.expect("a batch that does not fit", full.reserve(kv.ModeNew, l1.Writer, false, 1, 1, 2, 3), "MMMM")
	full.expect("and left nothing behind", full.reserve(kv.ModeNew, l1.Writer, false, 1, 1, 2), "RRR")
}

func TestAllOrNothing(t *testing.T) {
	x := newTier(t, 4)
	x.write(0, 1)
	x.expect("too large a batch", x.reserve(kv.ModeNew, l1.Writer, false, 0, 2, 3, 4), "PMMM")
	x.expect("one that fits", x.reserve(kv.ModeNew, l1.Writer, false, 0, 2, 3), "PRR")
}

func TestLocks(t *testing.T) {
	x := newTier(t, 8)
	x.write(0, 1)
	x.expect("read without a lock", x.read(0, 9), "LX")
	x.LockResident(keys(0), 3)
	x.expect("read", x.read(0), "F")
	x.expect("release one", x.unlock(1, 0), "F")
	x.expect("too many at once", x.unlock(128, 0), "F")
	x.expect("none left", x.unlock(1, 0), "W")
	x.expect("unknown", x.unlock(1, 9), "X")

	x.LockResident(keys(0), 1)
	x.sleep(4 * time.Second)
	x.LockResident(keys(0), 1) // prolongs both
	x.sleep(4 * time.Second)
	x.expect("prolonged by the newer lock", x.unlock(1, 0), "F")
	x.sleep(time.Second)
	x.expect("all lapse at once", x.read(0), "L")
	x.LockResident(keys(0), 1)
	x.expect("the count starts at 1 again", x.unlock(1, 0), "F")
	x.expect("the count starts at 1 again", x.unlock(1, 0), "W")
}

// A buffer handed out again is a touch if its call also needed memory, granted
// or not.
func TestHandedOverBufferIsATouch(t *testing.T) {
	for _, c := range []struct {
		name  string
		call  []int
		codes string
		order []int
	}{
		{"alone", []int{0}, "R", []int{0, 1}},
		{"beside new memory", []int{0, 2}, "RR", []int{1, 2, 0}},
		{"beside a refusal", []int{0, 2, 3, 4}, "RMMM", []int{1, 0}},
	} {
		x := newTier(t, 4)
		x.reserve(kv.ModeNew, l1.Writer, false, 0)
		x.reserve(kv.ModeNew, l1.Writer, false, 1)
		x.sleep(time.Minute)
		x.expect(c.name, x.reserve(kv.ModeNew, l1.Writer, false, c.call...), c.codes)
		if got, want := x.Snapshot().Order, keys(c.order...); !slices.Equal(got, want) {
			t.Errorf("%s: order %v; want %v", c.name, got, want)
		}
	}
}

func TestReservationExpires(t *testing.T) {
	x := newTier(t, 2)
	x.expect("reserve", x.reserve(kv.ModeNew, l1.Writer, false, 0), "R")
	x.sleep(10 * time.Second)
	x.expect("finish after the TTL", x.finish(l1.Writer, 0, 0), "W")
	x.expect("handed out again", x.reserve(kv.ModeNew, l1.Writer, false, 0), "R")
	if x.used() != 1 {
		t.Errorf("%d objects in use; want the old buffer alone", x.used())
	}
	x.expect("finish", x.finish(l1.Writer, 0, 0), "F")
	x.expect("abandoned", x.reserve(kv.ModeNew, l1.Writer, false, 1), "R")
	x.sleep(10 * time.Second)
	if out := x.Evict(1); len(out.Keys) != 2 || x.used() != 0 {
		t.Errorf("eviction took %d keys and left %d objects; want the resident and the abandoned one to go", len(out.Keys), x.used())
	}
}

func TestTemporaryGoesWithItsLastLock(t *testing.T) {
	x := newTier(t, 4)
	x.reserve(kv.ModeNew, 5, true, 0, 1)
	x.expect("load", x.finish(5, 2, 0, 1), "FF")
	x.unlock(1, 0, 1)
	x.expect("one reader left", x.read(0, 1), "FF")
	if _, freed := x.Unlock(nil, keys(0, 1), 1); freed != 2 || x.used() != 0 {
		t.Errorf("freed %d, %d objects in use; want both gone", freed, x.used())
	}
	if order := x.Snapshot().Order; len(order) != 0 {
		t.Errorf("the policy still has %v", order)
	}
}

// TestWriterMeetsLoad: a prefetch and a writer stage the same key; whoever
// comes second, the write is neither lost nor kept from the stores.
func TestWriterMeetsLoad(t *testing.T) {
	x := newTier(t, 4)
	x.expect("prefetch", x.reserve(kv.ModeNew, 5, true, 0), "R")
	x.expect("writer", x.reserve(kv.ModeNew, l1.Writer, false, 0), "R")
	x.expect("load", x.finish(5, 1, 0), "F")
	codes, admitted, _ := x.Finish(nil, nil, keys(0), l1.Writer, 0)
	if letters(codes) != "F" || len(admitted) != 1 {
		t.Errorf("finish gives %s, %d keys for the stores; want F and 1", letters(codes), len(admitted))
	}
	x.expect("the reader leaves", x.unlock(1, 0), "F")
	if u := x.Usage(); u.Resident != 1 || x.used() != 1 {
		t.Errorf("%d resident, %d in use; want the written object to stay", u.Resident, x.used())
	}
	x.reserve(kv.ModeNew, 6, true, 1)
	x.reserve(kv.ModeNew, l1.Writer, false, 1)
	x.expect("the writer first", x.finish(l1.Writer, 0, 1), "F")
	x.expect("then the load", x.finish(6, 1, 1), "F")
	x.expect("which locks what is there", x.unlock(1, 1), "F")
	if u := x.Usage(); u.Resident != 2 || u.Staged != 0 {
		t.Errorf("%d resident, %d staged; want 2 and 0", u.Resident, u.Staged)
	}
}

// A prefetch's copy takes the key out of the policy although a writer has it
// staged, as in LMCache. Unlike there, the reservation is not lost to eviction.
func TestReservationLeftByACopy(t *testing.T) {
	const load = l1.Tag(1)
	tracked := func(x tier) int { return len(x.Snapshot().Order) }
	overlap := func(t *testing.T) tier {
		x := newTier(t, 4)
		if got := x.reserve(kv.ModeNew, l1.Writer, false, 1) + x.reserve(kv.ModeNew, load, true, 1); got != "RR" {
			t.Fatalf("reserve gives %s", got)
		}
		x.finish(load, 1, 1)
		x.unlock(1, 1)
		if n := tracked(x); n != 0 {
			t.Fatalf("the policy knows %d keys; want none", n)
		}
		return x
	}
	t.Run("finished", func(t *testing.T) {
		x := overlap(t)
		if got := x.finish(l1.Writer, 0, 1); got != "F" || tracked(x) != 1 {
			t.Errorf("finish gives %s, %d keys tracked; want F, 1", got, tracked(x))
		}
		x.sleep(time.Minute) // the object is an ordinary one now
		if got := x.Evict(1); len(got.Keys) != 1 {
			t.Errorf("evicted %v", got.Keys)
		}
	})
	t.Run("abandoned", func(t *testing.T) {
		x := overlap(t)
		if got := x.Evict(1); len(got.Keys) != 0 {
			t.Fatalf("evicted %v under a live lock", got.Keys)
		}
		x.sleep(time.Minute)
		if got := x.Evict(1); len(got.Keys) != 1 || x.Usage().UsedBytes != 0 {
			t.Errorf("evicted %v, %d bytes used", got.Keys, x.Usage().UsedBytes)
		}
	})
	t.Run("discarded", func(t *testing.T) {
		x := overlap(t)
		x.Discard(keys(1), l1.Writer)
		x.write(1) // the slot is used again
		x.sleep(time.Minute)
		if got := x.Evict(1); len(got.Keys) != 1 {
			t.Errorf("evicted %v", got.Keys)
		}
	})
}

func TestDiscardDeleteClear(t *testing.T) {
	x := newTier(t, 8)
	x.reserve(kv.ModeNew, 5, true, 0)
	x.Discard(keys(0, 3), 5)
	if x.used() != 0 || len(x.Snapshot().Order) != 0 {
		t.Errorf("a discarded reservation leaves %d objects, policy %v", x.used(), x.Snapshot().Order)
	}
	x.write(0, 1, 2)
	x.reserve(kv.ModeNew, l1.Writer, false, 3)
	x.LockResident(keys(1), 1)
	codes, freed := x.Delete(nil, keys(0, 1, 3, 9), false)
	x.expect("delete", letters(codes), "FKKX")
	if freed != objectBytes {
		t.Errorf("freed %d bytes; want one object", freed)
	}
	x.Clear(false)
	if u := x.Usage(); u.Resident != 1 || u.Staged != 1 {
		t.Errorf("clear left %d resident, %d staged; want the locked ones", u.Resident, u.Staged)
	}
	x.Clear(true)
	if u := x.Usage(); u.UsedBytes != 0 || len(x.Snapshot().Order) != 0 {
		t.Errorf("forced clear left %+v, policy %v", u, x.Snapshot().Order)
	}
}

// TestRandomCalls checks the accounting after every one of many seeded calls
// with expiring locks, three tags and a small arena.
func TestRandomCalls(t *testing.T) {
	x := newTier(t, 20)
	rng := rand.New(rand.NewPCG(3, 4))
	for step := range 30_000 {
		ns := make([]int, 1+rng.IntN(4))
		for i := range ns {
			ns[i] = rng.IntN(30)
		}
		tag, n := l1.Tag(rng.IntN(3)), 1+rng.IntN(3)
		switch rng.IntN(10) {
		case 0, 1, 2:
			x.reserve(kv.WriteMode(rng.IntN(3)), tag, tag > 0 && rng.IntN(2) == 0, ns...)
		case 3, 4:
			x.finish(tag, n*int(tag), ns...)
		case 5:
			x.LockResident(keys(ns...), n)
		case 6:
			x.unlock(n, ns...)
		case 7:
			x.Discard(keys(ns...), tag)
		case 8:
			x.Evict(0.3)
		case 9:
			x.Touch(keys(ns...))
			x.sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		}
		if err := x.Check(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if step%100 == 0 { // the policy knows the keys that have something, but for reservations left by a copy
			s := x.Snapshot()
			for _, k := range s.Keys {
				i := slices.Index(s.Order, k.Key)
				if i < 0 && (k.Resident || !k.Staged) {
					t.Fatalf("step %d: the policy does not know %+v", step, k)
				}
				if i >= 0 {
					s.Order = slices.Delete(s.Order, i, i+1)
				}
			}
			if len(s.Order) > 0 {
				t.Fatalf("step %d: the policy has %v, which the tier has not", step, s.Order)
			}
		}
	}
	x.Clear(true)
	if err := x.Check(); err != nil {
		t.Fatal(err)
	}
	for n := range 30 { // loads that were on their way end
		x.Discard(keys(n), 1)
		x.Finish(nil, nil, keys(n), 2, 1)
	}
	if u := x.Usage(); u != (l1.Usage{CapacityBytes: u.CapacityBytes}) {
		t.Errorf("after a forced clear: %+v", u)
	}
}

// TestEvictCountsWhatItMustLeave: in a pass over more keys than go under one
// hold of the lock, a key that a prefetch is still loading counts once and
// stays, as it would in one sweep.
func TestEvictCountsWhatItMustLeave(t *testing.T) {
	const n = 1000
	x := newTier(t, n+1)
	var ns []int
	for i := range n {
		ns = append(ns, i)
	}
	x.expect("a prefetch stages what will be the coldest key", x.reserve(kv.ModeNew, 5, true, n-1), "R")
	x.write(ns...)
	out := x.Evict(0.6)
	if len(out.Keys) != 599 {
		t.Fatalf("evicted %d keys; want 600 less the one being loaded", len(out.Keys))
	}
	for i, k := range out.Keys {
		if want := keys(n - 2 - i)[0]; k != want {
			t.Fatalf("victim %d is %v; want %v", i, k, want)
		}
	}
	if out.Bytes != 599*objectBytes || x.used() != n+1-599 {
		t.Errorf("%d bytes came back, %d objects in use; want 599 objects back", out.Bytes, x.used())
	}
}

// A store's task has the memory of what it pinned, and keeps it, also if a caller
// gives back the lock that came with the pin.
func TestPinOutlivesItsLock(t *testing.T) {
	x := newTier(t, 4)
	x.reserve(kv.ModeNew, l1.Writer, false, 1, 2)
	x.Finish(nil, nil, keys(1, 2), l1.Writer, 0)
	pinned := x.clk.Now()
	objects, held := x.Pin(nil, keys(1, 3, 2))
	if len(objects) != 2 || !held.Test(0) || held.Test(1) || !held.Test(2) {
		t.Fatalf("pinned %v, %d objects; want the first and the last", held, len(objects))
	}
	x.Unlock(nil, keys(1, 2), 1) // one too many
	if codes, _ := x.Read(nil, nil, keys(1)); codes[0] != l1.KeyNotReadable {
		t.Errorf("Read: %v; the lock was given back", codes)
	}
	if codes, _ := x.Delete(nil, keys(1, 2), false); codes[0] != l1.KeyIsLocked || codes[1] != l1.KeyIsLocked {
		t.Errorf("Delete of pinned keys: %v", codes)
	}
	x.Unpin(keys(1, 2), objects, pinned)
	if codes, _ := x.Delete(nil, keys(1, 2), false); codes[0] != l1.Success || codes[1] != l1.Success {
		t.Errorf("Delete behind Unpin: %v", codes)
	}
	if err := x.Check(); err != nil {
		t.Error(err)
	}
}
