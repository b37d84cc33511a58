package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/s3"
)

// relay passes connections on to a server. When so many bytes have come back it
// holds all of them, so that a test can act in the middle of an answer.
type relay struct {
	net.Listener
	to      string
	reached chan struct{} // closed when it holds
	resume  chan struct{} // close it to go on
	all     sync.WaitGroup

	mu     sync.Mutex
	left   int64 // bytes until it holds
	dialed int   // connections so far
}

func newRelay(t testing.TB, to string, hold int64) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to, left: hold, reached: make(chan struct{}), resume: make(chan struct{})}
	r.all.Add(1)
	go func() {
		defer r.all.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.dialed++
			r.mu.Unlock()
			r.all.Add(1)
			go r.pass(c)
		}
	}()
	t.Cleanup(func() { l.Close(); r.all.Wait() })
	return r
}

func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dialed
}

func (r *relay) pass(c net.Conn) {
	defer r.all.Done()
	defer c.Close()
	s, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer s.Close()
	r.all.Add(1)
	go func() {
		defer r.all.Done()
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	_, _ = io.Copy(c, readerFunc(func(b []byte) (int, error) {
		n, err := s.Read(b)
		r.mu.Lock()
		before := r.left
		r.left -= int64(n)
		if before > 0 && r.left <= 0 {
			close(r.reached)
		}
		hold := r.left <= 0
		r.mu.Unlock()
		if hold {
			<-r.resume
		}
		return n, err
	}))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func many(t testing.TB, n, size int) []l2.Object {
	out := make([]l2.Object, n)
	for i := range out {
		out[i] = l2test.Object(l2test.Key(t, i, "org/model", "tenant"), size)
	}
	return out
}

// A server that is killed while it sends, and comes back, costs time and no
// object.
func TestServerRestartsInMidLoad(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	objects := many(t, 60, 500_000)
	l2test.NewRig(t, false, g.open(bucket, nil), false).MustStore(objects...)

	way := newRelay(t, g.addr, 10_300_000)
	r := l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
		return s3.New(configOf(way.Addr().String(), bucket, map[string]any{"s3_num_io_threads": 8}), env)
	}, false)
	into := l2test.Blank(objects...)
	id := r.SubmitLoad(into)
	<-way.reached
	g.kill()
	close(way.resume)
	g.start(t)
	r.Until("load", func() bool {
		loaded, ok := r.QueryLoad(id)
		if ok && loaded.Count() != len(objects) {
			t.Errorf("loaded %v; want all", loaded)
		}
		return ok
	})
	for i := range objects {
		if !bytes.Equal(into[i].Bytes, objects[i].Bytes) {
			t.Fatalf("object %d: other bytes than were stored", i)
		}
	}
}

func TestServerRestartsInMidStore(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	way := newRelay(t, g.addr, 6000)
	r := l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
		return s3.New(configOf(way.Addr().String(), bucket, map[string]any{"s3_num_io_threads": 4}), env)
	}, false)
	objects := many(t, 40, 300_000)
	id := r.SubmitStore(objects)
	<-way.reached
	g.kill()
	close(way.resume)
	g.start(t)
	if res := r.AwaitStore(id); res.Err != nil || res.Keys != len(objects) && res.Keys != len(objects)-4 {
		// A PUT that was answered to nobody is found again, and not counted.
		t.Errorf("store: %+v; want %d keys, or a few less", res, len(objects))
	}
	r.MustLoad(objects...)
	if got := g.objects(t, bucket); len(got) != len(objects) {
		t.Errorf("the bucket has %d objects; want %d", len(got), len(objects))
	}
}

