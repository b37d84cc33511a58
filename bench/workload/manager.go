package workload

import (
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// Manager is what the engine needs of a storage manager. Its methods mean what
// those of sm.Manager mean.
type Manager interface {
	SubmitPrefetchTask(spec *kv.PrefetchSpec, externalRequestID string, skipL2 bool) (sm.PrefetchHandle, error)
	QueryPrefetchStatus(h sm.PrefetchHandle) (res *sm.PrefetchResult, ok bool)
	ReadPrefetched(keys []kv.ObjectKey) Read
	FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code
	ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error)
	FinishWrite(keys []kv.ObjectKey) []l1.Code
	Stats() sm.Stats
}

// Read is an entered read.
type Read interface {
	Codes() []l1.Code
	Exit(bodyErr error)
}

// Storage makes m a Manager. It stays the caller's to close.
func Storage(m *sm.Manager) Manager { return storage{m} }

type storage struct{ *sm.Manager }

func (s storage) ReadPrefetched(keys []kv.ObjectKey) Read { return s.Manager.ReadPrefetched(keys) }
