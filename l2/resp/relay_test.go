package resp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/resp"
)

// relay stands between the adapter and a server. What the server answers goes
// through pass, which may hold it up or cut it off.
type relay struct {
	port string
	l    net.Listener
	to   string
	pass func(to io.Writer, from io.Reader) error
	all  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newRelay(t testing.TB, to *server, pass func(io.Writer, io.Reader) error) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := &relay{port: port, l: l, to: to.addr, pass: pass}
	r.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.all.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.all.Wait()
	})
	return r
}

func (r *relay) serve(c net.Conn) {
	s, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = c.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, c, s)
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(s, c); _ = s.Close() })
	both.Go(func() { _ = r.pass(c, s); _ = c.Close(); _ = s.Close() })
	both.Wait()
}

func (r *relay) config(more ...any) map[string]any {
	c := map[string]any{"startup_nodes": "127.0.0.1:" + r.port}
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}

// A store that is slow and goes on is no outage, however long a value takes.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	const size, pieces = 1 << 20, 12
	slow := newRelay(t, s, func(to io.Writer, from io.Reader) error {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		b := make([]byte, size/pieces)
		for {
			n, err := from.Read(b)
			if err != nil {
				return err
			}
			if n > 1000 { // a part of a value
				<-tick.C
			}
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
	})
	r := mustOpen(t, resp.Valkey, slow.config("request_timeout", 0.5, "num_workers", 1))
	o := object(1, size)
	if got := r.store([]l2.Object{o}); got.Err != nil {
		t.Fatal(got.Err)
	}
	start := time.Now()
	into := []l2.Object{empty(1, size)}
	if got := r.load(into); got != "1" || !bytes.Equal(into[0].Bytes, o.Bytes) {
		t.Errorf("load %s; want 1", got)
	}
	if d := time.Since(start); d < time.Second {
		t.Errorf("the value took %v: this was no slow server", d)
	}
	if log := r.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
}

// A value that breaks off in the middle is fetched again; if it always does, it
// is a miss and one line in the log.
func TestCutInTheMiddleOfAValue(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	const size = 1 << 20
	var mu sync.Mutex
	cuts := 0 // values still to cut
	cutter := newRelay(t, s, func(to io.Writer, from io.Reader) error {
		b, passed := make([]byte, 64<<10), 0
		for {
			n, err := from.Read(b)
			if err != nil {
				return err
			}
			if passed += n; passed > size/2 {
				mu.Lock()
				cut := cuts > 0
				cuts--
				mu.Unlock()
				if cut {
					return io.ErrUnexpectedEOF
				}
				passed = 0
			}
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
	})
	r := mustOpen(t, resp.Valkey, cutter.config("num_workers", 1))
	objects := []l2.Object{object(1, size), object(2, size)}
	if got := r.store(objects); got.Err != nil {
		t.Fatal(got.Err)
	}
	set := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		cuts = n
	}
	set(1)
	into := []l2.Object{empty(1, size), empty(2, size)}
	if got := r.load(into); got != "11" || !bytes.Equal(into[0].Bytes, objects[0].Bytes) || !bytes.Equal(into[1].Bytes, objects[1].Bytes) {
		t.Errorf("load after one cut %s; want 11 and the right bytes", got)
	}
	if log := r.log.String(); log != "" {
		t.Errorf("logged: %s", log)
	}
	set(1 << 30)
	for range 3 {
		if got := r.load([]l2.Object{empty(1, size), empty(2, size)}); got != "00" {
			t.Errorf("load that is always cut: %s; want 00", got)
		}
	}
	if n := strings.Count(r.log.String(), "L2 store does not load"); n != 1 {
		t.Errorf("%d lines about it; want one\n%s", n, r.log)
	}
	set(0)
	if got := r.load([]l2.Object{empty(1, size)}); got != "1" {
		t.Errorf("load when nothing is cut any more: %s", got)
	}
}

// On virtual time an outage takes virtual time, too.
func TestOutageOnVirtualTime(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	clk := clock.NewVirtual(0)
	config, err := json.Marshal(s.config())
	if err != nil {
		t.Fatal(err)
	}
	notices := 0
	a, err := resp.Kind.New(config, l2.Env{Clock: clk, Notify: func() { notices++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	pass := func(d time.Duration) {
		if err := clk.SleepUntil(context.Background(), clk.Now()+int64(d)); err != nil {
			t.Fatal(err)
		}
	}
	store := func() l2.StoreResult {
		a.SubmitStore([]l2.Object{object(1, 100)})
		pass(time.Microsecond)
		got := a.PopStores()
		if len(got) != 1 {
			t.Fatalf("%d results; want one at once", len(got))
		}
		return got[0]
	}
	s.kill()
	if got := store(); got.Err == nil {
		t.Error("a store without a server succeeds")
	}
	pass(time.Minute) // probes fail
	if got := store(); got.Err == nil {
		t.Error("a store without a server succeeds after a minute")
	}
	s.restart()
	if got := store(); got.Err == nil {
		t.Error("a store succeeds before a probe could see the server")
	}
	pass(6 * time.Second)
	if got := store(); got.Err != nil || got.Keys != 1 {
		t.Errorf("store when the server is back: %+v", got)
	}
	id := a.SubmitLookup([]kv.ObjectKey{key(1)})
	pass(time.Microsecond)
	if bits, ok := a.QueryLookup(id); !ok || bits.Count() != 1 || notices != 5 {
		t.Errorf("lookup %v, %t, %d notices; want 1 and 5", bits, ok, notices)
	}
}
