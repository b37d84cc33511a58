package resp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/resp"
)

// rig is an adapter and what it says.
type rig struct {
	l2.Adapter
	t      testing.TB
	notice chan struct{}
	log    *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func open(t testing.TB, kind l2.Kind, config map[string]any) (*rig, error) {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := kind.Check(text); err != nil {
		return nil, err
	}
	r := &rig{t: t, notice: make(chan struct{}, 1), log: &logBuffer{}}
	r.Adapter, err = kind.New(text, l2.Env{Clock: clock.Real{}, Log: slog.New(slog.NewTextHandler(r.log, nil)), Notify: func() {
		select {
		case r.notice <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, nil
}

func mustOpen(t testing.TB, kind l2.Kind, config map[string]any) *rig {
	t.Helper()
	r, err := open(t, kind, config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *server) config(more ...any) map[string]any {
	c := map[string]any{"type": "resp", "host": "127.0.0.1", "port": json.Number(s.port)}
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}

// wait takes notices until done says yes.
func (r *rig) wait(what string, done func() bool) {
	r.t.Helper()
	end := time.After(30 * time.Second)
	for !done() {
		select {
		case <-r.notice:
		case <-end:
			r.t.Fatalf("%s: no result in 30 s\n%s", what, r.log)
		}
	}
}

func (r *rig) store(objects []l2.Object) l2.StoreResult {
	r.t.Helper()
	id := r.SubmitStore(objects)
	var res l2.StoreResult
	r.wait("store", func() bool {
		for _, s := range r.PopStores() {
			if s.ID == id {
				res = s
			}
		}
		return res.ID == id
	})
	return res
}

func (r *rig) lookup(keys ...kv.ObjectKey) string {
	r.t.Helper()
	id := r.SubmitLookup(keys)
	var bits kv.Bitmap
	r.wait("lookup", func() (ok bool) { bits, ok = r.QueryLookup(id); return ok })
	if _, again := r.QueryLookup(id); again {
		r.t.Error("a result is given twice")
	}
	return bits.String()
}

func (r *rig) load(objects []l2.Object) string {
	r.t.Helper()
	id := r.SubmitLoad(objects)
	var bits kv.Bitmap
	r.wait("load", func() (ok bool) { bits, ok = r.QueryLoad(id); return ok })
	return bits.String()
}

func key(n int) kv.ObjectKey {
	scope, _ := kv.InternScope("meta-llama/Llama-3.1-8B", "alice")
	k, _ := kv.NewObjectKey([]byte{byte(n >> 8), byte(n), 0xee}, scope, 0x02010201, 11)
	return k
}

func keys(ns ...int) (out []kv.ObjectKey) {
	for _, n := range ns {
		out = append(out, key(n))
	}
	return out
}

// object n of a size has bytes that no other object has.
func object(n, size int) l2.Object {
	b := make([]byte, size)
	rng := rand.New(rand.NewPCG(uint64(n), uint64(size)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return l2.Object{Key: key(n), Bytes: b}
}

func empty(n, size int) l2.Object { return l2.Object{Key: key(n), Bytes: make([]byte, size)} }

// variant is one way to a store.
type variant struct {
	name string
	open func(t testing.TB, more ...any) (*rig, func(args ...string) string)
}

var variants = []variant{
	{"resp", func(t testing.TB, more ...any) (*rig, func(...string) string) {
		s := newServer(t, redisPrograms)
		return mustOpen(t, resp.Kind, s.config(more...)), s.do
	}},
	{"valkey", func(t testing.TB, more ...any) (*rig, func(...string) string) {
		s := newServer(t, valkeyPrograms)
		return mustOpen(t, resp.Valkey, valkeyConfig([]*server{s}, more...)), s.do
	}},
	{"cluster", func(t testing.TB, more ...any) (*rig, func(...string) string) {
		nodes := newCluster(t)
		return mustOpen(t, resp.Valkey, valkeyConfig(nodes, append(more, "cluster_mode", true)...)),
			func(args ...string) string { // as redis-cli -c
				for _, n := range nodes {
					if answer := n.do(args...); !strings.HasPrefix(answer, "-MOVED") {
						return answer
					}
				}
				t.Fatalf("%v: no node has it", args)
				return ""
			}
	}},
}

func valkeyConfig(nodes []*server, more ...any) map[string]any {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.addr)
	}
	c := map[string]any{"type": "valkey", "startup_nodes": strings.Join(addrs, ", ")}
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}

func TestStoreLookupLoadDelete(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			r, do := v.open(t, "max_capacity_gb", 0.5)
			objects := []l2.Object{object(1, 1), object(2, 64<<10), object(3, 5<<20), object(4, 100)}
			const total = 1 + 64<<10 + 5<<20 + 100
			if got := r.store(objects); got.Err != nil || got.Keys != 4 || got.Bytes != total {
				t.Fatalf("store: %+v; want 4 keys, %d bytes", got, total)
			}
			if got := r.store(objects); got.Err != nil || got.Keys != 0 || got.Bytes != 0 {
				t.Errorf("store of what is there: %+v; want success, nothing new", got)
			}
			if got, want := r.Usage(), (l2.Usage{UsedBytes: total, CapacityBytes: 1 << 29}); got != want {
				t.Errorf("usage %+v; want %+v", got, want)
			}
			for _, o := range objects {
				if do("GET", o.Key.String()) != string(o.Bytes) {
					t.Errorf("the value of %v is not the object's bytes", o.Key)
				}
				if ttl := do("TTL", o.Key.String()); ttl != "-1" {
					t.Errorf("expires in %s s; want never", ttl)
				}
			}
			if got := r.lookup(key(1), key(9), key(3), key(2), key(4)); got != "10111" {
				t.Fatalf("lookup %s; want 10111", got)
			}
			into := []l2.Object{empty(3, 5<<20), empty(9, 7), empty(1, 1), empty(2, 64<<10), empty(4, 100)}
			if got := r.load(into); got != "10111" {
				t.Fatalf("load %s; want 10111", got)
			}
			for i, want := range map[int]int{0: 2, 2: 0, 3: 1, 4: 3} {
				if !bytes.Equal(into[i].Bytes, objects[want].Bytes) {
					t.Errorf("%v: other bytes come back", into[i].Key)
				}
			}
			r.Unlock(keys(1, 9, 3, 2, 4))
			if n := r.Delete(keys(1, 3, 9)); n != 2 || r.Usage().UsedBytes != total-1-5<<20 {
				t.Errorf("deleted %d, %d bytes left; want 2 and %d", n, r.Usage().UsedBytes, total-1-5<<20)
			}
			if got := r.lookup(keys(1, 2, 3, 4)...); got != "0101" {
				t.Errorf("lookup after delete %s; want 0101", got)
			}
			if log := r.log.String(); log != "" {
				t.Errorf("logged: %s", log)
			}
		})
	}
}

// A value of another size than the memory is a miss, whoever comes before or
// behind it in the pipeline, and a store puts it right.
func TestOtherSizes(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			r, do := v.open(t)
			const size = 1000
			var right, into []l2.Object
			want := ""
			for n := range 30 {
				right = append(right, object(n, size))
				into = append(into, empty(n, size))
				stored := string(right[n].Bytes)
				bit := "1"
				switch n % 5 {
				case 1:
					stored, bit = stored+"x", "0"
				case 2:
					stored, bit = stored[:size-1], "0"
				}
				if got := do("SET", key(n).String(), stored); got != "OK" {
					t.Fatal(got)
				}
				want += bit
			}
			do("LPUSH", key(30).String(), "not a string")
			into, want = append(into, empty(30, size)), want+"0"
			check := func(when string) {
				t.Helper()
				if got := r.load(into); got != want {
					t.Errorf("%s: load %s; want %s", when, got, want)
				}
				for n, o := range right {
					if want[n] == '1' && !bytes.Equal(into[n].Bytes, o.Bytes) {
						t.Errorf("%s: object %d has other bytes", when, n)
					}
				}
			}
			check("without a lookup")
			all := append(keys(30), key(0))
			if got := r.lookup(all...); got != "01" {
				t.Errorf("lookup of a list and a string: %s; want 01", got)
			}
			for n := range 30 {
				r.lookup(key(n))
			}
			clear(into[0].Bytes)
			check("after a lookup")

			right = append(right, object(30, size))
			if got := r.store(right); got.Err != nil || got.Keys != 13 || got.Bytes != 13*size {
				t.Errorf("store over wrong values: %+v; want 13 keys", got)
			}
			want = strings.Repeat("1", 31)
			check("after a store")
		})
	}
}

