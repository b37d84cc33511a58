package s3_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/l2test"
	"github.com/lmcache/lmcache-go/l2/s3"
	"github.com/lmcache/lmcache-go/sm"
)

// The storage manager keeps a bucket below its watermark.
func TestEviction(t *testing.T) {
	g := newGateway(t)
	bucket := g.bucket(t)
	const size = 64 << 10
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 4<<20, "LRU"
	cfg.L2Adapters = []string{string(g.config(bucket, map[string]any{
		"max_capacity_gb": 10.0 * size / (1 << 30),
		"eviction":        map[string]any{"eviction_policy": "LRU", "trigger_watermark": 0.8, "eviction_ratio": 0.3}}))}
	clk := clock.NewVirtual(0)
	open := func() *sm.Manager {
		m, err := sm.New(cfg, sm.Options{Clock: clk, Adapters: l2.Registry{"s3": s3.Kind}, ManualEviction: true})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	defer func() { m.Close() }()
	dtype, _ := kv.ParseDType("uint8")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{size}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		t.Fatal(err)
	}
	keys := l2test.Keys(many(t, 10, 1)...)
	for _, k := range keys { // one at a time: the first is the coldest
		if _, err := m.ReserveWrite([]kv.ObjectKey{k}, layout, kv.ModeNew); err != nil {
			t.Fatal(err)
		}
		m.FinishWrite([]kv.ObjectKey{k})
		clk.Settle()
	}
	if got := m.L2Usage()[0].UsedBytes; got != 10*size {
		t.Fatalf("%d bytes used; want ten objects", got)
	}
	if n := m.EvictL2Once(); n != 3 || m.L2Usage()[0].UsedBytes != 7*size {
		t.Errorf("%d keys went, %d bytes are used; want 3 and seven objects", n, m.L2Usage()[0].UsedBytes)
	}
	var want []string
	for _, k := range keys[3:] {
		want = append(want, k.String())
	}
	slices.Sort(want)
	if got := g.objects(t, bucket); !slices.Equal(got, want) {
		t.Errorf("the bucket has %q; want %q", got, want)
	}
	if n := m.EvictL2Once(); n != 0 {
		t.Errorf("%d more keys went below the watermark", n)
	}

	// Another process finds what is there, and evicts that too.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, g, bucket, "foreign/object", 4*size)
	put(t, g, bucket, "model@01000100@0@00FF", 4*size) // nearly a key
	put(t, g, bucket, l2test.Key(t, 77, "org/model", "").String(), 2*size)
	m = open()
	if got := m.L2Usage()[0].UsedBytes; got != 9*size {
		t.Errorf("%d bytes used after a restart; want seven objects and one of two sizes", got)
	}
	if n := m.EvictL2Once(); n != 2 {
		t.Errorf("%d keys went; want 2 of 8", n)
	}
	if got := g.objects(t, bucket); len(got) != 8 || !slices.Contains(got, "foreign/object") {
		t.Errorf("the bucket has %q; want six keys and two foreign objects", got)
	}
}

// logged collects the log of one adapter.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// count returns how many lines have a text.
func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func put(t *testing.T, g *gateway, bucket, name string, size int) {
	t.Helper()
	_, err := g.client(t).PutObject(t.Context(), bucket, name, bytes.NewReader(make([]byte, size)), int64(size), "", "", minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// A listing that the store refuses is no reason not to start.
func TestListRefused(t *testing.T) {
	f := newFaulty(t, func(w http.ResponseWriter, r *http.Request) { fail(w, 403, "AccessDenied") })
	var log logged
	found := 0
	r := l2test.NewRig(t, false, func(env l2.Env) (l2.Adapter, error) {
		env.Log, env.Found = log.logger(), func(keys []kv.ObjectKey, _ []int64) { found += len(keys) }
		return s3.New(configOf(f.Server.Listener.Addr().String(), "bucket", nil), env)
	}, false)
	if found != 0 || r.Usage().UsedBytes != 0 || log.count("cannot be listed") != 1 {
		t.Errorf("found %d objects; log: %s", found, &log.text)
	}
}
