package s3

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// listed is an object of the bucket that has a key's name.
type listed struct {
	key  kv.ObjectKey
	size int64
	at   time.Time
}

// list learns what the bucket has, and tells it to an eviction policy, oldest
// first. Only a store that evicts asks for it: a thousand objects take a request
// each, and a large bucket more time than a start may take. What is not listed by
// then is counted when somebody asks for it.
func (s *Store) list() {
	ctx, cancel := context.WithTimeout(s.reads, s.conn.cfg.Timeout)
	defer cancel()
	var objects []listed
	var err error
	for o := range s.conn.core.ListObjectsIter(ctx, s.conn.cfg.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if err = o.Err; err != nil {
			break
		}
		if key, ok := kv.ParseKey(o.Key); ok && o.Size > 0 {
			objects = append(objects, listed{key, o.Size, o.LastModified})
		}
	}
	if err = cmp.Or(ctx.Err(), err); err != nil {
		s.conn.log.Warn(s.conn.name()+" cannot be listed to its end; what is missing is evicted only after somebody asked for it",
			"listed", len(objects), "error", err)
	}
	slices.SortStableFunc(objects, func(a, b listed) int { return a.at.Compare(b.at) })
	keys, sizes := make([]kv.ObjectKey, len(objects)), make([]int64, len(objects))
	s.mu.Lock()
	for i, o := range objects {
		keys[i], sizes[i] = o.key, o.size
		s.known.learn(&o.key, o.size)
	}
	s.mu.Unlock()
	s.env.Found(keys, sizes)
}

// List implements l2.Lister: the bucket's objects in the order of their names, of
// which the token is one.
func (s *Store) List(model, token string, limit int) (page l2.Page, err error) {
	prefix := ""
	if model != "" {
		prefix = model + "@"
	}
	ctx, cancel := context.WithTimeout(s.reads, s.conn.cfg.Timeout)
	defer cancel()
	last := ""
	for o := range s.conn.core.ListObjectsIter(ctx, s.conn.cfg.Bucket, minio.ListObjectsOptions{Recursive: true, Prefix: prefix, StartAfter: token, MaxKeys: min(limit+1, 1000)}) {
		if o.Err != nil {
			return l2.Page{}, o.Err
		}
		key, ok := kv.ParseKey(o.Key)
		if !ok || o.Size <= 0 {
			continue
		}
		if len(page.Objects) == limit {
			page.Next = last
			break
		}
		page.Objects, last = append(page.Objects, l2.Listed{Key: key, SizeBytes: o.Size}), o.Key
	}
	return page, ctx.Err()
}

// Report counts what this process knows to be in the bucket.
func (s *Store) Report() l2.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := l2.Report{Backend: s.conn.cfg.Host + "/" + s.conn.cfg.Bucket, Locked: -1, Objects: int64(s.known.index.Len())}
	if s.conn.breaker.refuses(s.conn.clock.Now()) {
		r.Err = errOpen
	}
	return r
}
