package resp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/lmcache/lmcache-go/l2"
)

// silent keeps the library from writing to stderr: what matters comes back as
// an error.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(silent{}) })

// newClient returns the library's client, whose connections are the link's. The
// library retries nothing and has no deadlines of its own: the link has them.
func newClient(opt *Options, l *link) redis.UniversalClient {
	silence()
	const none = -2         // leaves the deadlines of a connection alone
	pool := opt.Workers + 4 // besides the workers: deletes
	maintenance := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if opt.Cluster {
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: opt.Nodes, Dialer: l.dial, Protocol: 2, Username: opt.Username, Password: opt.Password,
			MaxRetries: -1, MaxRetryBackoff: 64 * time.Millisecond, DialTimeout: opt.ConnectTimeout, DialerRetries: 1,
			ReadTimeout: none, WriteTimeout: none, PoolSize: pool, PoolTimeout: opt.ConnectTimeout + opt.RequestTimeout,
			DisableRoutingPolicies: true, DisableIdentity: true, MaintNotificationsConfig: maintenance,
		})
	}
	return redis.NewClient(&redis.Options{
		Addr: opt.Nodes[0], Dialer: l.dial, Protocol: 2, Username: opt.Username, Password: opt.Password, DB: opt.Database,
		MaxRetries: -1, DialTimeout: opt.ConnectTimeout, DialerRetries: 1,
		ReadTimeout: none, WriteTimeout: none, PoolSize: pool, PoolTimeout: opt.ConnectTimeout + opt.RequestTimeout,
		DisableIdentity: true, MaintNotificationsConfig: maintenance,
	})
}

// greet checks that the store is there and lets this program in. A store that
// is starting up is given the connect timeout.
func (s *Store) greet() error {
	last := s.env.Clock.Now() + int64(s.opt.ConnectTimeout)
	for {
		err := s.pingAll()
		if err == nil {
			return nil
		}
		now := s.env.Clock.Now()
		if now >= last || !redis.IsLoadingError(err) && !redis.IsClusterDownError(err) {
			var down *downError
			if errors.As(err, &down) {
				err = down.err
			}
			return fmt.Errorf("connect to %s: %w", strings.Join(s.opt.Nodes, ","), err)
		}
		if err := s.env.Clock.SleepUntil(s.ctx, min(last, now+int64(firstBackoff))); err != nil {
			return err
		}
	}
}

// pingAll pings the server, or every master of the cluster.
func (s *Store) pingAll() error {
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(s.ctx, func(ctx context.Context, node *redis.Client) error {
			return node.Ping(ctx).Err()
		})
	}
	return s.client.Ping(s.ctx).Err()
}

// isReplica reports that the node says so of itself.
func (s *Store) isReplica() bool {
	role, err := s.client.Do(s.ctx, "role").Slice()
	return err == nil && len(role) > 0 && role[0] != "master"
}

// pipeline runs the commands of n positions as one pipeline, and those that a
// broken connection took with it once more: all commands that we send may be
// repeated. It returns an error a position.
func (s *Store) pipeline(n int, add func(p redis.Pipeliner, i int) redis.Cmder) []error {
	if n == 0 {
		return nil
	}
	errs := make([]error, n)
	todo := make([]int, n)
	for i := range todo {
		todo[i] = i
	}
	cmds := make([]redis.Cmder, n)
	for try := 0; try < 2 && len(todo) > 0; try++ {
		if !s.opt.Cluster { // a cluster may have other nodes
			if err := s.link.check(s.opt.Nodes[0]); err != nil {
				for _, i := range todo {
					errs[i] = err
				}
				return errs
			}
		}
		p := s.client.Pipeline()
		for _, i := range todo {
			cmds[i] = add(p, i)
		}
		_, _ = p.Exec(s.ctx) // each command has its own error
		broken := todo[:0]
		for _, i := range todo {
			if errs[i] = cmds[i].Err(); errs[i] != nil && !isReply(errs[i]) && !isTooLong(errs[i]) {
				broken = append(broken, i)
			}
		}
		todo = broken
	}
	return errs
}

// isReply tells an error that the store answered from one of the way to it.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// isAbsent reports that the store has no string under the key.
func isAbsent(err error) bool {
	return errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE")
}

// isTooLong reports that a value did not fit the memory it was to be read into.
// The library gives the error to the commands behind it as well.
func isTooLong(err error) bool {
	return err != nil && !isReply(err) && strings.Contains(err.Error(), "buffer too small")
}

// reported wraps an error of which the log has a line already.
type reported struct{ error }

func (r reported) Is(target error) bool { return target == l2.ErrReported }
func (r reported) Unwrap() error        { return r.error }
