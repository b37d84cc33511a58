package s3_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/s3"
)

// faulty answers as a store does when something is wrong, which a real one
// cannot be made to do. All else is tested with a real one.
type faulty struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method and path, without New's question
}

// newFaulty serves answer. New's question for .lmcache is answered with 404.
func newFaulty(t testing.TB, answer http.HandlerFunc) *faulty {
	f := &faulty{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/.lmcache") {
			fail(w, 404, "NoSuchKey")
			return
		}
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.RequestURI)
		f.mu.Unlock()
		w.Header().Set("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT") // as every store says
		answer(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// count returns how many requests had a method.
func (f *faulty) count(method string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if strings.HasPrefix(r, method+" ") {
			n++
		}
	}
	return n
}

func (f *faulty) rig(t testing.TB, more map[string]any) *l2test.Rig {
	t.Helper()
	return l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
		return s3.New(configOf(f.Listener.Addr().String(), "bucket", more), env)
	}, false)
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s, as the test wants it</Message></Error>", code, code)
}

func crc(b []byte) string {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

func serve(w http.ResponseWriter, b []byte) {
	w.Header().Set("x-amz-checksum-crc32c", crc(b))
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

// hangUp sends b as the beginning of a body of n bytes and closes the connection.
func hangUp(w http.ResponseWriter, b []byte, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(b)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// stall sends b as the beginning of a body of n bytes, and no more until the
// client gives up.
func stall(w http.ResponseWriter, r *http.Request, b []byte, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(b)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// Each case answers the GETs of one object; the n-th is asked for with n from 1.
func TestLoadFaults(t *testing.T) {
	object := l2test.Object(l2test.Key(t, 1, "m", ""), 300_000)
	b := object.Bytes
	good := func(w http.ResponseWriter) { serve(w, b) }
	for _, c := range []struct {
		name   string
		answer func(n int, w http.ResponseWriter, r *http.Request)
		gets   int // 0: any number
		want   bool
	}{
		{"slow down twice", func(n int, w http.ResponseWriter, r *http.Request) {
			if n < 3 {
				fail(w, 503, "SlowDown")
				return
			}
			good(w)
		}, 3, true},
		{"500 without words", func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				w.WriteHeader(500)
				return
			}
			good(w)
		}, 2, true},
		{"truncated twice", func(n int, w http.ResponseWriter, r *http.Request) {
			if n < 3 {
				hangUp(w, b[:100_000*n], len(b))
			}
			good(w)
		}, 3, true},
		{"truncated always", func(n int, w http.ResponseWriter, r *http.Request) { hangUp(w, b[:len(b)-1], len(b)) }, 0, false},
		{"stalls once", func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				stall(w, r, b[:1000], len(b))
				return
			}
			good(w)
		}, 2, true},
		{"stalls before the answer", func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				<-r.Context().Done()
				return
			}
			good(w)
		}, 2, true},
		{"stalls always", func(n int, w http.ResponseWriter, r *http.Request) { stall(w, r, b[:1000], len(b)) }, 0, false},
		{"shorter", func(n int, w http.ResponseWriter, r *http.Request) { serve(w, b[:len(b)-1]) }, 1, false},
		{"longer", func(n int, w http.ResponseWriter, r *http.Request) { serve(w, append(bytes.Clone(b), 0)) }, 1, false},
		{"empty", func(n int, w http.ResponseWriter, r *http.Request) { serve(w, nil) }, 1, false},
		{"without a length", func(n int, w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(b)
		}, 1, true},
		{"without a length, longer", func(n int, w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(bytes.Clone(b), 0))
		}, 1, false},
		{"without a length, shorter", func(n int, w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(b[1:])
		}, 0, false},
		{"another checksum", func(n int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-amz-checksum-crc32c", crc(b[1:]))
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = w.Write(b)
		}, 1, false},
		{"403", func(n int, w http.ResponseWriter, r *http.Request) { fail(w, 403, "AccessDenied") }, 1, false},
		{"404", func(n int, w http.ResponseWriter, r *http.Request) { fail(w, 404, "NoSuchKey") }, 1, false},
		{"no HTTP", func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					_, _ = conn.Write([]byte("what?\r\n\r\n"))
					conn.Close()
				}
				return
			}
			good(w)
		}, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					c.answer(int(n.Add(1)), w, r)
				}
			})
			r := f.rig(t, map[string]any{"s3_timeout_s": 1.2})
			var c0 clock.Real
			begin := c0.Now()
			into := l2test.Blank(object)
			loaded := r.Load(into...)
			if loaded.Test(0) != c.want {
				t.Errorf("loaded: %t; want %t", loaded.Test(0), c.want)
			}
			if loaded.Test(0) && !bytes.Equal(into[0].Bytes, b) {
				t.Error("other bytes than the store's")
			}
			if got := f.count("GET"); c.gets != 0 && got != c.gets || c.gets == 0 && got < 2 {
				t.Errorf("%d requests; want %d (0: several)", got, c.gets)
			}
			if took := time.Duration(c0.Now() - begin); took > 5*time.Second {
				t.Errorf("took %v with a timeout of 1.2 s", took)
			}
			if deleted := f.count("POST"); deleted != 0 != (c.name == "another checksum") {
				t.Errorf("%d deletions", deleted)
			}
		})
	}
}

