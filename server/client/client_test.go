package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/server/client"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve opens a ROUTER that hands each request to answer, and returns a client
// of it.
func serve(t *testing.T, o client.Options, answer zmtp.Handler) *client.Client {
	t.Helper()
	router, err := zmtp.Listen("tcp://127.0.0.1:0", zmtp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- router.Serve(answer) }()
	c, err := client.Dial(t.Context(), "tcp://"+router.Addr(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close(), router.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Sixteen requests are on their way at once: none is answered before the last
// has come, and then the last first.
func TestAnswersInAnyOrder(t *testing.T) {
	const n = 16
	var waiting [][3][]byte
	c := serve(t, client.Options{}, func(p *zmtp.Peer, frames [][]byte) {
		op, err := wire.ParseOp(frames[1])
		if err != nil {
			t.Error(err)
		}
		req, err := wire.DecodeRequest(op, frames[2:])
		if err != nil || op != wire.OpQueryPrefetchStatus {
			t.Errorf("%s: %v", op, err)
		}
		var hits int
		fmt.Sscanf(req.RequestID, "req-%d", &hits)
		copied := func(b []byte) []byte { return append([]byte(nil), b...) }
		waiting = append(waiting, [3][]byte{copied(frames[0]), copied(frames[1]), wire.AppendCount(nil, hits)})
		for len(waiting) == n {
			for i := n - 1; i >= 0; i-- {
				p.Send(waiting[i][:]...)
			}
			waiting = nil
		}
	})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			hits, ok, err := c.PrefetchStatus(t.Context(), fmt.Sprintf("req-%d", i))
			if hits != i || !ok || err != nil {
				t.Errorf("request %d got %d, %v, %v", i, hits, ok, err)
			}
		})
	}
	all.Wait()
}

func TestWrongAnswers(t *testing.T) {
	c := serve(t, client.Options{Timeout: 50 * time.Millisecond}, func(p *zmtp.Peer, frames [][]byte) {
		op, _ := wire.ParseOp(frames[1])
		switch op {
		case wire.OpNoop: // for another operation
			p.Send(frames[0], wire.AppendOp(nil, wire.OpPing), wire.AppendText(nil, "OK"))
		case wire.OpPing: // of another type
			p.Send(frames[0], frames[1], wire.AppendText(nil, "yes"))
		case wire.OpGetChunkSize: // for a request that was never made, then no chunk size
			p.Send(wire.AppendUID(nil, 1<<40), frames[1], wire.AppendCount(nil, 16))
			p.Send(frames[0], frames[1], wire.AppendCount(nil, 0))
		case wire.OpQueryPrefetchStatus: // not yet
			p.Send(frames[0], frames[1])
		}
	})
	for name, call := range map[string]func() error{
		"noop":       func() error { return c.Noop(t.Context()) },
		"ping":       func() error { return c.Ping(t.Context(), 7, true) },
		"chunk size": func() error { _, err := c.ChunkSize(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrReply) {
			t.Errorf("%s: %v; want ErrReply", name, err)
		}
	}
	if _, ok, err := c.PrefetchStatus(t.Context(), "r"); ok || err != nil {
		t.Errorf("status: %v, %v; want not yet", ok, err)
	}
	var timeout *client.TimeoutError
	if err := c.Clear(t.Context(), false); !errors.As(err, &timeout) || timeout.Op != wire.OpClear {
		t.Errorf("clear: %v; want a timeout", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.EndSession(ctx, "r"); !errors.Is(err, context.Canceled) {
		t.Errorf("end_session: %v; want canceled", err)
	}
}

func TestLostConnection(t *testing.T) {
	c := serve(t, client.Options{}, func(p *zmtp.Peer, _ [][]byte) { p.Close() })
	for range 3 { // those to come fail at once, too
		if err := c.Noop(t.Context()); err == nil || !strings.Contains(err.Error(), "noop: ") {
			t.Errorf("noop without a server: %v", err)
		}
	}
}

func TestObserve(t *testing.T) {
	seen := map[wire.Op]int{}
	c := serve(t, client.Options{Observe: func(op wire.Op, took time.Duration, err error) {
		if took <= 0 || err != nil {
			t.Errorf("%s: %v, %v", op, took, err)
		}
		seen[op]++
	}}, func(p *zmtp.Peer, frames [][]byte) { p.Answer(frames[0], frames[1], wire.AppendText(nil, "OK")) })
	for range 3 {
		if err := c.Noop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if seen[wire.OpNoop] != 3 || len(seen) != 1 {
		t.Errorf("seen %v; want 3 noops", seen)
	}
}

func TestPool(t *testing.T) {
	path := fmt.Sprintf("/dev/shm/lmcache_client_test_%d", os.Getpid())
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Skipf("no shared memory: %v", err)
	}
	defer os.Remove(path)
	for _, bad := range []wire.Pool{{}, {Name: "../etc/passwd", Size: 1}, {Name: "..", Size: 1}, {Name: filepath.Base(path), Size: 8193}, {Name: "lmcache_no_such_pool", Size: 1}} {
		if _, err := client.OpenPool(bad); err == nil {
			t.Errorf("pool %+v opened", bad)
		}
	}
	p, err := client.OpenPool(wire.Pool{Name: "/" + filepath.Base(path), Size: 8192})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	slot, err := p.Slot(&wire.Slot{Offset: 4096, Length: 4096}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	slot[0] = 42
	if data, err := os.ReadFile(path); err != nil || data[4096] != 42 {
		t.Errorf("what was written is not in the segment: %v", err)
	}
	for _, bad := range []wire.Slot{{Offset: 4096, Length: 4097}, {Offset: -1, Length: 4096}, {Offset: 1 << 62, Length: 1 << 62}, {Length: -1}, {Length: 4095}} {
		if _, err := p.Slot(&bad, 4096); !errors.Is(err, client.ErrReply) {
			t.Errorf("slot %+v: %v; want ErrReply", bad, err)
		}
	}
}

func TestAdmin(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/status" {
			fmt.Fprint(w, `{"is_healthy":true,"storage_manager":{"l1_eviction_controller":{"eviction_policy":"LRU"}}}`)
			return
		}
		http.Error(w, "no", http.StatusTeapot)
	}))
	defer s.Close()
	a := client.NewAdmin(strings.TrimPrefix(s.URL, "http://") + "/")
	if status, err := a.Status(t.Context()); err != nil || !status.Healthy || status.Policy() != "LRU" {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := a.Clear(t.Context()); err == nil || err.Error() != "HTTP 418: I'm a teapot" {
		t.Errorf("clear: %v", err)
	}
}
