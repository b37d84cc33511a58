package sm_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
)

const objectBytes = 1 << 20

var layout = func() kv.Layout {
	d, _ := kv.ParseDType("bfloat16")
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{2, 256, 1024}}, DTypes: []kv.DType{d}})
	if err != nil {
		panic(err)
	}
	return l
}()

func keys(ns ...int) []kv.ObjectKey {
	out := make([]kv.ObjectKey, len(ns))
	for i, n := range ns {
		out[i].HashLen = 4
		binary.BigEndian.PutUint32(out[i].Hash[:], uint32(n))
	}
	return out
}

func span(from, to int) []kv.ObjectKey {
	var ns []int
	for n := from; n < to; n++ {
		ns = append(ns, n)
	}
	return keys(ns...)
}

func spec(list []kv.ObjectKey, readers int32) *kv.PrefetchSpec {
	return &kv.PrefetchSpec{Groups: []kv.KeyGroup{{Keys: list, Layout: layout, Window: kv.FullAttention}}, Readers: readers}
}

// rig is a manager of n objects on virtual time, with mock stores of 1 GiB/s:
// an object takes 976,562 ns.
type rig struct {
	*sm.Manager
	clk *clock.Virtual
	t   *testing.T
}

func newRig(t *testing.T, n int64, change func(*sm.Config)) rig {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = n*objectBytes, "LRU"
	if change != nil {
		change(&cfg)
	}
	clk := clock.NewVirtual(0)
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.RealMemory, Adapters: l2.Registry{"mock": mock.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Check(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return rig{m, clk, t}
}

const mockStore = `{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 1}`

func withStores(n int, more func(*sm.Config)) func(*sm.Config) {
	return func(c *sm.Config) {
		for range n {
			c.L2Adapters = append(c.L2Adapters, mockStore)
		}
		if more != nil {
			more(c)
		}
	}
}

func (r rig) sleep(d time.Duration) { _ = r.clk.SleepUntil(context.Background(), r.clk.Now()+int64(d)) }

func (r rig) write(list []kv.ObjectKey) {
	r.t.Helper()
	res, err := r.ReserveWrite(list, layout, kv.ModeNew)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, w := range res {
		if w.Code != l1.Success {
			r.t.Fatalf("reserve key %d: %v", i, w.Code)
		}
		copy(w.Object.Bytes, list[i].String())
	}
	r.FinishWrite(list)
}

// fetch runs a prefetch to its end and returns its first row: 1 for a hit in
// L1, 2 for one from a store.
func (r rig) fetch(s *kv.PrefetchSpec, skipL2 bool) string {
	r.t.Helper()
	h, err := r.SubmitPrefetchTask(s, "", skipL2)
	if err != nil {
		r.t.Fatal(err)
	}
	r.sleep(100 * time.Millisecond)
	return r.result(h)
}

func (r rig) result(h sm.PrefetchHandle) string {
	r.t.Helper()
	res, ok := r.QueryPrefetchStatus(h)
	if !ok {
		r.t.Fatalf("prefetch %d has no result", h.ID)
	}
	if _, again := r.QueryPrefetchStatus(h); again {
		r.t.Errorf("prefetch %d gives its result twice", h.ID)
	}
	var b strings.Builder
	for c := range res.Rows[0].Hits.Len() {
		switch {
		case res.Rows[0].L1.Test(c):
			b.WriteByte('1')
		case res.Rows[0].L2.Test(c):
			b.WriteByte('2')
		default:
			b.WriteByte('.')
		}
	}
	return b.String()
}

func (r rig) expect(what, got, want string) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: got %q; want %q", what, got, want)
	}
}

func TestPrefixGapIsUnlocked(t *testing.T) {
	r := newRig(t, 8, nil)
	r.write(keys(0, 1, 3))
	r.expect("prefix", r.fetch(spec(span(0, 5), 1), false), "11...")
	r.expect("the key beyond the gap holds no lock", codes(r.FinishReadPrefetched(keys(0, 1, 3), 1)), "SUCCESS SUCCESS KEY_IN_WRONG_STATE")
	full := spec(span(0, 5), 2)
	full.Policy = kv.FetchFull
	r.expect("full", r.fetch(full, false), "11.1.")
	list := keys(0, 1, 2)
	read := r.ReadPrefetched(list)
	if read.Objects() != nil {
		t.Error("a read with a missing key yields objects")
	}
	copy(list, keys(7, 8, 9)) // the caller's slice is its own again
	read.Exit(nil)
	r.expect("a refused read takes one of two locks", codes(r.FinishReadPrefetched(keys(0, 1, 3), 1)), "SUCCESS SUCCESS SUCCESS")
	r.expect("and none is left but the unread key's", codes(r.FinishReadPrefetched(keys(0, 1, 3), 1)), "KEY_IN_WRONG_STATE KEY_IN_WRONG_STATE SUCCESS")
}

