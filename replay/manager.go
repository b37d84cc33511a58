package replay

import (
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// Manager is what a replay calls of a storage manager. The methods are those of
// sm.Manager; StorageManager adapts one.
type Manager interface {
	ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error)
	FinishWrite(keys []kv.ObjectKey) []l1.Code
	SubmitPrefetchTask(spec *kv.PrefetchSpec, externalRequestID string, skipL2 bool) (sm.PrefetchHandle, error)
	QueryPrefetchStatus(h sm.PrefetchHandle) (res *sm.PrefetchResult, ok bool)
	ReadPrefetched(keys []kv.ObjectKey) Read
	FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code
	Clear(force bool)
	Touch(keys []kv.ObjectKey)
	DeleteL1(keys []kv.ObjectKey, force bool) (deleted, skipped int)
	Stats() sm.Stats
}

// Read is an entered read of prefetched objects.
type Read interface {
	// Codes returns the outcome for every key, in order.
	Codes() []l1.Code
	// Exit leaves the read; bodyErr is what went wrong meanwhile.
	Exit(bodyErr error)
}

// StorageManager returns m as a Manager.
func StorageManager(m *sm.Manager) Manager { return storageManager{m} }

type storageManager struct{ *sm.Manager }

func (s storageManager) ReadPrefetched(keys []kv.ObjectKey) Read {
	return s.Manager.ReadPrefetched(keys)
}