func TestStoreFaults(t *testing.T) {
	object := l2test.Object(l2test.Key(t, 1, "m", ""), 300_000)
	for _, c := range []struct {
		name   string
		answer func(n int, w http.ResponseWriter, r *http.Request)
		puts   int // 0: any number
		want   string
	}{
		{"slow down twice", func(n int, w http.ResponseWriter, r *http.Request) {
			if n < 3 {
				fail(w, 503, "SlowDown")
			}
		}, 3, ""},
		{"closed after the headers", func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
		}, 2, ""},
		{"refused", func(n int, w http.ResponseWriter, r *http.Request) { fail(w, 403, "AccessDenied") }, 1, "AccessDenied, as the test wants it"},
		{"stalls", func(n int, w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "given up after"},
		{"quota", func(n int, w http.ResponseWriter, r *http.Request) { fail(w, 507, "InsufficientStorage") }, 1, "InsufficientStorage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			var got []byte
			var sum string
			f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					w.WriteHeader(404)
					return
				}
				if body, err := io.ReadAll(r.Body); err == nil && c.want == "" {
					got, sum = body, r.Header.Get("x-amz-checksum-crc32c")
				}
				c.answer(int(n.Add(1)), w, r)
			})
			r := f.rig(t, map[string]any{"s3_timeout_s": 1.2})
			res := r.Store(object)
			clear(object.Bytes[:0]) // nobody reads them now; the race detector watches
			switch {
			case c.want == "" && (res.Err != nil || res.Keys != 1 || res.Bytes != 300_000):
				t.Errorf("store: %+v", res)
			case c.want == "" && (!bytes.Equal(got, object.Bytes) || sum != crc(object.Bytes)):
				t.Error("the store got other bytes, or another checksum")
			case c.want != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), c.want) || res.Keys != 0):
				t.Errorf("store: %+v; want an error with %q", res, c.want)
			}
			if got := f.count("PUT"); c.puts != 0 && got != c.puts {
				t.Errorf("%d requests; want %d", got, c.puts)
			}
			if found := r.Lookup(object.Key); found.Count() == 1 != (c.want == "") {
				t.Errorf("found after that: %v", found)
			}
		})
	}
}

// A user that may not list a bucket gets 403 for what is not there.
func TestForbiddenToAskIsAMiss(t *testing.T) {
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(403)
		}
	})
	r := f.rig(t, nil)
	object := l2test.Object(l2test.Key(t, 1, "m", ""), 1000)
	if found := r.Lookup(object.Key); found.Count() != 0 {
		t.Error("found")
	}
	r.MustStore(object)
	if found := r.Lookup(object.Key); found.Count() != 1 {
		t.Error("not found after it was stored")
	}
}

// What a lookup has just missed is stored with one request, else with two.
func TestStoreAsksOnce(t *testing.T) {
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(404)
		}
	})
	r := f.rig(t, nil)
	a, b := l2test.Object(l2test.Key(t, 1, "m", ""), 1000), l2test.Object(l2test.Key(t, 2, "m", ""), 1000)
	r.Lookup(a.Key)
	r.MustStore(a)
	if f.count("HEAD") != 1 || f.count("PUT") != 1 {
		t.Errorf("%q; want HEAD and PUT", f.requests)
	}
	r.MustStore(b)
	if f.count("HEAD") != 2 || f.count("PUT") != 2 {
		t.Errorf("%q; want HEAD and PUT twice", f.requests)
	}
	if found := r.Lookup(a.Key, b.Key); found.Count() != 2 || f.count("HEAD") != 2 {
		t.Errorf("found %v with %d requests; want both, without another", found, f.count("HEAD"))
	}
}