func TestLocks(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			r, _ := v.open(t)
			r.store([]l2.Object{object(1, 10), object(2, 10)})
			r.lookup(keys(1, 2)...)
			r.lookup(key(1))
			if n := r.Delete(keys(1, 2)); n != 0 {
				t.Errorf("%d locked keys deleted", n)
			}
			r.Unlock(keys(1, 2))
			if n := r.Delete(keys(1, 2)); n != 1 {
				t.Errorf("deleted %d; want the one that is unlocked", n)
			}
			r.Unlock(keys(1, 2)) // one too many for key 2
			r.lookup(key(1))
			r.Unlock(keys(1))
			if n := r.Delete(keys(1)); n != 1 || r.Usage().UsedBytes != 0 {
				t.Errorf("deleted %d, %d bytes used; want 1 and 0", n, r.Usage().UsedBytes)
			}
		})
	}
}

// What the store loses by itself leaves the accounting when we see it.
func TestStoreEvictsByItself(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	r := mustOpen(t, resp.Kind, s.config())
	r.store([]l2.Object{object(1, 10), object(2, 10), object(3, 10)})
	s.do("FLUSHALL")
	if got := r.lookup(key(1)); got != "0" || r.Usage().UsedBytes != 20 {
		t.Errorf("lookup %s, %d bytes used; want 0 and 20", got, r.Usage().UsedBytes)
	}
	if got := r.load([]l2.Object{empty(2, 10)}); got != "0" || r.Usage().UsedBytes != 10 {
		t.Errorf("load %s, %d bytes used; want 0 and 10", got, r.Usage().UsedBytes)
	}
	if n := r.Delete(keys(3)); n != 0 || r.Usage().UsedBytes != 0 {
		t.Errorf("deleted %d, %d bytes used; want 0 and 0", n, r.Usage().UsedBytes)
	}
}

