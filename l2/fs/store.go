package fs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Store is the adapter. The folder is the truth: a file that is there is found,
// whoever wrote it, and one that went is a miss. Several processes may share it.
//
// An object is written to a temporary file, which is then renamed, so that
// nobody sees a part of it. It is read only if its size is exactly what the
// caller has room for; a file of another size (torn by a power cut, or of
// another layout) is a miss and goes, so that the object can be stored again.
// LMCache keeps it, and misses for ever.
type Store struct {
	*l2.Tasks
	name     string
	c        Config
	env      l2.Env
	temp     string // folder of temporary files
	block    int    // of the file system, for direct I/O
	bounce   chan []byte
	shards   [256]shard
	used     atomic.Int64 // bytes of files that this process knows to be there
	disk     diskGuard
	noDirect atomic.Bool // the file system has no direct I/O
	outage   l2.Outage
	closing  chan struct{}
	sweep    sync.WaitGroup
}

// shard has the bookkeeping of some keys. Its lock is held while a file of
// them is written or removed, so that a key has one writer in this process and
// the accounting follows the folder.
type shard struct {
	mu    sync.Mutex
	locks map[kv.ObjectKey]int32
	sizes map[kv.ObjectKey]int64 // of known files; nil where nobody asks for them
}

func (s *Store) shard(k *kv.ObjectKey) *shard {
	h := uint(k.Group)*31 + uint(k.Rank)
	for _, b := range k.Hash[:8] {
		h = h*31 + uint(b)
	}
	return &s.shards[h%uint(len(s.shards))]
}

// New opens the folder, and makes it if need be. With a capacity, or a policy
// that evicts, it counts the files that are there, before it returns.
func New(name string, c Config, env l2.Env) (*Store, error) {
	s := &Store{name: name, c: c, env: env, temp: filepath.Join(c.BasePath, c.TempDir),
		bounce: make(chan []byte, 2*c.Workers), closing: make(chan struct{})}
	if err := os.MkdirAll(s.temp, 0o777); err != nil {
		return nil, err
	}
	s.block = 4096
	var st unix.Statfs_t
	if err := unix.Statfs(c.BasePath, &st); err == nil && st.Bsize >= 512 && st.Bsize <= 1<<20 && st.Bsize&(st.Bsize-1) == 0 {
		s.block = int(st.Bsize)
	}
	for i := range s.shards {
		s.shards[i].locks = map[kv.ObjectKey]int32{}
		if c.CapacityBytes > 0 || env.Found != nil {
			s.shards[i].sizes = map[kv.ObjectKey]int64{}
		}
	}
	if s.shards[0].sizes != nil && !c.SkipRecovery {
		if err := s.recover(); err != nil {
			return nil, err
		}
	}
	s.sweep.Go(s.removeLeftovers)
	io := l2.Effort{Workers: c.Workers, Batch: 1}
	s.Tasks = l2.NewTasks(env, s, io, l2.Effort{Workers: 2, Batch: 32}, io)
	return s, nil
}

// Name returns the adapter's type.
func (s *Store) Name() string { return s.name }

// Close waits for the files that are being read or written.
func (s *Store) Close() error {
	if !s.Tasks.Close() {
		return nil
	}
	close(s.closing)
	s.sweep.Wait()
	close(s.bounce)
	for b := range s.bounce {
		_ = unix.Munmap(b)
	}
	return nil
}

func (s *Store) closed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Usage says how many bytes the files have that this process knows: those it
// stored, and with a capacity those that it found.
func (s *Store) Usage() l2.Usage {
	used := s.used.Load()
	return l2.Usage{UsedBytes: used, CapacityBytes: s.disk.capacity(s, used)}
}

// know notes that a file is there; it is counted once. The caller holds sh.mu.
func (s *Store) know(sh *shard, k kv.ObjectKey, size int64) {
	if sh.sizes != nil {
		s.used.Add(size - sh.sizes[k])
		sh.sizes[k] = size
	}
}

// forget notes that a file of so many bytes is gone. The caller holds sh.mu.
func (s *Store) forget(sh *shard, k kv.ObjectKey, size int64) {
	if sh.sizes != nil {
		s.used.Add(-sh.sizes[k])
		delete(sh.sizes, k)
		return
	}
	for { // a file of another process may go, which was never counted
		used := s.used.Load()
		if s.used.CompareAndSwap(used, max(used-size, 0)) {
			return
		}
	}
}

// StoreBatch writes the objects that have no file.
func (s *Store) StoreBatch(objects []l2.Object) (keys int, bytes int64, err error) {
	for i := range objects {
		o := &objects[i]
		written, e := s.storeOne(o)
		if !errors.Is(e, errName) { // which says nothing about the folder
			e = s.outage.Report(&s.env, s.name, e)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("store %v: %w", o.Key, e))
		} else if written {
			keys++
			bytes += int64(len(o.Bytes))
		}
	}
	return keys, bytes, err
}

