package rawblock

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
)

// small is a device of 12 slots of two blocks.
const small = `"slot_bytes": 8192, "capacity_bytes": 131072, "meta_total_bytes": 32768`

func objects(t testing.TB, from, to int) []l2.Object {
	var out []l2.Object
	for i := from; i < to; i++ {
		out = append(out, l2test.Object(l2test.Key(t, i, "m", ""), 3000+i))
	}
	return out
}

// image returns the bytes of the device at this moment, as a crash of the
// process leaves them.
func image(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reopen opens a device with these bytes.
func reopen(t *testing.T, b []byte, fields string) *l2test.Rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "crashed")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return l2test.NewRig(t, true, opener(path, fields), false)
}

// The checkpoint is that of the start; all that was stored since is found, what
// was deleted is not, and the slots are those that are left.
func TestCrashLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	r := l2test.NewRig(t, true, opener(path, small), false)
	all := objects(t, 0, 12)
	r.MustStore(all[:10]...)
	r.Delete(l2test.Keys(all[2], all[7]))
	r.MustStore(all[10]) // into the slot of 2
	if res := r.Store(objects(t, 20, 30)...); res.Err == nil || !strings.Contains(res.Err.Error(), ErrFull.Error()) || res.Keys != 3 {
		t.Fatalf("store of ten with room for three: %+v", res)
	}
	r = reopen(t, image(t, path), small)
	if found := r.Peek(l2test.Keys(all...)...); found.String() != "110111101110" {
		t.Errorf("found %v after a crash", found)
	}
	r.MustLoad(all[0], all[9], all[10])
	if got, want := r.Usage(), (l2.Usage{UsedBytes: 12 * 8192, CapacityBytes: 12 * 8192}); got != want {
		t.Errorf("usage %+v; want %+v", got, want)
	}
	r.Delete(l2test.Keys(all[0]))
	r.MustStore(all[11])
	r.MustLoad(all[11])
}

// Whatever a crash leaves of a slot, what is loaded is right.
func TestTornSlots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	r := l2test.NewRig(t, true, opener(path, small), false)
	before, after := objects(t, 0, 1), objects(t, 1, 2)
	r.MustStore(before...)
	old := image(t, path)
	r.Delete(l2test.Keys(before...))
	r.MustStore(after...) // into the same slot
	whole := image(t, path)
	const slot = 32768
	for _, clean := range []bool{false, true} {
		if clean { // the index says that the slot is right
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			whole = image(t, path)
		}
		for cut := 0; cut <= 8192; cut += 1024 {
			b := bytes.Clone(whole)
			copy(b[slot+cut:slot+8192], old[slot+cut:])
			r := reopen(t, b, small)
			loadRight(t, r, append(before, after...), cut >= 4096+3001)
		}
		for range 50 {
			b := bytes.Clone(whole)
			b[slot+rand.IntN(8192)] ^= 1 << rand.IntN(8)
			loadRight(t, reopen(t, b, small), append(before, after...), false)
		}
	}
}

// loadRight loads objects, and wants right bytes or misses; the last one if it
// is whole.
func loadRight(t *testing.T, r *l2test.Rig, objects []l2.Object, whole bool) {
	t.Helper()
	into := l2test.Blank(objects...)
	loaded := r.Load(into...)
	for i := range into {
		if loaded.Test(i) && !bytes.Equal(into[i].Bytes, objects[i].Bytes) {
			t.Errorf("object %d: wrong bytes", i)
		}
	}
	if last := len(into) - 1; whole && !loaded.Test(last) {
		t.Error("a whole object is a miss")
	}
	for i, o := range objects { // a miss can be stored again
		if !loaded.Test(i) && r.Store(o).Err == nil {
			r.MustLoad(o)
		}
	}
}