func codes(list []l1.Code) string {
	var out []string
	for _, c := range list {
		out = append(out, c.String())
	}
	return strings.Join(out, " ")
}

func TestStoreAndLoadBytes(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	r.write(span(0, 4))
	r.sleep(time.Second)
	if s := r.Stats(); s.L2StoredKeys != 4 || s.L2StoredBytes != 4*objectBytes {
		t.Fatalf("stored %d objects, %d bytes; want 4", s.L2StoredKeys, s.L2StoredBytes)
	}
	r.Clear(false)
	r.expect("from the store", r.fetch(spec(span(0, 4), 1), false), "2222")
	read := r.ReadPrefetched(span(0, 4))
	for i, o := range read.Objects() {
		if want := span(0, 4)[i].String(); string(o.Bytes[:len(want)]) != want {
			t.Errorf("object %d holds %q; want %q", i, o.Bytes[:len(want)], want)
		}
	}
	read.Exit(nil)
	r.FinishReadPrefetched(span(0, 4), 1)
	if s := r.Stats(); s.Resident != 0 || s.TemporaryFreedKeys != 4 {
		t.Errorf("%d resident, %d freed; want loaded objects to go with their last reader", s.Resident, s.TemporaryFreedKeys)
	}
	r.expect("skip_l2", r.fetch(spec(span(0, 4), 1), true), "....")
}

// TestUnionOfTiers: L1 has 0, 1, 3, 4, the store has all five.
func TestUnionOfTiers(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	r.write(span(0, 5))
	r.sleep(time.Second)
	r.Clear(false)
	r.write(keys(0, 1, 3, 4))
	r.sleep(time.Second)
	r.expect("union", r.fetch(spec(span(0, 6), 1), false), "11211.")
}

// TestLoadRefusedForMemory: three keys to load and room for two.
func TestLoadRefusedForMemory(t *testing.T) {
	r := newRig(t, 4, withStores(1, func(c *sm.Config) { c.Eviction.Watermark = 2 }))
	r.write(span(0, 4))
	r.sleep(time.Second)
	r.Clear(false)
	r.write(keys(0, 9))
	r.expect("L1 hits before the refusal stay", r.fetch(spec(span(0, 4), 1), false), "1...")
	if s := r.Stats(); s.Staged != 0 || s.Resident != 2 {
		t.Errorf("%d staged, %d resident; want 0 and 2", s.Staged, s.Resident)
	}
}

// A column of a full prefetch is loaded if it was reserved in every row, and a
// refusal anywhere leaves what is in L1.
func TestFullLoadRefusedForMemory(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	r.write(span(0, 4)) // row 0, all of it in the store
	r.write(span(10, 14))
	r.sleep(time.Second)
	r.Clear(false)
	r.write(keys(0, 10, 11)) // column 0 in L1, column 1 in row 1 only
	r.write(keys(20))        // leaves room for 4: row 0 lacks 3, row 1 then 2 more
	full := &kv.PrefetchSpec{Policy: kv.FetchFull, Readers: 1}
	for _, row := range [][]kv.ObjectKey{span(0, 4), span(10, 14)} {
		full.Groups = append(full.Groups, kv.KeyGroup{Keys: row, Layout: layout, Window: kv.FullAttention})
	}
	r.expect("full, row 0", r.fetch(full, false), "1...")
	if s := r.Stats(); s.Staged != 0 || s.Resident != 4 || s.L2LoadedKeys != 0 {
		t.Errorf("%d staged, %d resident, %d loaded; want 0, 4 and 0", s.Staged, s.Resident, s.L2LoadedKeys)
	}
}

func TestKeyNamedTwice(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	r.write(span(0, 3))
	r.sleep(time.Second)
	r.Clear(false)
	r.expect("a key twice", r.fetch(spec(keys(0, 1, 1, 2), 1), false), "2222")
	if got := r.Stats().L2LoadedKeys; got != 3 {
		t.Errorf("%d objects loaded; want 3", got)
	}
}

func TestRetain(t *testing.T) {
	r := newRig(t, 8, withStores(1, func(c *sm.Config) { c.PrefetchPolicy = sm.PrefetchRetain }))
	r.write(span(0, 2))
	r.sleep(time.Second)
	r.Clear(false)
	r.expect("load", r.fetch(spec(span(0, 2), 1), false), "22")
	r.FinishReadPrefetched(span(0, 2), 1)
	r.expect("kept", r.fetch(spec(span(0, 2), 1), false), "11")
	if got := r.Stats().L2StoredKeys; got != 2 {
		t.Errorf("%d objects stored; want no store of what was loaded", got)
	}
}

func TestNoLock(t *testing.T) {
	r := newRig(t, 8, withStores(1, nil))
	r.write(span(0, 2))
	r.sleep(time.Second)
	r.Clear(false)
	warm := spec(span(0, 2), 1)
	warm.Lock = kv.NoLock
	r.expect("warm", r.fetch(warm, false), "22")
	r.expect("no lock", codes(r.FinishReadPrefetched(span(0, 2), 1)), "KEY_IN_WRONG_STATE KEY_IN_WRONG_STATE")
	r.expect("resident", r.fetch(spec(span(0, 2), 1), false), "11")
}

