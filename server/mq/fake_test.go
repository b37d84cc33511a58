package mq_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lmcache/lmcache-go/server/wire"
)

// fake is a Service that notes its calls, and does what a test hooks into them.
type fake struct {
	mu    sync.Mutex
	calls []string

	lookup  func(*wire.Key) error
	prepare func(*wire.Key) // PrepareStore
	ping    func(int64)
	status  func(id string) (int, bool)
	wait    func(ctx context.Context, id string) (int, bool)
}

var errRefused = errors.New("refused")

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fake) ChunkSize() int { return 256 }

func (f *fake) Lookup(k *wire.Key) error {
	f.note("lookup %s readers %d", k.RequestID, k.Readers)
	if f.lookup != nil {
		return f.lookup(k)
	}
	return nil
}

func (f *fake) PrefetchStatus(id string) (int, bool) {
	if f.status != nil {
		return f.status(id)
	}
	return 3, true
}

func (f *fake) WaitPrefetchStatus(ctx context.Context, id string, timeout time.Duration) (int, bool) {
	f.note("wait %s %v", id, timeout)
	return f.wait(ctx, id)
}

func (f *fake) FreeLookupLocks(k *wire.Key) error {
	f.note("free %s readers %d", k.RequestID, k.Readers)
	return nil
}

func (f *fake) EndSession(id string) error {
	f.note("end %s", id)
	return nil
}

func (f *fake) Register(c *wire.Context) (wire.Pool, error) {
	f.note("register %d %s", c.Instance, c.DType)
	if c.DType == "bad" {
		return wire.Pool{}, errRefused
	}
	return wire.Pool{Name: "lmcache_l1_pool_x", Size: 1 << 20}, nil
}

func (f *fake) Unregister(instance int64) error {
	f.note("unregister %d", instance)
	return nil
}

func (f *fake) PrepareStore(k *wire.Key, instance int64) (wire.PreparedStore, error) {
	f.note("prepare store %s %d", k.RequestID, instance)
	if f.prepare != nil {
		f.prepare(k)
	}
	return wire.PreparedStore{
		Slots:  []wire.Slot{{Offset: 4096, Length: 16, Shape: []int64{2, 1, 4, 1}, DType: "float16"}},
		Chunks: []int{0},
	}, nil
}

func (f *fake) CommitStore(k *wire.Key, instance int64, data []byte) (bool, error) {
	f.note("commit store %s %d %d", k.RequestID, instance, len(data))
	return true, nil
}

func (f *fake) PrepareRetrieve(k *wire.Key, instance int64) ([]wire.Slot, bool, error) {
	f.note("prepare retrieve %s %d", k.RequestID, instance)
	if k.RequestID == "panic" {
		panic("a bug of the service")
	}
	return nil, false, nil
}

func (f *fake) CommitRetrieve(k *wire.Key, instance int64) (bool, error) {
	f.note("commit retrieve %s %d", k.RequestID, instance)
	return true, nil
}

func (f *fake) Clear(force bool) error {
	f.note("clear %v", force)
	return nil
}

func (f *fake) Ping(instance int64, known bool) {
	if f.ping != nil {
		f.ping(instance)
	}
}

func (f *fake) ReportBlockAllocation(instance int64, model string, list []wire.BlockAllocation) {
	f.note("report %d %s %d", instance, model, len(list))
}

func (f *fake) Experimental() []string { return nil }
