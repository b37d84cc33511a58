package mock_test

import (
	"context"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
)

const mib = 1 << 20

// rig is a store of three objects of 1 MiB at 1 GiB/s, on virtual time.
type rig struct {
	l2.Adapter
	clk     *clock.Virtual
	notices int
}

func newRig(t *testing.T, noPayload bool) *rig {
	t.Helper()
	r := &rig{clk: clock.NewVirtual(0)}
	a, err := mock.New([]byte(`{"type": "mock", "max_size_gb": 0.0029296875, "mock_bandwidth_gb": 1, "other": []}`),
		l2.Env{Clock: r.clk, Notify: func() { r.notices++ }, NoPayload: noPayload})
	if err != nil {
		t.Fatal(err)
	}
	r.Adapter = a
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) sleep(d time.Duration) {
	_ = r.clk.SleepUntil(context.Background(), r.clk.Now()+int64(d))
}

func key(n byte) kv.ObjectKey { return kv.ObjectKey{Hash: [kv.MaxHash]byte{n}, HashLen: 1} }

func objects(ns ...byte) []l2.Object {
	var out []l2.Object
	for _, n := range ns {
		b := make([]byte, mib)
		b[0], b[mib-1] = n, n
		out = append(out, l2.Object{Key: key(n), Bytes: b})
	}
	return out
}

func TestStoreTakesTheTimeOfItsBytes(t *testing.T) {
	r := newRig(t, false)
	first, second := r.SubmitStore(objects(1, 2)), r.SubmitStore(objects(1, 2, 3))
	if first == second {
		t.Fatal("two tasks have one id")
	}
	const object = 976562 * time.Nanosecond // 1 MiB at 1 GiB/s
	r.sleep(2*object - 1)
	if got := r.PopStores(); len(got) != 0 {
		t.Fatalf("done too early: %+v", got)
	}
	r.sleep(2)
	if got := r.PopStores(); len(got) != 1 || got[0].ID != first || got[0].Keys != 2 || got[0].Bytes != 2*mib || got[0].Err != nil {
		t.Fatalf("first task: %+v", got)
	}
	r.sleep(object)
	if got := r.PopStores(); len(got) != 1 || got[0].ID != second || got[0].Keys != 1 || got[0].Bytes != mib {
		t.Fatalf("second task, of which one object is new: %+v", got)
	}
	if r.notices != 2 {
		t.Errorf("%d notices; want one a task", r.notices)
	}
}

func TestCapacityIsKept(t *testing.T) {
	r := newRig(t, false)
	r.SubmitStore(objects(1, 2, 3, 4, 5))
	r.sleep(time.Second)
	if got := r.PopStores(); len(got) != 1 || got[0].Err != nil || got[0].Keys != 3 {
		t.Errorf("store of five into room for three: %+v; want success, three held", got)
	}
	if got, want := r.Usage(), (l2.Usage{UsedBytes: 3 * mib, CapacityBytes: 3 * mib}); got != want {
		t.Errorf("usage %+v; want %+v", got, want)
	}
	r.SubmitLookup([]kv.ObjectKey{key(1), key(4)})
	if n := r.Delete([]kv.ObjectKey{key(1), key(2), key(4)}); n != 1 || r.Usage().UsedBytes != 2*mib {
		t.Errorf("deleted %d, %d bytes used; want 1, the one that is not locked, and two objects", n, r.Usage().UsedBytes)
	}
	r.Unlock([]kv.ObjectKey{key(1)})
	if n := r.Delete([]kv.ObjectKey{key(1)}); n != 1 {
		t.Errorf("deleted %d once it was unlocked; want 1", n)
	}
}

func TestLookupAndLoad(t *testing.T) {
	r := newRig(t, false)
	r.SubmitStore(objects(1, 2))
	r.sleep(time.Second)
	id := r.SubmitLookup([]kv.ObjectKey{key(1), key(9), key(2)})
	if _, ok := r.QueryLookup(id); ok {
		t.Error("a lookup has its result before it ran")
	}
	r.clk.Settle()
	if found, ok := r.QueryLookup(id); !ok || found.String() != "101" {
		t.Errorf("lookup: %v, %t; want 101", found, ok)
	}
	if _, ok := r.QueryLookup(id); ok {
		t.Error("a result is given twice")
	}
	r.Unlock([]kv.ObjectKey{key(1), key(2)})

	into := objects(0, 0, 0)
	into[0].Key, into[1].Key, into[2].Key = key(2), key(9), key(1)
	into[2].Bytes = into[2].Bytes[:mib-1] // another size than was stored is a miss
	load := r.SubmitLoad(into)
	r.sleep(time.Second)
	if loaded, ok := r.QueryLoad(load); !ok || loaded.String() != "100" {
		t.Errorf("load: %v, %t; want 100", loaded, ok)
	}
	if b := into[0].Bytes; b[0] != 2 || b[mib-1] != 2 {
		t.Error("the bytes that were stored did not come back")
	}
}

func TestNoPayloadKeepsSizesOnly(t *testing.T) {
	r := newRig(t, true)
	r.SubmitStore(objects(1))
	into := objects(7)
	into[0].Key = key(1)
	load := r.SubmitLoad(into)
	r.sleep(time.Second)
	if loaded, ok := r.QueryLoad(load); !ok || loaded.Count() != 1 || into[0].Bytes[0] != 7 {
		t.Errorf("load: %v, %t, first byte %d; want a hit that leaves the bytes alone", loaded, ok, into[0].Bytes[0])
	}
}

func TestCloseCancelsTasks(t *testing.T) {
	r := newRig(t, false)
	r.SubmitStore(objects(1))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.sleep(time.Second)
	if r.notices != 0 || len(r.PopStores()) != 0 {
		t.Error("a task completes after Close")
	}
}

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{}`:                   "max_size_gb must be a positive number",
		`{"max_size_gb": "1"}`: "max_size_gb must be a positive number",
		`{"max_size_gb": 1, "mock_bandwidth_gb": -1}`: "mock_bandwidth_gb must be a positive number",
	} {
		if err := mock.Kind.Check([]byte(config)); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %s", config, err, want)
		}
	}
}
