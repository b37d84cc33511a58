package resp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Store is the adapter. A store task sends the objects that the store does not
// have with the same length; a lookup asks for lengths, so that a load fetches
// nothing of another size.
//
// Locks are this process's own: they keep a key from its Delete.
type Store struct {
	opt    Options
	env    l2.Env
	link   *link
	client redis.UniversalClient
	index  index
	ctx    context.Context // the link's: ends when Close gives up
	sinks  sync.Pool       // of *[]byte: where the bytes of scratch memory go

	virtual bool           // no workers: see submit
	running sync.WaitGroup // workers, and what later started
	wake    *sync.Cond     // on mu: there is work, or no more will come

	mu      sync.Mutex // guards all below
	queues  [kinds]queue
	moving  int // workers that are storing or loading
	turn    op  // loading or storing: which went last
	lastID  l2.TaskID
	stores  []l2.StoreResult
	lookups map[l2.TaskID]kv.Bitmap
	loads   map[l2.TaskID]kv.Bitmap
	failing [kinds]bool // such requests fail, and the log says so
	closed  bool
}

// closeWait is how long Close lets what is queued for the store go on.
const closeWait = 5 * time.Second

// Open connects to the store. It fails if the store cannot be reached or does
// not let us in. Of several nodes that are no cluster it takes the first that is
// no replica.
func Open(opt Options, env l2.Env) (*Store, error) {
	opt = opt.withDefaults()
	if opt.Cluster || len(opt.Nodes) == 1 {
		return open(opt, env)
	}
	var errs []error
	for _, node := range opt.Nodes {
		one := opt
		one.Nodes = []string{node}
		s, err := open(one, env)
		if err == nil && s.isReplica() {
			err = errors.Join(fmt.Errorf("%s is a replica", node), s.Close())
		}
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func open(opt Options, env l2.Env) (*Store, error) {
	s := &Store{opt: opt, env: env, index: index{of: map[kv.ObjectKey]entry{}}, turn: loading,
		lookups: map[l2.TaskID]kv.Bitmap{}, loads: map[l2.TaskID]kv.Bitmap{}}
	s.wake = sync.NewCond(&s.mu)
	s.link = newLink(&s.opt, env)
	s.ctx = s.link.ctx
	s.client = newClient(&s.opt, s.link)
	if err := s.greet(); err != nil {
		s.release()
		return nil, err
	}
	s.link.speak(env.Log)
	if env.Found != nil {
		s.recover()
	}
	if _, s.virtual = env.Clock.(*clock.Virtual); !s.virtual {
		for range opt.Workers {
			s.running.Go(s.work)
		}
	}
	return s, nil
}

// Name returns the adapter's type.
func (s *Store) Name() string { return s.opt.Name }

// SubmitStore sends what the store does not have.
func (s *Store) SubmitStore(objects []l2.Object) l2.TaskID {
	objects = unique(objects)
	s.index.beginStore(objects)
	return s.submit(&task{kind: storing, objects: objects, stored: make([]bool, len(objects))})
}

// unique returns the first object of each key.
func unique(objects []l2.Object) []l2.Object {
	seen := make(map[kv.ObjectKey]struct{}, len(objects))
	for i := range objects {
		seen[objects[i].Key] = struct{}{}
	}
	if len(seen) == len(objects) {
		return objects
	}
	out := make([]l2.Object, 0, len(seen))
	for _, o := range objects {
		if _, ok := seen[o.Key]; ok {
			delete(seen, o.Key)
			out = append(out, o)
		}
	}
	return out
}

// PopStores returns the store tasks that completed since the last call.
func (s *Store) PopStores() []l2.StoreResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stores
	s.stores = nil
	return out
}

// SubmitLookup asks for the lengths of values; keys that have one are locked.
func (s *Store) SubmitLookup(keys []kv.ObjectKey) l2.TaskID {
	return s.submit(&task{kind: lookingUp, keys: keys, bits: kv.NewBitmap(len(keys))})
}

// QueryLookup returns the result of a lookup once.
func (s *Store) QueryLookup(id l2.TaskID) (kv.Bitmap, bool) { return s.take(s.lookups, id) }

// Unlock takes back one lock of each key.
func (s *Store) Unlock(keys []kv.ObjectKey) { s.index.unlock(keys) }

// SubmitLoad reads values that have the length of the memory given.
func (s *Store) SubmitLoad(objects []l2.Object) l2.TaskID {
	return s.submit(&task{kind: loading, objects: objects, bits: kv.NewBitmap(len(objects))})
}

// QueryLoad returns the result of a load once.
func (s *Store) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) { return s.take(s.loads, id) }