// Either copy of the checkpoint may be torn, and one of them is enough.
func TestTornCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	all := objects(t, 0, 5)
	for i := range 3 { // sequence numbers 1 to 6, both copies used
		r := l2test.NewRig(t, true, opener(path, small), false)
		r.MustStore(all[i])
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	whole := image(t, path)
	for copy := range 2 {
		for _, at := range []int{0, 9, 13, 21, 29, 4096, 4200} {
			b := bytes.Clone(whole)
			b[copy*16384+at] ^= 0x40
			r := reopen(t, b, small)
			if found := r.Peek(l2test.Keys(all[:3]...)...); found.Count() < 3 {
				t.Errorf("copy %d broken at %d: found %v", copy, at, found)
			}
			r.MustLoad(all[:3]...)
		}
	}
}

// Stores, deletions and crashes at random, against a map.
func TestRandomCrashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	all := objects(t, 0, 20)
	has := map[int]bool{}
	b := make([]byte, 131072)
	for round := range 25 {
		path := filepath.Join(t.TempDir(), "device")
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		r := l2test.NewRig(t, true, opener(path, small), false)
		for i, o := range all {
			if got := r.Peek(o.Key).Test(0); got != has[i] {
				t.Fatalf("round %d: object %d found %t; want %t", round, i, got, has[i])
			}
			if has[i] {
				r.MustLoad(o)
			}
		}
		for range 15 {
			i := rng.IntN(len(all))
			if rng.IntN(2) == 0 {
				if r.Store(all[i]).Err == nil {
					has[i] = true
				} else if len(has) < 12 {
					t.Fatalf("round %d: store refused with %d of 12 slots used", round, len(has))
				}
			} else {
				r.Delete(l2test.Keys(all[i]))
				delete(has, i)
			}
		}
		if u := r.Usage().UsedBytes; u != int64(len(has))*8192 {
			t.Fatalf("round %d: %d bytes used by %d objects", round, u, len(has))
		}
		if rng.IntN(3) == 0 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		b = image(t, path)
	}
}

// What LMCache wrote is read: a checkpoint without our fields, slots without a
// record. Ours are stored beside them, and a crash keeps both.
func TestDeviceOfLMCache(t *testing.T) {
	o := l2test.Object(mustKey(t, hash16, "meta-llama/Llama-3.1-8B", "", 0x02010201, 11), 3000)
	gone := mustKey(t, "gone", "m", "", 1, 0)
	encoded := encodeKey(&o.Key)
	payload := []byte(`{"version":1,"device_path":"/dev/x","capacity_bytes":131072,"block_align":4096,"header_bytes":4096,"slot_bytes":8192,` +
		`"meta_total_bytes":32768,"meta_magic":"LMCIDX01","meta_version":1,"data_base_offset":32768,"next_slot":3,"free_slots":[0],"lru_keys":["x"],` +
		`"entries":{"` + encoded + `":{"offset":40960,"size":3000,"shape":[2,3,500],"dtype":"bfloat16","fmt":"x","cached_positions":[1,2]},` +
		`"` + encodeKey(&gone) + `":{"offset":49152,"size":3000,"shape":[3000],"dtype":"uint8","fmt":null,"cached_positions":null}}}`)
	b := make([]byte, 131072)
	putCopyHeader(b[16384:], "LMCIDX01", 2, payload)
	copy(b[16384+4096:], payload)
	copy(b[40960:], slotMagic)
	binary.LittleEndian.PutUint64(b[40968:], 7837154303662832405)
	binary.LittleEndian.PutUint64(b[40976:], 3000)
	copy(b[40960+4096:], o.Bytes)
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	r := l2test.NewRig(t, true, opener(path, small), false)
	if found := r.Peek(o.Key, gone); found.String() != "10" {
		t.Errorf("found %v; want the one whose slot agrees", found)
	}
	mine := objects(t, 0, 2)
	r.MustStore(mine...)
	r.MustLoad(o, mine[0])
	b = image(t, path)
	if id := binary.LittleEndian.Uint64(b[32776:]); string(b[32768:32776]) != slotMagic || id != identity(encodeKey(&mine[0].Key)) {
		t.Errorf("the free slot 0 has %q, identity %d", b[32768:32776], id)
	}
	r = reopen(t, b, small)
	r.MustLoad(o, mine[0], mine[1])
}

func TestPeriodicCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	open := func(clk *clock.Virtual) l2.Adapter {
		a, err := opener(path, small+`, "meta_checkpoint_interval_sec": 10, "meta_idle_quiet_ms": 3000`)(l2.Env{Clock: clk, Notify: func() {}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	seq := func() uint64 {
		b := image(t, path)
		return max(binary.LittleEndian.Uint64(b[12:]), binary.LittleEndian.Uint64(b[16384+12:]))
	}
	clk := clock.NewVirtual(0)
	a := open(clk)
	defer a.Close()
	sleep := func(d time.Duration) { _ = clk.SleepUntil(t.Context(), clk.Now()+int64(d)) }
	start := seq()
	sleep(time.Minute)
	if got := seq(); got != start {
		t.Errorf("%d checkpoints of an index that does not change", got-start)
	}
	for range 4 { // no 3 s without a change for 8 s
		a.SubmitStore(objects(t, int(clk.Now()/1e9), int(clk.Now()/1e9)+1))
		sleep(2 * time.Second)
	}
	if got := seq(); got != start {
		t.Errorf("%d checkpoints while it changes", got-start)
	}
	sleep(2 * time.Second)
	if got := seq(); got != start+1 {
		t.Errorf("%d checkpoints when it has been quiet; want 1", got-start)
	}
	a.SubmitStore(objects(t, 50, 51))
	sleep(8 * time.Second)
	if got := seq(); got != start+1 {
		t.Error("a checkpoint before its interval")
	}
	sleep(2 * time.Second)
	if got := seq(); got != start+2 {
		t.Errorf("%d checkpoints; want one more", got-start)
	}
}

// An index that does not fit is read back from the slots.
func TestIndexLargerThanItsCheckpoint(t *testing.T) {
	const fields = `"slot_bytes": 8192, "capacity_bytes": 1048576, "meta_total_bytes": 16384`
	path := filepath.Join(t.TempDir(), "device")
	all := objects(t, 0, 100)
	r := l2test.NewRig(t, true, opener(path, fields), false)
	r.MustStore(all...)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = l2test.NewRig(t, true, opener(path, fields), false)
	r.MustLoad(all...)
}

func TestRefusals(t *testing.T) {
	env := l2.Env{Clock: clock.NewVirtual(0), Notify: func() {}}
	path := filepath.Join(t.TempDir(), "device")
	a, err := opener(path, small)(env)
	if err != nil {
		t.Fatal(err)
	}
	wantError := func(path, fields, want string) {
		t.Helper()
		b, err := opener(path, fields)(env)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", fields, err, want)
		}
	}
	wantError(path, small, "another process uses it")
	a.SubmitStore(objects(t, 0, 1))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(path, `"slot_bytes": 16384, "capacity_bytes": 131072, "meta_total_bytes": 32768`, "was filled with slot_bytes 8192, not 16384")
	wantError(filepath.Join(t.TempDir(), "none"), `"slot_bytes": 8192`, "no such file")
	wantError(t.TempDir(), `"slot_bytes": 8192`, "directory")
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, append(make([]byte, 1080), 0x53, 0xef), 0o666); err != nil {
		t.Fatal(err)
	}
	wantError(other, `"slot_bytes": 8192`, "leave no space for a slot")
	wantError(other, small, "is not empty and does not begin with LMCIDX01")
	r := l2test.NewRig(t, true, opener(other, small+`, "load_checkpoint_on_init": false`), false)
	r.MustStore(objects(t, 0, 12)...)
	if res := r.Store(objects(t, 12, 13)...); res.Err == nil {
		t.Error("a store into a full device succeeds")
	}
	r.MustLoad(objects(t, 0, 12)...)
	r.Close()
	r = l2test.NewRig(t, true, opener(other, small+`, "load_checkpoint_on_init": false`), false)
	if found := r.Peek(l2test.Keys(objects(t, 0, 12)...)...); found.Count() != 0 {
		t.Errorf("found %v on a device that was to be empty", found)
	}
	r.MustStore(objects(t, 3, 4)...)
	r = reopen(t, image(t, other), small)
	if found := r.Peek(l2test.Keys(objects(t, 0, 12)...)...); found.String() != "000100000000" {
		t.Errorf("found %v after a crash; want only what was stored since it was emptied", found)
	}
	long := kv.ObjectKey{HashLen: 4, Scope: l2test.Key(t, 0, strings.Repeat("/", 1500), "").Scope}
	for _, o := range []l2.Object{{Key: long, Bytes: make([]byte, 10)}, {Key: l2test.Key(t, 99, "m", ""), Bytes: make([]byte, 4097)}} {
		if res := r.Store(o); res.Err == nil || res.Keys != 0 {
			t.Errorf("store of %d bytes under a key of %d: %+v", len(o.Bytes), len(encodeKey(&o.Key)), res)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	b := `"device_path": "/d", "slot_bytes": 1048576, `
	for config, want := range map[string]string{
		``:                                       "device_path must be a non-empty string",
		`"device_path": ["/a"]`:                  "device_path must be a non-empty string",
		`"device_path": "/d"`:                    "slot_bytes must be a positive integer",
		`"device_path": "/d", "slot_bytes": "1"`: "slot_bytes must be a positive integer",
		`"device_path": "/d", "slot_bytes": 4096`: "slot_bytes must be >= header_bytes + 1",
		`"device_path": "/d", "slot_bytes": 4097`: "slot_bytes must be a multiple of block_align",
		b + `"block_align": 1000`:                 "block_align must be a power of 2, got 1000",
		b + `"block_align": 0`:                    "block_align must be a power of 2, got 0",
		b + `"header_bytes": 16`:                  "header_bytes must be a multiple of block_align",
		b + `"meta_total_bytes": 5000`:            "meta_total_bytes must be a multiple of block_align",
		b + `"capacity_bytes": 268435456`:         "capacity_bytes must leave space for at least one slot",
		b + `"num_store_workers": 0`:              "num_store_workers must be > 0",
		b + `"num_load_workers": -1`:              "num_load_workers must be > 0",
		b + `"io_engine": "foo"`:                  "io_engine must be one of: io_uring, posix",
		b + `"iouring_queue_depth": 0`:            "iouring_queue_depth must be > 0",
		b + `"use_uring_cmd": true`:               "use_uring_cmd requires io_uring io_engine",
		b + `"persist_enabled": false`:            "raw_block requires persist_enabled=true",
		b + `"io_engine": "io_uring"`:             "io_engine io_uring is not supported in this build; posix is",
		b + `"meta_version": 2`:                   "meta_version 2 is not supported in this build; 1 is",
		b + `"meta_magic": "abc"`:                 "meta_magic must have 8 bytes",
		b + `"use_odirect": "x"`:                  "use_odirect must be a boolean",
		b + `"meta_idle_quiet_ms": null`:          "meta_idle_quiet_ms must be a number",
		b + `"header_bytes": 0`:                   "header_bytes must be 512 to 1048576 in this build",
		b + `"meta_total_bytes": 4096`:            "meta_total_bytes must leave each of two copies at least 6144 bytes",
		b + `"unknown": {}`:                       "",
	} {
		err := Kind.Check([]byte(`{"type": "raw_block", "x": 0` + strings.TrimSuffix(", "+config, ", ") + `}`))
		if got := errorText(err); got != want {
			t.Errorf("%s: %q; want %q", config, got, want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