// The names of the reference, as they go over the wire.
//
// Source: reference storage-manager.md, section 8.3.
func TestNamesOnTheWire(t *testing.T) {
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) })
	r := f.rig(t, nil)
	key := l2test.Key(t, 0, "meta-llama/Llama-3.1-8B", "")
	key.Rank, key.Group = kv.PackRank(2, 1, 2, 1), 11
	key, _ = kv.NewObjectKey([]byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"), key.Scope, key.Rank, key.Group)
	salted := key
	salted.Scope = l2test.Key(t, 0, "meta-llama/Llama-3.1-8B", "alice").Scope
	r.Lookup(key)
	r.Lookup(salted)
	const want = "HEAD /bucket/meta-llama/Llama-3.1-8B%4002010201%40b%4000112233445566778899aabbccddeeff"
	if len(f.requests) != 2 || f.requests[0] != want || f.requests[1] != want+"%40alice" {
		t.Errorf("got %q; want %s, and the same with %%40alice", f.requests, want)
	}
}

// A store that does not know DeleteObjects gets one request a key.
func TestDeleteOneByOne(t *testing.T) {
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			fail(w, 501, "NotImplemented")
		case http.MethodDelete:
			w.WriteHeader(204)
		case http.MethodHead:
			w.WriteHeader(404)
		}
	})
	r := f.rig(t, nil)
	objects := []l2.Object{l2test.Object(l2test.Key(t, 1, "m", ""), 10), l2test.Object(l2test.Key(t, 2, "m", ""), 10), l2test.Object(l2test.Key(t, 3, "m", ""), 10)}
	r.MustStore(objects...)
	if n := r.Delete(l2test.Keys(objects[:2]...)); n != 2 {
		t.Errorf("deleted %d; want 2", n)
	}
	if n := r.Delete(l2test.Keys(objects[2])); n != 1 || f.count("POST") != 1 {
		t.Errorf("deleted %d, asked %d times for what the store does not know; want once each", n, f.count("POST"))
	}
}

// What the store refuses to delete is still there, and counted.
func TestDeleteRefused(t *testing.T) {
	a, b := l2test.Object(l2test.Key(t, 1, "m", ""), 10), l2test.Object(l2test.Key(t, 2, "m", ""), 20)
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			fmt.Fprintf(w, "<DeleteResult><Error><Key>%s</Key><Code>AccessDenied</Code></Error><Deleted><Key>%s</Key></Deleted></DeleteResult>", a.Key, b.Key)
		case http.MethodHead:
			w.WriteHeader(404)
		}
	})
	r := f.rig(t, nil)
	r.MustStore(a, b)
	if n := r.Delete(l2test.Keys(a, b)); n != 1 || r.Usage().UsedBytes != 10 {
		t.Errorf("deleted %d, %d bytes used; want 1 and 10", n, r.Usage().UsedBytes)
	}
	if found := r.Lookup(a.Key); found.Count() != 1 {
		t.Error("what was not deleted is not found")
	}
}

// gate holds requests until it is opened, and says how many it held at most.
type gate struct {
	mu        sync.Mutex
	now, most int
	arrived   chan struct{} // one value a request
	open      chan struct{}
}

func newGate() *gate { return &gate{arrived: make(chan struct{}, 1000), open: make(chan struct{})} }

func (g *gate) pass() {
	g.mu.Lock()
	g.now++
	g.most = max(g.most, g.now)
	g.mu.Unlock()
	g.arrived <- struct{}{}
	<-g.open
	g.mu.Lock()
	g.now--
	g.mu.Unlock()
}

// Never more requests than threads; stores leave a quarter to those who wait for
// a load, and a load does not wait for the stores before it.
func TestRequestsAreBounded(t *testing.T) {
	puts, gets := newGate(), newGate()
	objects := make([]l2.Object, 40)
	for i := range objects {
		objects[i] = l2test.Object(l2test.Key(t, i, "m", ""), 5000)
	}
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodHead:
			w.WriteHeader(404)
		case http.MethodPut:
			puts.pass()
		case http.MethodGet:
			gets.pass()
			fail(w, 404, "NoSuchKey")
		}
	})
	r := f.rig(t, map[string]any{"s3_num_io_threads": 8})
	stores := r.SubmitStore(objects)
	for range 6 {
		<-puts.arrived
	}
	loads := r.SubmitLoad(l2test.Blank(objects...))
	for range 2 {
		<-gets.arrived
	}
	close(gets.open)
	r.Until("load while all stores are held", func() bool { _, ok := r.QueryLoad(loads); return ok })
	close(puts.open)
	if res := r.AwaitStore(stores); res.Err != nil || res.Keys != 40 {
		t.Errorf("store: %+v", res)
	}
	if puts.most != 6 || gets.most != 2 {
		t.Errorf("%d stores and %d loads at once; want 6 and 2 of 8", puts.most, gets.most)
	}
}