func (s *Store) take(from map[l2.TaskID]kv.Bitmap, id l2.TaskID) (kv.Bitmap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := from[id]
	delete(from, id)
	return b, ok
}

// Usage counts what this process has stored and not seen go.
func (s *Store) Usage() l2.Usage {
	return l2.Usage{UsedBytes: s.index.usedBytes(), CapacityBytes: s.opt.CapacityBytes}
}

// Delete removes keys that are neither locked nor being stored. It waits for
// the store, 30 s at most and one request timeout.
func (s *Store) Delete(keys []kv.ObjectKey) int {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0
	}
	const most = 30 * time.Second
	var wall clock.Real // a network takes the machine's time, whatever clock runs the rest
	last := wall.Now() + int64(most)
	n := 0
	for part := range slices.Chunk(s.index.beginDelete(keys), batchKeys) {
		if wall.Now() >= last {
			for _, key := range part {
				s.index.endDelete(key, false)
			}
			continue
		}
		deleted := make([]*redis.IntCmd, len(part))
		errs := s.pipeline(len(part), func(p redis.Pipeliner, i int) redis.Cmder {
			deleted[i] = p.Del(s.ctx, s.wireKey(part[i]))
			return deleted[i]
		})
		for i, key := range part {
			if errs[i] == nil {
				n += int(deleted[i].Val())
			}
			s.index.endDelete(key, errs[i] == nil)
		}
		_ = s.report(deleting, errs)
	}
	return n
}

// Close gives what is queued for the store a few seconds to get there; then it
// cuts the connections. Lookups and loads that wait are dropped.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.queues[lookingUp], s.queues[loading] = queue{}, queue{}
	s.wake.Broadcast()
	s.mu.Unlock()
	if closed {
		return nil
	}
	stop := clock.Real{}.AfterFunc(closeWait, s.link.close)
	s.running.Wait()
	stop()
	s.release()
	return nil
}

func (s *Store) release() {
	_ = s.client.Close() // of connections that may be cut already
	s.link.close()
}

// store runs a batch of a store task: it marks what is in the store then, and
// returns what was newly written, and the first error.
func (s *Store) store(objects []l2.Object, stored []bool) (keys int, bytes int64, err error) {
	names := make([]string, len(objects))
	lengths := make([]*redis.IntCmd, len(objects))
	errs := s.pipeline(len(objects), func(p redis.Pipeliner, i int) redis.Cmder {
		names[i] = s.wireKey(objects[i].Key)
		lengths[i] = p.StrLen(s.ctx, names[i])
		return lengths[i]
	})
	var todo []int // what to send, and with a TTL what to keep alive
	has := func(i int) bool { return errs[i] == nil && lengths[i].Val() == int64(len(objects[i].Bytes)) }
	for i := range objects {
		if errs[i] != nil && isAbsent(errs[i]) {
			errs[i] = nil // another type: SET replaces it
		}
		if errs[i] == nil && (!has(i) || s.opt.TTL > 0) {
			todo = append(todo, i)
		}
	}
	for j, err := range s.pipeline(len(todo), func(p redis.Pipeliner, j int) redis.Cmder {
		i := todo[j]
		if has(i) {
			return p.Expire(s.ctx, names[i], s.opt.TTL)
		}
		return p.Set(s.ctx, names[i], objects[i].Bytes, s.opt.TTL)
	}) {
		errs[todo[j]] = err
	}
	for i := range objects {
		stored[i] = errs[i] == nil
		if stored[i] && !has(i) {
			keys++
			bytes += int64(len(objects[i].Bytes))
		}
	}
	return keys, bytes, s.report(storing, errs)
}

// load runs a batch of a load task.
func (s *Store) load(objects []l2.Object) (loaded []bool) {
	loaded = make([]bool, len(objects))
	var todo []int
	for i, o := range objects {
		if n := s.index.length(o.Key); len(o.Bytes) > 0 && (n == 0 || n == int64(len(o.Bytes))) {
			todo = append(todo, i)
		}
	}
	if s.env.NoPayload {
		var sink *[]byte
		objects, sink = s.elsewhere(objects)
		defer s.sinks.Put(sink)
	}
	errs := s.get(objects, todo, loaded)
	var again []int
	for j, i := range todo {
		if isTooLong(errs[j]) {
			again = append(again, i)
		}
	}
	_ = s.report(loading, errs)
	if len(todo) > 1 { // one of a pipeline is too long, those behind it may not be
		for _, i := range again {
			s.get(objects, []int{i}, loaded)
		}
	}
	return loaded
}

