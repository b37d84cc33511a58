package resp

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// scanCount is how many keys the server is asked to look at in one step.
const scanCount = 1000

var globQuoter = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// scan calls each for every key of a model, of every model if that is empty, in no
// order. One that comes or goes meanwhile may be missed, and one may come twice.
func (s *Store) scan(ctx context.Context, model string, each func(kv.ObjectKey)) error {
	match := globQuoter.Replace(s.opt.Prefix)
	if model != "" {
		match += globQuoter.Replace(model) + "@"
	}
	match += "*"
	var mu sync.Mutex // of each: a cluster's nodes are asked at once
	node := func(ctx context.Context, c *redis.Client) error {
		for cursor := uint64(0); ; {
			names, next, err := c.Scan(ctx, cursor, match, scanCount).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			for _, name := range names {
				if k, ok := kv.ParseKey(strings.TrimPrefix(name, s.opt.Prefix)); ok {
					each(k)
				}
			}
			mu.Unlock()
			if cursor = next; cursor == 0 {
				return ctx.Err()
			}
		}
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, node)
	}
	return node(ctx, s.client.(*redis.Client))
}

// recover tells an eviction policy of what the store has, the longest unused
// first. What the connect timeout leaves no time for is known when somebody asks
// for it.
func (s *Store) recover() {
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.ConnectTimeout)
	defer cancel()
	type object struct {
		key  kv.ObjectKey
		size int64
		idle int64
	}
	var objects []object
	seen := map[kv.ObjectKey]struct{}{}
	err := s.scan(ctx, "", func(k kv.ObjectKey) {
		if _, dup := seen[k]; !dup {
			seen[k] = struct{}{}
			objects = append(objects, object{key: k})
		}
	})
	for part := range slices.Chunk(objects, batchKeys) {
		if ctx.Err() != nil {
			break
		}
		lengths, idle := make([]*redis.IntCmd, len(part)), make([]*redis.DurationCmd, len(part))
		errs := s.pipeline(len(part), func(p redis.Pipeliner, i int) redis.Cmder {
			name := s.wireKey(part[i].key)
			idle[i] = p.ObjectIdleTime(s.ctx, name) // first: a question for the length is a use
			lengths[i] = p.StrLen(s.ctx, name)
			return lengths[i]
		})
		for i := range part {
			if errs[i] == nil {
				part[i].size = lengths[i].Val()
			}
			if idle[i].Err() == nil { // else the server evicts by frequency, and does not know
				part[i].idle = int64(idle[i].Val())
			}
		}
	}
	objects = slices.DeleteFunc(objects, func(o object) bool { return o.size == 0 })
	if err = cmp.Or(ctx.Err(), err); err != nil {
		s.log().Warn("L2 store cannot be listed to its end; what is missing is evicted only after somebody asked for it",
			"adapter", s.opt.Name, "listed", len(objects), "error", err)
	}
	slices.SortStableFunc(objects, func(a, b object) int { return cmp.Compare(b.idle, a.idle) })
	keys, sizes := make([]kv.ObjectKey, len(objects)), make([]int64, len(objects))
	for i, o := range objects {
		keys[i], sizes[i] = o.key, o.size
		s.index.found(o.key, o.size)
	}
	s.env.Found(keys, sizes)
}

// List implements l2.Lister. The store has no order, so every page asks for all
// names; and for the lengths of those on the page.
func (s *Store) List(model, token string, limit int) (l2.Page, error) {
	p := l2.NewPager(model, token, limit)
	seen := map[kv.ObjectKey]struct{}{} // on the page at some time
	if err := s.scan(s.ctx, model, func(k kv.ObjectKey) {
		if _, dup := seen[k]; !dup && p.Wants(&k) {
			seen[k] = struct{}{}
			p.Add(k, 0)
		}
	}); err != nil {
		return l2.Page{}, err
	}
	page := p.Page()
	lengths := make([]*redis.IntCmd, len(page.Objects))
	errs := s.pipeline(len(lengths), func(p redis.Pipeliner, i int) redis.Cmder {
		lengths[i] = p.StrLen(s.ctx, s.wireKey(page.Objects[i].Key))
		return lengths[i]
	})
	there := page.Objects[:0]
	for i, o := range page.Objects {
		if o.SizeBytes = lengths[i].Val(); errs[i] == nil && o.SizeBytes > 0 { // else it went meanwhile, or is no string
			there = append(there, o)
		}
	}
	page.Objects = there
	return page, nil
}

// Report counts what this process knows to be there.
func (s *Store) Report() l2.Report {
	return l2.Report{Err: s.link.trouble(), Backend: strings.Join(s.opt.Nodes, ","), Objects: s.index.objects(), Locked: -1}
}