func TestPrefixDatabaseAndTTL(t *testing.T) {
	t.Parallel()
	s := newServer(t, valkeyPrograms)
	r := mustOpen(t, resp.Valkey, valkeyConfig([]*server{s}, "key_prefix", "prod", "database_id", 3, "ttl_seconds", 100))
	r.store([]l2.Object{object(1, 10)})
	if got := s.do("DBSIZE"); got != "0" {
		t.Errorf("%s keys in database 0; want none", got)
	}
	s.do("SWAPDB", "0", "3")
	name := "prod@meta-llama/Llama-3.1-8B@02010201@b@0001ee@alice"
	if got := s.do("KEYS", "*"); got != name {
		t.Errorf("keys %q; want %q", got, name)
	}
	if got := s.do("TTL", name); got != "100" && got != "99" {
		t.Errorf("expires in %s s; want 100", got)
	}
	s.do("EXPIRE", name, "10")
	s.do("SWAPDB", "0", "3")
	if got := r.store([]l2.Object{object(1, 10)}); got.Err != nil || got.Keys != 0 {
		t.Errorf("store again: %+v", got)
	}
	s.do("SWAPDB", "0", "3")
	if got := s.do("TTL", name); got != "100" && got != "99" {
		t.Errorf("stored again, it expires in %s s; want 100", got)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms, "--requirepass", "s3cret", "--user", "kv", "on", ">pw2", "~*", "+@all")
	for _, c := range []struct {
		name string
		more []any
		want string // in the error
	}{
		{"none", nil, "NOAUTH"},
		{"wrong", []any{"password", "hunter2"}, "WRONGPASS"},
		{"wrong user", []any{"username", "nobody", "password", "s3cret"}, "WRONGPASS"},
		{"password", []any{"password", "s3cret"}, ""},
		{"user and password", []any{"username", "kv", "password", "pw2"}, ""},
	} {
		r, err := open(t, resp.Kind, s.config(c.more...))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "":
			if got := r.store([]l2.Object{object(1, 10)}); got.Err != nil {
				t.Errorf("%s: %v", c.name, got.Err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v; want %s", c.name, err, c.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the message has the password: %v", c.name, err)
		}
	}
}