// Not more bytes than the bound move at once, but one object always does.
func TestBytesInFlightAreBounded(t *testing.T) {
	gets := newGate()
	objects := make([]l2.Object, 12)
	for i := range objects {
		objects[i] = l2test.Object(l2test.Key(t, i, "m", ""), 40_000+i%2*100_000)
	}
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		gets.pass()
		fail(w, 404, "NoSuchKey")
	})
	r := f.rig(t, nil)
	s3.SetMaxMoving(r.Adapter, 100_000)
	id := r.SubmitLoad(objects)
	<-gets.arrived
	if got := s3.Moving(r.Adapter); got != 40_000 { // 40,000, then one that does not fit beside it
		t.Errorf("%d bytes move; want 40000", got)
	}
	close(gets.open)
	r.Until("load", func() bool { _, ok := r.QueryLoad(id); return ok })
	if got := s3.Moving(r.Adapter); got != 0 || gets.most > 2 {
		t.Errorf("%d bytes move at the end, %d requests at once at most; want 0 and 2", got, gets.most)
	}
}

// Close ends what hangs, lets what goes on go on for a while, and afterwards
// nobody looks at the objects.
func TestCloseIsBounded(t *testing.T) {
	held := newGate()
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(404)
			return
		}
		held.arrived <- struct{}{}
		<-held.open // the body is not read
	})
	t.Cleanup(func() { close(held.open) }) // before the server ends
	r := f.rig(t, nil)
	s3.SetGrace(r.Adapter, 200*time.Millisecond)
	objects := make([]l2.Object, 200)
	big := make([]byte, 4<<20)
	_, _ = rand.Read(big)
	for i := range objects {
		objects[i] = l2.Object{Key: l2test.Key(t, i, "m", ""), Bytes: big}
	}
	r.SubmitStore(objects)
	r.SubmitLoad([]l2.Object{{Key: objects[0].Key, Bytes: make([]byte, 100)}})
	for range 10 {
		<-held.arrived
	}
	var c clock.Real
	begin := c.Now()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Duration(c.Now() - begin); took > 3*time.Second {
		t.Errorf("Close took %v with a grace of 0.2 s", took)
	}
	clear(big)
}

// HTTPS with a certificate that only the given file vouches for, with HTTP/2 and
// without it.
func TestTLS(t *testing.T) {
	object := l2test.Object(l2test.Key(t, 1, "m", ""), 100_000)
	var proto atomic.Int64
	f := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
		proto.Store(int64(r.ProtoMajor))
		serve(w, object.Bytes)
	}))
	f.EnableHTTP2 = true
	f.StartTLS()
	t.Cleanup(f.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for http2, want := range map[bool]int64{true: 2, false: 1} {
		r := l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
			return s3.New(configOf(f.Listener.Addr().String(), "bucket",
				map[string]any{"disable_tls": false, "s3_ca_bundle": ca, "s3_prefer_http2": http2}), env)
		}, false)
		r.MustLoad(object)
		if got := proto.Load(); got != want {
			t.Errorf("s3_prefer_http2 %t: HTTP/%d", http2, got)
		}
	}
	for more, want := range map[string]string{"": "certificate", "nothing.pem": "no such file", "empty.pem": "has no PEM certificate"} {
		fields := map[string]any{"disable_tls": false}
		if more != "" {
			fields["s3_ca_bundle"] = filepath.Join(t.TempDir(), more)
		}
		if more == "empty.pem" {
			if err := os.WriteFile(fields["s3_ca_bundle"].(string), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s3.New(configOf(f.Listener.Addr().String(), "bucket", fields), l2.Env{Clock: clock.Real{}, Notify: func() {}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bundle %q: %v; want an error with %q", more, err, want)
		}
	}
}
