package l2_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend notes its calls. Where hold is not nil, each waits for it.
type backend struct {
	hold chan struct{}

	mu    sync.Mutex
	calls []string // guarded by mu
	most  int      // calls at once
	now   int
}

func (b *backend) enter(what string, n int) {
	b.mu.Lock()
	b.calls = append(b.calls, fmt.Sprint(what, n))
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	if b.hold != nil {
		<-b.hold
	}
	b.mu.Lock()
	b.now--
	b.mu.Unlock()
}

var errOdd = errors.New("odd")

// StoreBatch writes objects of even length; the others are errors.
func (b *backend) StoreBatch(objects []l2.Object) (keys int, bytes int64, err error) {
	b.enter("store", len(objects))
	for _, o := range objects {
		if len(o.Bytes)%2 == 0 {
			keys++
			bytes += int64(len(o.Bytes))
		} else {
			err = errOdd
		}
	}
	return keys, bytes, err
}

// LookupBatch finds the keys of even groups.
func (b *backend) LookupBatch(keys []kv.ObjectKey, found []bool) {
	b.enter("lookup", len(keys))
	for i, k := range keys {
		found[i] = k.Group%2 == 0
	}
}

func (b *backend) LoadBatch(objects []l2.Object, loaded []bool) {
	b.enter("load", len(objects))
	for i, o := range objects {
		loaded[i] = o.Key.Group%3 == 0
	}
}

func keys(n int) []kv.ObjectKey {
	out := make([]kv.ObjectKey, n)
	for i := range out {
		out[i].Group = uint32(i)
	}
	return out
}

func objects(n, size int) []l2.Object {
	out := make([]l2.Object, n)
	for i, k := range keys(n) {
		out[i] = l2.Object{Key: k, Bytes: make([]byte, size)}
	}
	return out
}

// A task is shared by the workers of its kind, no more than there are, in
// batches of the right size; its result is that of all of them.
func TestTasksAreCutIntoBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{hold: make(chan struct{})}
		notices := make(chan struct{}, 10)
		tasks := l2.NewTasks(l2.Env{Clock: clock.Real{}, Notify: func() { notices <- struct{}{} }}, b,
			l2.Effort{Workers: 1, Batch: 2}, l2.Effort{Workers: 3, Batch: 10}, l2.Effort{Workers: 1, Batch: 100})
		defer tasks.Close()
		id := tasks.SubmitLookup(keys(45))
		synctest.Wait()
		if b.most != 3 || len(b.calls) != 3 {
			t.Errorf("%d calls at once, %v; want one a worker", b.most, b.calls)
		}
		if _, ok := tasks.QueryLookup(id); ok {
			t.Error("a result before the work is done")
		}
		close(b.hold)
		synctest.Wait()
		if found, ok := tasks.QueryLookup(id); !ok || found.Count() != 23 || !found.Test(44) || found.Test(43) {
			t.Errorf("found %v, %t", found, ok)
		}
		if want := []string{"lookup10", "lookup10", "lookup10", "lookup10", "lookup5"}; !slices.Equal(b.calls, want) {
			t.Errorf("calls %v; want %v", b.calls, want)
		}
		if len(notices) != 1 {
			t.Errorf("%d notices; want one a task", len(notices))
		}
		mixed := append(objects(3, 8), objects(1, 7)...)
		store := tasks.SubmitStore(append(mixed, objects(3, 8)...))
		synctest.Wait()
		if got := tasks.PopStores(); len(got) != 1 || got[0].ID != store || got[0].Keys != 6 || got[0].Bytes != 48 || !errors.Is(got[0].Err, errOdd) {
			t.Errorf("store of seven, one of them fails: %+v", got)
		}
	})
}