func TestUnreachableAtStart(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	addr := "127.0.0.1:" + port
	for name, open := range map[string]func() (*rig, error){
		"resp": func() (*rig, error) {
			return open(t, resp.Kind, map[string]any{"host": "127.0.0.1", "port": json.Number(port)})
		},
		"valkey": func() (*rig, error) {
			return open(t, resp.Valkey, map[string]any{"startup_nodes": addr})
		},
		"cluster": func() (*rig, error) {
			return open(t, resp.Valkey, map[string]any{"startup_nodes": addr, "cluster_mode": true})
		},
	} {
		if _, err := open(); err == nil || !errors.Is(err, syscall.ECONNREFUSED) || strings.Count(err.Error(), addr) > 2 {
			t.Errorf("%s: %v; want that the connection to %s is refused", name, err, addr)
		}
	}
}

// A server that is killed while tasks run, and started again: every task has a
// result, what was loaded is right, the same adapter goes on, and the log has
// one line for the start of the outage and one for its end.
func TestKilledAndRestarted(t *testing.T) {
	t.Parallel()
	for _, persistent := range []bool{false, true} {
		t.Run(fmt.Sprint("persistent=", persistent), func(t *testing.T) {
			t.Parallel()
			var args []string
			if persistent {
				args = []string{"--appendonly", "yes", "--appendfsync", "no"}
			}
			s := newServer(t, redisPrograms, args...)
			r := mustOpen(t, resp.Kind, s.config("num_workers", 4))
			const size, tasks, each = 256 << 10, 12, 16
			var batches [tasks][]l2.Object
			for i := range batches {
				for j := range each {
					batches[i] = append(batches[i], object(i*each+j, size))
				}
			}
			if got := r.store(batches[0]); got.Err != nil {
				t.Fatal(got.Err)
			}
			// In flight: stores of new objects, loads of the first ones.
			stores, failed := map[l2.TaskID]bool{}, 0
			loads := map[l2.TaskID][]l2.Object{}
			for _, objects := range batches[1:] {
				stores[r.SubmitStore(objects)] = true
				var into []l2.Object
				for j := range each {
					into = append(into, empty(j, size))
				}
				loads[r.SubmitLoad(into)] = into
			}
			killed := false
			r.wait("tasks", func() bool {
				for _, res := range r.PopStores() {
					delete(stores, res.ID)
					if res.Err != nil {
						failed++
						if !errors.Is(res.Err, l2.ErrReported) {
							t.Errorf("an error that the log does not have: %v", res.Err)
						}
					}
				}
				for id, into := range loads {
					bits, ok := r.QueryLoad(id)
					if !ok {
						continue
					}
					delete(loads, id)
					for j := range into {
						if bits.Test(j) && !bytes.Equal(into[j].Bytes, batches[0][j].Bytes) {
							t.Errorf("object %d is said to be loaded and has other bytes", j)
						}
					}
				}
				if !killed && len(loads) < tasks-1 {
					killed = true
					s.kill()
				}
				return len(stores) == 0 && len(loads) == 0
			})
			if failed == 0 {
				t.Error("the server was killed and no store failed")
			}
			if got := r.lookup(key(0)); got != "0" {
				t.Errorf("lookup while it is down: %s", got)
			}
			if n := r.Delete(keys(0)); n != 0 {
				t.Errorf("delete while it is down: %d", n)
			}
			s.restart()
			eventually(t, "the adapter is back", func() bool { return r.store(batches[1]).Err == nil })
			if got := r.lookup(key(each)); got != "1" {
				t.Error("what was stored after the restart is not found")
			}
			want := strings.Repeat("0", each)
			if persistent {
				want = strings.Repeat("1", each)
			}
			into := []l2.Object{}
			for j := range each {
				into = append(into, empty(j, size))
			}
			if got := r.load(into); got != want {
				t.Errorf("load after the restart %s; want %s", got, want)
			}
			for _, line := range []string{"L2 store is down", "L2 store is back"} {
				if n := strings.Count(r.log.String(), line); n != 1 {
					t.Errorf("%d lines of %q; want one\n%s", n, line, r.log)
				}
			}
		})
	}
}

