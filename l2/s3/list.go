package s3

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lmcache/lmcache-go/kv"
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
		if key, ok := parseName(o.Key); ok && o.Size > 0 {
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

// parseName reads the name of an object; ok is false for one that no key has.
//
// Source: reference storage-manager.md, section 8.3.
func parseName(name string) (k kv.ObjectKey, ok bool) {
	parts := strings.Split(name, "@")
	salt := ""
	if len(parts) == 5 {
		salt = parts[4]
	} else if len(parts) != 4 {
		return k, false
	}
	rank, err1 := strconv.ParseUint(parts[1], 16, 64)
	group, err2 := strconv.ParseUint(parts[2], 16, 32)
	hash, err3 := hex.DecodeString(parts[3])
	if err1 != nil || err2 != nil || err3 != nil || len(hash) > kv.MaxHash {
		return k, false
	}
	// Compared before the scope is interned: a bucket may be full of names
	// that only look like keys.
	shape, err := kv.NewObjectKey(hash, 0, rank, uint32(group))
	if err != nil || shape.String() != "@"+strings.Join(parts[1:4], "@") || len(parts) == 5 && salt == "" {
		return k, false
	}
	scope, err := kv.InternScope(parts[0], salt)
	if err != nil {
		return k, false
	}
	shape.Scope = scope
	return shape, true
}