// A store that hangs does not let the queue grow for ever, and does not keep
// its caller waiting; the other kinds go on.
func TestTasksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{hold: make(chan struct{})}
		tasks := l2.NewTasks(l2.Env{Clock: clock.Real{}, Notify: func() {}}, b,
			l2.Effort{Workers: 1, Batch: 1}, l2.Effort{Workers: 1, Batch: 1 << 20}, l2.Effort{Workers: 1, Batch: 1})
		defer tasks.Close()
		defer close(b.hold)
		many := objects(l2.MaxQueuedKeys/2, 0)
		tasks.SubmitStore(many)
		tasks.SubmitStore(many)
		synctest.Wait()
		if got := tasks.PopStores(); len(got) != 0 {
			t.Fatalf("results %+v while the store hangs", got)
		}
		last := tasks.SubmitStore(objects(2, 0))
		synctest.Wait()
		if got := tasks.PopStores(); len(got) != 1 || got[0].ID != last || !errors.Is(got[0].Err, l2.ErrBusy) {
			t.Errorf("store beyond the queue: %+v; want %v", got, l2.ErrBusy)
		}
		load := tasks.SubmitLoad(objects(1, 0))
		var loaded kv.Bitmap
		for done := false; !done; synctest.Wait() {
			b.hold <- struct{}{} // one of the two that wait
			synctest.Wait()
			loaded, done = tasks.QueryLoad(load)
		}
		if loaded.Count() != 1 {
			t.Errorf("loaded %v beside a store that hangs", loaded)
		}
	})
}

// Close drops what no worker has, waits for what they have, and nothing follows.
func TestTasksClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{hold: make(chan struct{})}
		notices := 0
		tasks := l2.NewTasks(l2.Env{Clock: clock.Real{}, Notify: func() { notices++ }}, b,
			l2.Effort{Workers: 2, Batch: 1}, l2.Effort{Workers: 1, Batch: 1}, l2.Effort{Workers: 1, Batch: 1})
		for range 10 {
			tasks.SubmitStore(objects(1, 2))
		}
		synctest.Wait()
		closed := make(chan bool)
		go func() { closed <- tasks.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close returned while the backend works")
		default:
		}
		close(b.hold)
		if !<-closed || tasks.Close() {
			t.Error("the first Close, and only that, says so")
		}
		if len(b.calls) != 2 || notices != 2 {
			t.Errorf("%d calls, %d notices; want those of the two that were begun", len(b.calls), notices)
		}
		id := tasks.SubmitStore(objects(1, 2))
		if got := tasks.PopStores(); len(got) != 3 || got[2].ID != id || !errors.Is(got[2].Err, l2.ErrClosed) {
			t.Errorf("results %+v; want the last to be %v", got, l2.ErrClosed)
		}
	})
}

// On a virtual clock tasks run within events of the clock, whole and in the
// order of submission, whatever their kind.
func TestTasksOnVirtualTime(t *testing.T) {
	clk := clock.NewVirtual(0)
	b := &backend{}
	var at []int64
	tasks := l2.NewTasks(l2.Env{Clock: clk, Notify: func() { at = append(at, clk.Now()) }}, b,
		l2.Effort{Workers: 9, Batch: 2}, l2.Effort{Workers: 9, Batch: 2}, l2.Effort{Workers: 9, Batch: 2})
	defer tasks.Close()
	_ = clk.SleepUntil(context.Background(), 50)
	tasks.SubmitLoad(objects(3, 0))
	tasks.SubmitStore(objects(2, 0))
	tasks.SubmitLookup(nil)
	tasks.SubmitLookup(keys(1))
	tasks.SubmitStore(objects(1, 0))
	if len(b.calls) != 0 || len(at) != 0 {
		t.Errorf("work before the clock runs: %v", b.calls)
	}
	clk.Settle()
	if want := []string{"load2", "load1", "store2", "lookup1", "store1"}; !slices.Equal(b.calls, want) {
		t.Errorf("calls %v; want %v", b.calls, want)
	}
	if want := []int64{50, 50, 50, 50, 50}; !slices.Equal(at, want) {
		t.Errorf("notices at %v; want %v", at, want)
	}
	tasks.SubmitStore(objects(1, 0))
	tasks.Close()
	clk.Settle()
	if len(b.calls) != 5 {
		t.Error("a task ran after Close")
	}
}