// A store that stays away costs a bounded time once, then none, until it is back.
func TestServerGoneAndBack(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	way := newRelay(t, g.addr, 1<<60)
	var log logged
	r := l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
		env.Log = log.logger()
		return s3.New(configOf(way.Addr().String(), bucket, map[string]any{
			"s3_breaker_initial_cooldown_s": 0.2, "s3_breaker_max_cooldown_s": 1}), env)
	}, false)
	objects := many(t, 30, 10_000)
	r.MustStore(objects[:20]...)
	g.kill()
	var c clock.Real
	begin := c.Now()
	if loaded := r.Load(l2test.Blank(objects...)...); loaded.Count() != 0 {
		t.Errorf("loaded %v from a store that is gone", loaded)
	}
	if took := time.Duration(c.Now() - begin); took > 10*time.Second {
		t.Errorf("it took %v to find out that the store is gone", took)
	}
	// The breaker is open, or lets one request through now and then.
	before := way.connections()
	for range 20 {
		if found := r.Lookup(l2test.Keys(objects...)...); found.Count() != 0 {
			t.Fatalf("found %v", found)
		}
		if res := r.Store(objects[20:]...); res.Err == nil || !strings.Contains(res.Err.Error(), "10 of 10 objects are not stored") || !errors.Is(res.Err, l2.ErrReported) {
			t.Fatalf("store: %+v", res)
		}
		if n := r.Delete(l2test.Keys(objects...)); n != 0 {
			t.Fatalf("deleted %d", n)
		}
	}
	if got := way.connections() - before; got > 20 {
		t.Errorf("%d connections for 600 lookups and 200 stores while the store is away; want a few", got)
	}
	g.start(t)
	for begin := c.Now(); r.Peek(l2test.Keys(objects...)...).Count() != 20; {
		if c.Now()-begin > int64(20*time.Second) {
			t.Fatal("the store is back, and nothing is found")
		}
	}
	r.MustLoad(objects[:20]...)
	r.MustStore(objects[20:]...)
	if got := r.Usage().UsedBytes; got != 30*10_000 {
		t.Errorf("%d bytes used; want 300000", got)
	}
	if down, up := log.count("does not answer"), log.count("answers again"); down != 1 || up != 1 {
		t.Errorf("%d and %d lines about the outage and its end; want one each:\n%s", down, up, &log.text)
	}
}

func TestStartErrors(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, c := range []struct {
		name string
		more map[string]any
		want string
	}{
		{"no bucket", map[string]any{"s3_bucket": "elsewhere"}, "bucket 'elsewhere' at " + g.addr + ": The specified bucket does not exist"},
		{"secret", map[string]any{"aws_secret_access_key": "guess"}, "signature we calculated does not match"},
		{"user", map[string]any{"aws_access_key_id": "guess"}, "bucket '" + bucket + "' at " + g.addr + ": "},
		{"region", map[string]any{"s3_region": "us-west-1"}, "region"},
		{"TLS", map[string]any{"disable_tls": false}, "server gave HTTP response to HTTPS client"},
		{"unreachable", map[string]any{"s3_endpoint": nobody}, "connection refused"},
		{"name", map[string]any{"s3_endpoint": "no-such-host.invalid:80"}, "no-such-host.invalid"},
	} {
		a, err := s3.New(g.config(bucket, c.more), l2.Env{Clock: clock.Real{}, Notify: func() {}})
		if err == nil {
			a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: %v; want one line with %q", c.name, err, c.want)
		}
	}
}