func (s *Store) storeOne(o *l2.Object) (written bool, err error) {
	name, err := fileName(&o.Key)
	if err != nil {
		return false, err
	}
	path := filepath.Join(s.c.BasePath, name)
	sh := s.shard(&o.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if size, err := fileSize(path); err == nil {
		s.know(sh, o.Key, size)
		return false, nil
	}
	if err = s.write(path, name, o.Bytes); errors.Is(err, fs.ErrNotExist) { // the folder went, or our file in it
		if err = os.MkdirAll(s.temp, 0o777); err == nil {
			err = s.write(path, name, o.Bytes)
		}
	}
	if err != nil {
		return false, err
	}
	size, err := fileSize(path) // as it is, so that a Delete takes off as much
	if err != nil {
		return true, nil // gone already
	}
	if sh.sizes != nil {
		s.know(sh, o.Key, size)
	} else {
		s.used.Add(size)
	}
	return true, nil
}

// LookupBatch finds the keys that have a file.
func (s *Store) LookupBatch(keys []kv.ObjectKey, found []bool) {
	for i := range keys {
		k := &keys[i]
		name, err := fileName(k)
		if err != nil {
			continue
		}
		sh := s.shard(k)
		sh.mu.Lock()
		size, err := fileSize(filepath.Join(s.c.BasePath, name))
		switch {
		case err == nil:
			s.know(sh, *k, size)
			sh.locks[*k]++
			found[i] = true
		case errors.Is(err, fs.ErrNotExist):
			s.forget(sh, *k, 0)
		}
		sh.mu.Unlock()
	}
}

// Unlock takes back one lock of each key.
func (s *Store) Unlock(keys []kv.ObjectKey) {
	for i := range keys {
		sh := s.shard(&keys[i])
		sh.mu.Lock()
		if n := sh.locks[keys[i]]; n > 1 {
			sh.locks[keys[i]] = n - 1
		} else {
			delete(sh.locks, keys[i])
		}
		sh.mu.Unlock()
	}
}

// LoadBatch reads whole objects.
func (s *Store) LoadBatch(objects []l2.Object, loaded []bool) {
	for i := range objects {
		o := &objects[i]
		name, err := fileName(&o.Key)
		if err != nil {
			continue
		}
		path := filepath.Join(s.c.BasePath, name)
		err = s.read(path, o.Bytes)
		loaded[i] = err == nil
		if errors.Is(err, errSize) || errors.Is(err, fs.ErrNotExist) {
			s.lost(path, o)
		}
	}
}

// lost notes that a file is not what an object needs, and removes one of
// another size.
func (s *Store) lost(path string, o *l2.Object) {
	sh := s.shard(&o.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	size, err := fileSize(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.forget(sh, o.Key, 0)
	case err == nil && !s.holds(size, len(o.Bytes)) && size != roundUp(int64(len(o.Bytes)), page):
		// Else it was written anew, or by fs_native with direct I/O, which can read it.
		if unix.Unlink(path) == nil {
			s.forget(sh, o.Key, size)
		}
	}
}

// Delete removes the files of keys that nobody has locked.
func (s *Store) Delete(keys []kv.ObjectKey) int {
	n := 0
	if s.closed() {
		return n
	}
	for i := range keys {
		if s.deleteOne(&keys[i]) {
			n++
		}
	}
	return n
}

func (s *Store) deleteOne(k *kv.ObjectKey) bool {
	name, err := fileName(k)
	if err != nil {
		return false
	}
	path := filepath.Join(s.c.BasePath, name)
	sh := s.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.locks[*k] > 0 {
		return false
	}
	size, err := fileSize(path)
	if err == nil {
		err = unix.Unlink(path)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		s.forget(sh, *k, size)
	}
	return err == nil
}

// holds reports whether a file of size bytes is one of an object of so many.
// Direct I/O of fs_native pads to the alignment of L1, which LMCache has at a
// page.
func (s *Store) holds(size int64, object int) bool {
	return size == int64(object) || s.c.Native && s.c.Direct && object > 0 && size == roundUp(int64(object), page)
}

const page = 4096

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// diskGuard makes a store full before its file system is.
type diskGuard struct {
	mu       sync.Mutex
	asked    bool
	at       int64 // when headroom was asked
	headroom int64
}

// capacity returns what the store may hold: what was configured, or less where
// the file system has less than that left. It asks once a second.
func (d *diskGuard) capacity(s *Store, used int64) int64 {
	if s.c.DiskWatermark == 0 && s.c.DiskMinFreeByte == 0 {
		return s.c.CapacityBytes
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := s.env.Clock.Now(); !d.asked || now-d.at >= int64(time.Second) {
		var st unix.Statfs_t
		if unix.Statfs(s.c.BasePath, &st) != nil {
			return s.c.CapacityBytes
		}
		d.asked, d.at = true, now
		free := int64(st.Bavail) * st.Bsize
		d.headroom = free - s.c.DiskMinFreeByte
		if w := s.c.DiskWatermark; w > 0 {
			total := int64(st.Blocks) * st.Bsize
			d.headroom = min(d.headroom, int64(w*float64(total))-(total-free))
		}
	}
	return max(1, min(s.c.CapacityBytes, used+d.headroom))
}