// A connection that the server cuts is no outage: the request is sent again.
func TestCutConnection(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			r, do := v.open(t, "num_workers", 1)
			r.store([]l2.Object{object(1, 10)})
			for range 20 {
				do("CLIENT", "KILL", "TYPE", "normal")
				if got := r.load([]l2.Object{empty(1, 10)}); got != "1" {
					t.Fatalf("load %s; want 1", got)
				}
			}
			if log := r.log.String(); log != "" {
				t.Errorf("logged: %s", log)
			}
		})
	}
}

// A store that takes no byte for the request timeout is down until it answers.
func TestStuckServer(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"single", "cluster"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			var nodes []*server
			if v == "single" {
				nodes = []*server{newServer(t, valkeyPrograms)}
			} else {
				nodes = newCluster(t)
			}
			r := mustOpen(t, resp.Valkey, valkeyConfig(nodes, "request_timeout", 0.2, "cluster_mode", v == "cluster"))
			var objects []l2.Object
			for n := range 8 {
				objects = append(objects, object(n, 1<<20))
			}
			if got := r.store(objects[:4]); got.Err != nil {
				t.Fatal(got.Err)
			}
			for _, n := range nodes {
				n.signal(syscall.SIGSTOP)
			}
			if got := r.load([]l2.Object{empty(0, 1<<20), empty(1, 1<<20)}); got != "00" {
				t.Errorf("load %s; want 00", got)
			}
			if got := r.store(objects); got.Err == nil {
				t.Error("a store succeeds")
			}
			if got := r.lookup(keys(0, 1, 2, 3, 4, 5, 6, 7)...); got != "00000000" {
				t.Errorf("lookup %s", got)
			}
			for _, n := range nodes {
				n.signal(syscall.SIGCONT)
			}
			eventually(t, "the adapter is back", func() bool { return r.store(objects).Err == nil })
			if got := r.lookup(keys(0, 1, 2, 3, 4, 5, 6, 7)...); got != "11111111" {
				t.Errorf("lookup %s; want all", got)
			}
			if v == "single" && strings.Count(r.log.String(), "L2 store is down") != 1 {
				t.Errorf("want one line about the outage\n%s", r.log)
			}
		})
	}
}

// Close ends what a stuck store holds up.
func TestCloseWhileStuck(t *testing.T) {
	t.Parallel()
	s := newServer(t, valkeyPrograms)
	r := mustOpen(t, resp.Valkey, valkeyConfig([]*server{s}, "request_timeout", 0.5, "num_workers", 3))
	s.signal(syscall.SIGSTOP)
	for n := range 100 {
		r.SubmitStore([]l2.Object{object(n, 64<<10)})
		r.SubmitLookup(keys(n))
		r.SubmitLoad([]l2.Object{empty(n, 64<<10)})
	}
	start := time.Now()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("Close took %v", d)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// Close waits for stores that are queued while the store takes them.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	r := mustOpen(t, resp.Kind, s.config("num_workers", 2))
	for n := range 200 {
		r.SubmitStore([]l2.Object{object(n, 10<<10)})
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got := s.do("DBSIZE"); got != "200" {
		t.Errorf("%s objects in the store; want 200", got)
	}
	id := r.SubmitLookup(keys(1))
	if bits, ok := r.QueryLookup(id); !ok || bits.Count() != 0 {
		t.Errorf("lookup after Close: %v, %t; want a miss at once", bits, ok)
	}
}

// A store that refuses is not down. It is one line in the log, whatever the
// number of tasks.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	r := mustOpen(t, resp.Kind, s.config())
	r.store([]l2.Object{object(1, 100)})
	s.do("CONFIG", "SET", "maxmemory", "1")
	for n := range 5 {
		got := r.store([]l2.Object{object(10+n, 100), object(1, 100)})
		if got.Err == nil || !strings.Contains(got.Err.Error(), "OOM") || !errors.Is(got.Err, l2.ErrReported) {
			t.Errorf("store into a full store: %v; want OOM", got.Err)
		}
	}
	if got := r.lookup(keys(1, 10)...); got != "10" {
		t.Errorf("lookup %s; want 10", got)
	}
	s.do("CONFIG", "SET", "maxmemory", "0")
	if got := r.store([]l2.Object{object(10, 100)}); got.Err != nil || got.Keys != 1 {
		t.Errorf("store with room again: %+v", got)
	}
	log := r.log.String()
	if strings.Count(log, "L2 store does not store") != 1 || strings.Count(log, "L2 store does store again") != 1 {
		t.Errorf("want one line for the start and one for the end\n%s", log)
	}
	if got := r.Usage().UsedBytes; got != 200 {
		t.Errorf("%d bytes used; want 200", got)
	}
}