// elsewhere gives objects memory of their own, that nobody looks at: bytes are
// moved, and the caller's memory, which other objects share, stays as it is.
func (s *Store) elsewhere(objects []l2.Object) ([]l2.Object, *[]byte) {
	total := 0
	for i := range objects {
		total += len(objects[i].Bytes)
	}
	sink, _ := s.sinks.Get().(*[]byte)
	if sink == nil || len(*sink) < total {
		sink = new([]byte)
		*sink = make([]byte, total)
	}
	left := *sink
	out := slices.Clone(objects)
	for i := range out {
		n := len(out[i].Bytes)
		out[i].Bytes, left = left[:n:n], left[n:]
	}
	return out, sink
}

func (s *Store) get(objects []l2.Object, todo []int, loaded []bool) []error {
	values := make([]*redis.ZeroCopyStringCmd, len(todo))
	errs := s.pipeline(len(todo), func(p redis.Pipeliner, j int) redis.Cmder {
		o := &objects[todo[j]]
		values[j] = p.GetToBuffer(s.ctx, s.wireKey(o.Key), o.Bytes)
		return values[j]
	})
	for j, i := range todo {
		loaded[i] = errs[j] == nil && values[j].Val() == len(objects[i].Bytes)
		if errs[j] != nil && isAbsent(errs[j]) {
			s.index.gone(objects[i].Key)
		}
	}
	return errs
}

// lookup runs a batch of a lookup; it locks what it finds.
func (s *Store) lookup(keys []kv.ObjectKey) (found []bool) {
	found = make([]bool, len(keys))
	lengths := make([]*redis.IntCmd, len(keys))
	errs := s.pipeline(len(keys), func(p redis.Pipeliner, i int) redis.Cmder {
		lengths[i] = p.StrLen(s.ctx, s.wireKey(keys[i]))
		return lengths[i]
	})
	for i, key := range keys {
		switch {
		case errs[i] == nil && lengths[i].Val() > 0:
			found[i] = s.index.lock(key, lengths[i].Val())
		case errs[i] == nil || isAbsent(errs[i]):
			s.index.gone(key)
		}
	}
	_ = s.report(lookingUp, errs)
	return found
}

// report says once that requests of a kind fail, though no node is down, and
// once that they do no more. It returns the first error, which needs no other
// line in the log.
func (s *Store) report(k op, errs []error) error {
	var first, news error
	for _, err := range errs {
		if err == nil || isAbsent(err) || isTooLong(err) {
			continue
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, l2.ErrReported) && s.ctx.Err() == nil {
			news = err
			break
		}
	}
	if first != nil && news == nil {
		return reported{first} // a node is down, or Close has cut the connections
	}
	s.mu.Lock()
	before := s.failing[k]
	s.failing[k] = news != nil
	s.mu.Unlock()
	switch {
	case news != nil && !before:
		s.log().Warn("L2 store does not "+k.String(), "adapter", s.opt.Name, "error", news)
	case news == nil && before:
		s.log().Info("L2 store does "+k.String()+" again", "adapter", s.opt.Name)
	}
	if news != nil {
		return reported{news}
	}
	return nil
}

func (s *Store) log() *slog.Logger { return s.link.log.Load() }

// wireKey is kv.ObjectKey.String behind the prefix, without package fmt.
func (s *Store) wireKey(key kv.ObjectKey) string {
	model, salt := key.Scope.Model(), key.Scope.Salt()
	b := make([]byte, 0, len(s.opt.Prefix)+len(model)+len(salt)+2*int(key.HashLen)+32)
	b = append(b, s.opt.Prefix...)
	b = append(append(b, model...), '@')
	for limit := uint64(1) << 28; limit > 1 && key.Rank < limit; limit >>= 4 {
		b = append(b, '0')
	}
	b = append(strconv.AppendUint(b, key.Rank, 16), '@')
	b = append(strconv.AppendUint(b, uint64(key.Group), 16), '@')
	b = hex.AppendEncode(b, key.ChunkHash())
	if salt != "" {
		b = append(append(b, '@'), salt...)
	}
	return string(b)
}
