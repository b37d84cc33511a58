package s3

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/l2"
)

// LeadTo makes every connection of adapters that are opened during a test go to
// addr, whatever host they ask for: a stand-in for a name server.
func LeadTo(t testing.TB, addr string) {
	before := dialContext
	dialContext = func(ctx context.Context, network, _ string) (net.Conn, error) { return before(ctx, network, addr) }
	t.Cleanup(func() { dialContext = before })
}

// SetGrace sets how long Close waits.
func SetGrace(a l2.Adapter, d time.Duration) { a.(*Store).grace = d }

// SetMaxMoving sets how many bytes may move at once.
func SetMaxMoving(a l2.Adapter, n int) { a.(*Store).maxMoving = n }

// Moving returns how many bytes move now.
func Moving(a l2.Adapter) int {
	s := a.(*Store)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moving
}
