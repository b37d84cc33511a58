package sm_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
)

var errStub = errors.New("the store says no")

func sprint(v any) string { return fmt.Sprint(v) }

// logTo returns a logger that writes level and message.
func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "stack" {
			return slog.Attr{}
		}
		return a
	}}))
}

// stubStore is a store in memory whose tasks complete at once, unless held, and
// that can panic and fail.
type stubStore struct {
	env      l2.Env
	found    []kv.ObjectKey // there at the start
	order    []kv.ObjectKey
	locks    map[kv.ObjectKey]int
	panics   string // method
	capacity int64  // objects
	fails    bool   // stores fail
	down     bool   // nothing is found, nothing deleted
	loaded   int    // objects
	hold     bool   // loads and stores do not complete
	onClose  func() // called by Close
	lastID   l2.TaskID
	stores   []l2.StoreResult
	results  map[l2.TaskID]kv.Bitmap
	loading  map[l2.TaskID]bool
}

func (f *stubStore) kind() l2.Kind {
	return l2.Kind{
		Check: func([]byte) error { return nil },
		New: func(_ []byte, env l2.Env) (l2.Adapter, error) {
			f.env, f.locks, f.results, f.loading = env, map[kv.ObjectKey]int{}, map[l2.TaskID]kv.Bitmap{}, map[l2.TaskID]bool{}
			f.order = slices.Clone(f.found)
			if env.Found != nil {
				sizes := make([]int64, len(f.found))
				for i := range sizes {
					sizes[i] = objectBytes
				}
				env.Found(f.found, sizes)
			}
			return f, nil
		},
	}
}

func (f *stubStore) at(k kv.ObjectKey) int {
	for i := range f.order {
		if f.order[i] == k {
			return i
		}
	}
	return -1
}

// keys lists what the store holds, by the numbers of keys, sorted.
func (f *stubStore) keys() string {
	var out []string
	for n := range 100 {
		if f.at(keys(n)[0]) >= 0 {
			out = append(out, sprint(n))
		}
	}
	return strings.Join(out, " ")
}

func (f *stubStore) may(method string) {
	if f.panics == method {
		panic(method)
	}
}

func (f *stubStore) task() l2.TaskID {
	f.lastID++
	f.env.Clock.AfterFunc(0, f.env.Notify)
	return f.lastID
}

func (f *stubStore) Name() string { return "stub" }

func (f *stubStore) SubmitStore(objects []l2.Object) l2.TaskID {
	f.may("SubmitStore")
	res := l2.StoreResult{ID: f.task()}
	if f.fails {
		res.Err = errStub
	} else {
		for _, o := range objects {
			if f.at(o.Key) < 0 {
				f.order = append(f.order, o.Key)
				res.Keys++
				res.Bytes += objectBytes
			}
		}
	}
	f.stores = append(f.stores, res)
	return res.ID
}

func (f *stubStore) PopStores() []l2.StoreResult {
	f.may("PopStores")
	if f.hold {
		return nil
	}
	out := f.stores
	f.stores = nil
	return out
}

func (f *stubStore) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	f.may("SubmitLookup")
	id, found := f.task(), kv.NewBitmap(len(keys))
	for i, k := range keys {
		if f.at(k) >= 0 && !f.down {
			f.locks[k]++
			found.Set(i)
		}
	}
	f.results[id] = found
	return id
}

func (f *stubStore) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) {
	f.may("QueryLookup")
	return f.query(id)
}

func (f *stubStore) query(id l2.TaskID) (kv.Bitmap, bool) {
	if f.hold && f.loading[id] {
		return kv.Bitmap{}, false
	}
	b, ok := f.results[id]
	delete(f.results, id)
	return b, ok
}

func (f *stubStore) Unlock(keys []kv.ObjectKey) {
	f.may("Unlock")
	for _, k := range keys {
		if f.locks[k]--; f.locks[k] == 0 {
			delete(f.locks, k)
		}
	}
}

func (f *stubStore) SubmitLoad(objects []l2.Object) l2.TaskID {
	f.may("SubmitLoad")
	id, loaded := f.task(), kv.NewBitmap(len(objects))
	for i, o := range objects {
		if f.at(o.Key) >= 0 {
			loaded.Set(i)
			f.loaded++
		}
	}
	f.results[id], f.loading[id] = loaded, true
	return id
}

func (f *stubStore) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) {
	f.may("QueryLoad")
	return f.query(id)
}

func (f *stubStore) Delete(keys []kv.ObjectKey) int {
	f.may("Delete")
	n := 0
	for _, k := range keys {
		if i := f.at(k); i >= 0 && f.locks[k] == 0 && !f.down {
			f.order = slices.Delete(f.order, i, i+1)
			n++
		}
	}
	return n
}

func (f *stubStore) Usage() l2.Usage {
	return l2.Usage{UsedBytes: int64(len(f.order)) * objectBytes, CapacityBytes: f.capacity * objectBytes}
}

func (f *stubStore) Close() error {
	if f.onClose != nil {
		f.onClose()
	}
	return nil
}

// stubRig is a rig with a stub below, and the log.
type stubRig struct {
	rig
	log *strings.Builder
}

// newStubRig is a manager of 16 objects over f; fields go into the stub's JSON.
func newStubRig(t *testing.T, f *stubStore, fields string, change func(*sm.Config)) stubRig {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 16*objectBytes, "LRU"
	if fields != "" {
		fields = ", " + fields
	}
	cfg.L2Adapters = []string{`{"type": "fs"` + fields + `}`}
	if change != nil {
		change(&cfg)
	}
	clk, log := clock.NewVirtual(0), &strings.Builder{}
	m, err := sm.New(cfg, sm.Options{Clock: clk, Memory: sm.ScratchMemory, Log: logTo(log), Adapters: l2.Registry{"fs": f.kind(), "mock": mock.Kind}})
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
	return stubRig{rig{m, clk, t}, log}
}