// One node of a cluster that is gone takes its own keys with it, no others.
func TestClusterNodeKilled(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t)
	r := mustOpen(t, resp.Valkey, valkeyConfig(nodes, "cluster_mode", true))
	var objects []l2.Object
	var all []int
	for n := range 60 {
		objects, all = append(objects, object(n, 1000)), append(all, n)
	}
	if got := r.store(objects); got.Err != nil || got.Keys != 60 {
		t.Fatalf("store: %+v", got)
	}
	var lost int
	if _, err := fmt.Sscan(nodes[1].do("DBSIZE"), &lost); err != nil || lost == 0 {
		t.Fatalf("the second node has %d objects, %v", lost, err)
	}
	nodes[1].kill()
	if got := strings.Count(r.lookup(keys(all...)...), "1"); got != 60-lost {
		t.Errorf("%d keys found; want the %d of the nodes that live", got, 60-lost)
	}
	if got := r.store(objects); got.Err == nil {
		t.Error("a store to a cluster without a node succeeds")
	}
	nodes[1].restart()
	eventually(t, "the node is back", func() bool { return r.store(objects).Err == nil })
	if got := strings.Count(r.lookup(keys(all...)...), "1"); got != 60 {
		t.Errorf("%d keys found after the restart; want 60", got)
	}
}

// Slots that move take their keys along: the answer MOVED is followed.
func TestClusterSlotsMove(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t)
	r := mustOpen(t, resp.Valkey, valkeyConfig(nodes, "cluster_mode", true))
	var objects []l2.Object
	for n := range 20 {
		objects = append(objects, object(n, 5000))
	}
	r.store(objects)
	ids := make([]string, 3)
	for i, n := range nodes {
		ids[i] = n.do("CLUSTER", "MYID")
	}
	for _, o := range objects { // to the first node
		slot := nodes[0].do("CLUSTER", "KEYSLOT", o.Key.String())
		for i, from := range nodes[1:] {
			if from.do("GET", o.Key.String()) != string(o.Bytes) {
				continue
			}
			nodes[0].do("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[i+1])
			from.do("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[0])
			if got := from.do("MIGRATE", "127.0.0.1", nodes[0].port, o.Key.String(), "0", "5000"); got != "OK" {
				t.Fatal(got)
			}
			// ASK: half moved
			into := []l2.Object{empty(0, 5000)}
			into[0].Key = o.Key
			if got := r.load(into); got != "1" || !bytes.Equal(into[0].Bytes, o.Bytes) {
				t.Errorf("load of a key on its way: %s; want 1", got)
			}
			for _, n := range nodes {
				n.do("CLUSTER", "SETSLOT", slot, "NODE", ids[0])
			}
		}
	}
	for n, o := range objects {
		into := []l2.Object{empty(n, 5000)}
		if got := r.load(into); got != "1" || !bytes.Equal(into[0].Bytes, o.Bytes) {
			t.Errorf("object %d after the move: %s; want 1", n, got)
		}
	}
}

// TLS with the machine's roots: a server whose certificate they do not sign is
// refused.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	s := newServer(t, redisPrograms)
	tlsPort := freePort(t)
	s.kill()
	s.args = append(s.args, "--tls-port", tlsPort, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert,
		"--tls-auth-clients", "no")
	if !s.start() {
		t.Skip("this server has no TLS")
	}
	config := map[string]any{"startup_nodes": "127.0.0.1:" + tlsPort, "tls_enable": true}
	t.Setenv("SSL_CERT_FILE", cert) // read once, by the first check of a certificate
	r := mustOpen(t, resp.Valkey, config)
	o := object(1, 3<<20)
	if got := r.store([]l2.Object{o}); got.Err != nil {
		t.Fatal(got.Err)
	}
	into := []l2.Object{empty(1, 3<<20)}
	if got := r.load(into); got != "1" || !bytes.Equal(into[0].Bytes, o.Bytes) {
		t.Errorf("load %s; want 1", got)
	}
	s.kill()
	if got := r.lookup(keys(1)...); got != "0" {
		t.Errorf("lookup %s", got)
	}
	s.restart()
	eventually(t, "the adapter is back", func() bool { return r.store([]l2.Object{o}).Err == nil })

	config["startup_nodes"] = "localhost:" + tlsPort // a name that the certificate does not have
	if _, err := open(t, resp.Valkey, config); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate for another name: %v", err)
	}
	config["startup_nodes"] = s.addr // no TLS there
	config["connection_timeout"] = 0.3
	if _, err := open(t, resp.Valkey, config); err == nil {
		t.Error("TLS to a port without")
	}
}