// Credentials of the environment; and a bucket that everybody may read.
func TestCredentials(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	object := many(t, 1, 1000)[0]
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	r := l2test.NewRig(t, false, g.open(bucket, map[string]any{"aws_access_key_id": nil, "aws_secret_access_key": nil}), false)
	r.MustStore(object)
	policy := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
		"Resource": "arn:aws:s3:::` + bucket + `/*"}]}`
	if err := g.client(t).SetBucketPolicy(t.Context(), bucket, policy); err != nil {
		t.Fatal(err)
	}
	r = l2test.NewRig(t, false, g.open(bucket, map[string]any{"aws_access_key_id": "", "aws_secret_access_key": ""}), false)
	r.MustLoad(object)
	if res := r.Store(many(t, 2, 1000)...); res.Err == nil || !strings.Contains(res.Err.Error(), "1 of 2 objects are not stored") {
		t.Errorf("store by somebody who may only read: %+v", res)
	}
}

// The bucket in the host name.
func TestVirtualHost(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	s3.LeadTo(t, g.addr)
	r := l2test.NewRig(t, false, g.open(bucket, map[string]any{
		"s3_endpoint": "s3://" + bucket + ".s3.test", "s3_addressing_style": "virtual", "s3_bucket": nil}), false)
	objects := many(t, 3, 20_000)
	r.MustStore(objects...)
	r.MustLoad(objects...)
	if n := r.Delete(l2test.Keys(objects[:2]...)); n != 2 {
		t.Errorf("deleted %d; want 2", n)
	}
	if got, want := g.objects(t, bucket), []string{objects[2].Key.String()}; !slices.Equal(got, want) {
		t.Errorf("the bucket has %q; want %q", got, want)
	}
}

// What others do to the bucket: wrong sizes and damage are misses, found out
// and repaired by the next store; what is gone is no longer counted.
func TestOthersInTheBucket(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	client := g.client(t)
	objects := many(t, 4, 30_000)
	r := l2test.NewRig(t, false, g.open(bucket, nil), false)
	r.MustStore(objects...)
	shorter := objects[0].Bytes[:29_999]
	if _, err := client.PutObject(t.Context(), bucket, objects[0].Key.String(), bytes.NewReader(shorter), 29_999, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.RemoveObject(t.Context(), bucket, objects[1].Key.String(), minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.dir, bucket, objects[2].Key.String())
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{^objects[2].Bytes[17_000]}, 17_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if loaded := r.Load(l2test.Blank(objects...)...); loaded.String() != "0001" {
		t.Errorf("loaded %v; want 0001: shorter, gone, damaged, whole", loaded)
	}
	if got := r.Usage().UsedBytes; got != 29_999+30_000 {
		t.Errorf("%d bytes used; want 59999", got)
	}
	if res := r.Store(objects...); res.Err != nil || res.Keys != 3 {
		t.Errorf("store: %+v; want 3 keys written", res)
	}
	r.MustLoad(objects...)
}

// Usage and locks of what another process has stored.
func TestSharedBucket(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	objects := many(t, 5, 7000)
	writer := l2test.NewRig(t, false, g.open(bucket, map[string]any{"max_capacity_gb": 0.5}), false)
	reader := l2test.NewRig(t, false, g.open(bucket, nil), false)
	writer.MustStore(objects[:4]...)
	if got := writer.Usage(); got.UsedBytes != 28_000 || got.CapacityBytes != 1<<29 {
		t.Errorf("usage %+v; want 28000 bytes of 512 MiB", got)
	}
	if got := reader.Usage().UsedBytes; got != 0 {
		t.Errorf("%d bytes used, of which this process cannot know", got)
	}
	if found := reader.Lookup(l2test.Keys(objects...)...); found.String() != "11110" {
		t.Errorf("found %v; want 11110", found)
	}
	if got := reader.Usage(); got.UsedBytes != 28_000 || got.CapacityBytes != 0 {
		t.Errorf("usage %+v; want 28000 bytes of no limit", got)
	}
	if n := reader.Delete(l2test.Keys(objects...)); n != 0 {
		t.Errorf("deleted %d locked objects", n)
	}
	reader.Unlock(l2test.Keys(objects[:3]...))
	if n := reader.Delete(l2test.Keys(objects...)); n != 3 {
		t.Errorf("deleted %d; want the 3 whose locks were taken back", n)
	}
	if loaded := writer.Load(l2test.Blank(objects...)...); loaded.String() != "00010" {
		t.Errorf("loaded %v; want 00010", loaded)
	}
	if got := writer.Usage().UsedBytes; got != 7000 {
		t.Errorf("%d bytes used after the misses; want 7000", got)
	}
}

// More keys than one deletion may name.
func TestDeleteManyKeys(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	r := l2test.NewRig(t, false, g.open(bucket, nil), false)
	objects := many(t, 1100, 16)
	r.MustStore(objects...)
	if n := r.Delete(l2test.Keys(objects...)); n != len(objects) || r.Usage().UsedBytes != 0 {
		t.Errorf("deleted %d, %d bytes left; want %d and 0", n, r.Usage().UsedBytes, len(objects))
	}
	if got := g.objects(t, bucket); len(got) != 0 {
		t.Errorf("%d objects are left", len(got))
	}
}