// TestMaxInFlight: with one place the second load starts when the first ends.
func TestMaxInFlight(t *testing.T) {
	r := newRig(t, 8, withStores(1, func(c *sm.Config) { c.PrefetchMaxInFlight = 1 }))
	r.write(span(0, 4))
	r.sleep(time.Second)
	r.Clear(false)
	a, _ := r.SubmitPrefetchTask(spec(keys(0, 1), 1), "a", false)
	b, _ := r.SubmitPrefetchTask(spec(keys(2, 3), 1), "b", false)
	r.clk.Settle()
	if s := r.Stats(); s.Staged != 2 || s.PendingPrefetches != 2 {
		t.Errorf("%d objects being loaded, %d requests pending; want 2 and 2", s.Staged, s.PendingPrefetches)
	}
	r.sleep(1954 * time.Microsecond) // two objects at 1 GiB/s, rounded up
	r.expect("first", r.result(a), "22")
	if _, ok := r.QueryPrefetchStatus(b); ok {
		t.Error("the second request is done with the first")
	}
	r.sleep(1954 * time.Microsecond)
	r.expect("second", r.result(b), "22")
}

// TestSkipL1 : with two stores the object goes after the second has it.
func TestSkipL1(t *testing.T) {
	r := newRig(t, 8, withStores(2, func(c *sm.Config) { c.StorePolicy = sm.StoreSkipL1 }))
	r.write(span(0, 3))
	r.clk.Settle()
	if s := r.Stats(); s.Resident != 3 {
		t.Errorf("%d resident while stores run; want 3", s.Resident)
	}
	r.sleep(time.Second)
	if s := r.Stats(); s.Resident != 0 || s.L2StoredKeys != 6 {
		t.Errorf("%d resident, %d stored; want 0 and 6", s.Resident, s.L2StoredKeys)
	}
}

// TestEvictionCadence: 16 of 16 objects, ratio 0.2, watermark 0.8: three go
// after one second, two after two, none after that.
func TestEvictionCadence(t *testing.T) {
	r := newRig(t, 16, nil)
	r.write(span(0, 16))
	for i, want := range []int64{16, 13, 11, 11} {
		if got := r.Stats().Resident; got != want {
			t.Errorf("after %d s: %d resident; want %d", i, got, want)
		}
		r.sleep(time.Second)
	}
	if s := r.Stats(); s.EvictedKeys != 5 || s.EvictedBytes != 5*objectBytes || s.EvictionPasses != 2 {
		t.Errorf("counted %d keys, %d bytes, %d passes; want 5, %d, 2", s.EvictedKeys, s.EvictedBytes, s.EvictionPasses, 5*objectBytes)
	}
}

// TestUnaskedResultsLapse: a result is dropped when its locks cannot be live any more.
func TestUnaskedResultsLapse(t *testing.T) {
	r := newRig(t, 4, nil)
	r.write(span(0, 1))
	h, _ := r.SubmitPrefetchTask(spec(span(0, 1), 1), "", false)
	r.sleep(301 * time.Second)
	r.fetch(spec(span(0, 1), 1), false)
	if _, ok := r.QueryPrefetchStatus(h); ok {
		t.Error("a result outlives its locks")
	}
}

func TestSpecErrors(t *testing.T) {
	r := newRig(t, 4, nil)
	for _, c := range []struct {
		spec *kv.PrefetchSpec
		want string
	}{
		{&kv.PrefetchSpec{Readers: 1}, "no key groups"},
		{spec(keys(1), 0), "0 readers"},
		{&kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Window: 0}}}, "window 0"},
		{&kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys(1), Window: -1}, {Window: -1}}}, "group 1 has 0 keys"},
	} {
		if _, err := r.SubmitPrefetchTask(c.spec, "", false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want an error with %q", err, c.want)
		}
	}
	empty, err := r.SubmitPrefetchTask(spec(nil, 1), "", false)
	if err != nil || r.result(empty) != "" {
		t.Errorf("an empty row: %v", err)
	}
	for i, bad := range []string{`{"type": "fs", "base_path": "x"}`, `{"type": "nope"}`, `[]`, `{`, `{"type": "mock", "max_size_gb": 0}`} {
		cfg := sm.DefaultConfig()
		cfg.L1.SizeBytes, cfg.Eviction.Policy, cfg.L2Adapters = 1<<20, "LRU", []string{bad}
		if _, err := sm.New(cfg, sm.Options{Clock: clock.NewVirtual(0), Adapters: l2.Registry{"mock": mock.Kind}}); err == nil || !strings.Contains(err.Error(), "--l2-adapter #1") {
			t.Errorf("adapter %d: got %v", i, err)
		}
	}
}