// certificate writes a certificate for 127.0.0.1 that signs itself.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", bytes)
}

// Of several nodes that are no cluster the primary is taken.
func TestReplicaIsPassedOver(t *testing.T) {
	t.Parallel()
	primary := newServer(t, valkeyPrograms)
	replica := newServer(t, valkeyPrograms, "--replicaof", "127.0.0.1 "+primary.port)
	r := mustOpen(t, resp.Valkey, valkeyConfig([]*server{replica, primary}))
	if got := r.store([]l2.Object{object(1, 10)}); got.Err != nil || primary.do("DBSIZE") != "1" {
		t.Errorf("store: %+v", got)
	}
	if _, err := open(t, resp.Valkey, valkeyConfig([]*server{replica, replica})); err == nil || !strings.Contains(err.Error(), "is a replica") {
		t.Errorf("only replicas: %v", err)
	}
}

// The suite that every adapter runs.
func TestSuite(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	nodes := newCluster(t)
	for _, c := range []struct {
		name   string
		kind   l2.Kind
		config map[string]any
		nodes  []*server
	}{
		{"resp", resp.Kind, s.config(), []*server{s}},
		{"cluster", resp.Valkey, valkeyConfig(nodes, "cluster_mode", true, "num_workers", 3), nodes},
	} {
		config, err := json.Marshal(c.config)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(c.name, func(t *testing.T) {
			l2test.Run(t, l2test.Subject{New: func(t *testing.T) l2test.Open {
				for _, n := range c.nodes {
					n.do("FLUSHALL")
				}
				return func(env l2.Env) (l2.Adapter, error) { return c.kind.New(config, env) }
			}})
		})
	}
}

// Many tasks of all kinds from many goroutines.
func TestConcurrentTasks(t *testing.T) {
	t.Parallel()
	s := newServer(t, redisPrograms)
	r := mustOpen(t, resp.Kind, s.config())
	var notes sync.Map // results by task
	waitFor := func(id l2.TaskID) any {
		end := time.Now().Add(30 * time.Second)
		for time.Now().Before(end) {
			for _, res := range r.PopStores() {
				notes.Store(res.ID, res)
			}
			if v, ok := notes.LoadAndDelete(id); ok {
				return v
			}
			if b, ok := r.QueryLookup(id); ok {
				return b
			}
			if b, ok := r.QueryLoad(id); ok {
				return b
			}
			select {
			case <-r.notice:
				select { // others wait too
				case r.notice <- struct{}{}:
				default:
				}
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				n := g*100 + i
				o := object(n, 3000+n)
				if res, ok := waitFor(r.SubmitStore([]l2.Object{o})).(l2.StoreResult); !ok || res.Err != nil || res.Keys != 1 {
					t.Errorf("store %d: %+v", n, res)
				}
				if b, ok := waitFor(r.SubmitLookup(keys(n))).(kv.Bitmap); !ok || b.Count() != 1 {
					t.Errorf("lookup %d: %v", n, b)
				}
				into := []l2.Object{empty(n, 3000+n)}
				if b, ok := waitFor(r.SubmitLoad(into)).(kv.Bitmap); !ok || b.Count() != 1 || !bytes.Equal(into[0].Bytes, o.Bytes) {
					t.Errorf("load %d: %v", n, b)
				}
				r.Unlock(keys(n))
				if i%2 == 0 && r.Delete(keys(n)) != 1 {
					t.Errorf("delete %d", n)
				}
			}
		})
	}
	wg.Wait()
	if got := s.do("DBSIZE"); got != "80" {
		t.Errorf("%s objects left; want 80", got)
	}
}
