package mq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

// TestChaos has 200 clients come, send all sorts of things and leave, most of
// them without reading their replies, some with a message that ends them, and
// the server closed amid it. Every request is accounted for, and nothing is left.
func TestChaos(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			f := &fake{
				lookup: func(k *wire.Key) error {
					runtime.Gosched()
					if k.RequestID == "3" {
						return errors.New("no")
					}
					return nil
				},
				status: func(id string) (int, bool) { return 1, id != "4" },
				wait: func(ctx context.Context, _ string) (int, bool) {
					<-ctx.Done()
					return 0, false
				},
			}
			s := start(t, f, mq.Options{
				Workers: 2, AffinityWorkers: 2, ClientRequests: 8, ClientWaits: 2,
				Transport: zmtp.Options{SendQueue: 4 << 10, Linger: time.Millisecond, MaxPeers: 64},
			})
			var clients sync.WaitGroup
			slots := make(chan struct{}, 24)
			for i := range 200 {
				slots <- struct{}{}
				clients.Go(func() {
					defer func() { <-slots }()
					r := rand.New(rand.NewPCG(seed, uint64(i)))
					d, err := zmtp.Dial(t.Context(), s.Addr(), zmtp.Options{Linger: time.Millisecond})
					if err != nil {
						return // there were too many, or it was closed
					}
					defer d.Close()
					c := &client{t: t, Dealer: d}
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					defer cancel()
					for range r.IntN(200) {
						if c.Post(c.any(r)...) != nil {
							return
						}
						if i%3 == 0 {
							_, _ = c.Recv(ctx) // or not, for want of time
						}
					}
				})
				if i == 180 {
					clients.Go(func() { _ = s.Close() })
				}
			}
			clients.Wait()
			_ = s.Close()
			st := s.Stats()
			var came, unanswered uint64
			for _, n := range st.Requests {
				came += n
			}
			for _, r := range []mq.Reason{mq.Failed, mq.Panicked, mq.Undelivered, mq.Closing} {
				unanswered += st.Refused[r]
			}
			if came != st.Answered+unanswered {
				t.Errorf("%d requests, %d answered and %d not: %+v", came, st.Answered, unanswered, st)
			}
			if st.InFlight != 0 || st.Waiting != 0 || st.Transport.Open != 0 {
				t.Errorf("left: %+v", st)
			}
			if came == 0 || st.Refused[mq.Failed] == 0 || st.Refused[mq.Panicked] == 0 || st.Refused[mq.Malformed] == 0 {
				t.Errorf("too little happened: %+v", st)
			}
			t.Logf("%d requests, %d answered, %v, %+v", came, st.Answered, st.Refused, st.Transport)
		})
	}
}

// any returns some message.
func (c *client) any(r *rand.Rand) [][]byte {
	id := fmt.Sprint(r.IntN(6))
	switch r.IntN(16) {
	case 0:
		return c.Plain(c.next(), wire.OpNoop)
	case 1, 2, 3:
		return c.Keyed(c.next(), wire.OpLookup, key(id), 1)
	case 4:
		return c.Session(c.next(), wire.OpQueryPrefetchStatus, id)
	case 5:
		return c.Wait(c.next(), id, time.Hour)
	case 6:
		return c.Session(c.next(), wire.OpEndSession, id)
	case 7:
		return c.Keyed(c.next(), wire.OpPrepareStore, key(id), 7)
	case 8:
		return c.CommitStore(c.next(), key(id), 7, make([]byte, r.IntN(1000)))
	case 9:
		return c.Keyed(c.next(), wire.OpPrepareRetrieve, key("panic"), 7)
	case 10:
		return c.Unregister(c.next(), 7)
	case 11:
		return c.Ping(c.next(), 7, true)
	case 12:
		return [][]byte{{1}}
	case 13:
		return [][]byte{{1}, {byte(wire.OpPing)}, {0xc1}}
	case 14:
		if r.IntN(20) == 0 {
			return make([][]byte, 300) // more frames than a message may have
		}
	}
	return c.Register(c.next(), &wire.Context{Instance: 7})
}
