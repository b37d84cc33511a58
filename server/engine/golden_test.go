package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/server/engine"
	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/wire/golden"
	"github.com/lmcache/lmcache-go/server/zmtp"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPool returns shared memory of a name that nobody else has.
func newPool(t testing.TB, size int64) *l1.Pool {
	t.Helper()
	if _, err := os.Stat(l1.PoolDir); err != nil {
		t.Skip("no shared memory here:", err)
	}
	name := strings.NewReplacer("/", "_").Replace(fmt.Sprintf("lmcache_l1_pool_test_%d_%s", os.Getpid(), t.Name()))
	pool, _, err := l1.NewPool(name, size)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// newEngine returns an engine over a storage manager with a pool of 64 MiB.
func newEngine(t testing.TB, clk clock.Clock, chunkSize int, tracer *trace.Recorder) (*engine.Engine, *sm.Manager, *l1.Pool) {
	t.Helper()
	pool := newPool(t, 64<<20)
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = pool.Size(), "LRU"
	m, err := sm.New(cfg, sm.Options{Clock: clk, Pool: pool, Tracer: tracer})
	if err != nil {
		t.Fatal(errors.Join(err, pool.Close()))
	}
	e, err := engine.New(engine.Config{
		Storage: m, Clock: clk, ChunkSize: chunkSize, Pool: wire.Pool{Name: pool.Name(), Size: pool.Size()},
		WriteTTL: time.Duration(cfg.L1.WriteTTLSeconds) * time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(errors.Join(err, m.Close()))
	}
	t.Cleanup(func() {
		e.Close()
		if err := errors.Join(m.Check(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return e, m, pool
}

// answered are the cases that LMCache leaves without a reply and this server does
// not, with its reply.
var answered = map[string]any{
	"ping without argument":                           true,
	"clear without argument":                          nil,
	"end_session, two arguments":                      nil,
	"lookup: num_kv_readers 0":                        nil,
	"lookup: key without num_kv_readers":              nil,
	"commit_store: never prepared, data not a pickle": false,
}

// TestGoldenSessions feeds what LMCache's own clients have sent to a fresh
// server, and compares what comes back with what LMCache's server sent.
func TestGoldenSessions(t *testing.T) {
	for name, chunkSize := range map[string]int{"bench": 256, "bench-tp2": 256, "bench-mla": 256, "typed": 16, "errors": 16} {
		t.Run(name, func(t *testing.T) { runSession(t, name, chunkSize) })
	}
	// Of the stream there is what a server without streams must do with it: nothing.
	t.Run("stream", func(t *testing.T) { runSession(t, "stream", 16) })
}

func runSession(t *testing.T, name string, chunkSize int) {
	f, err := os.Open(filepath.Join("../../testdata/zmq", "session-"+name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := golden.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	exchanges, err := golden.Exchanges(lines)
	if err != nil {
		t.Fatal(err)
	}
	e, _, pool := newEngine(t, clock.Real{}, chunkSize, nil)
	server, err := mq.Listen("tcp://127.0.0.1:0", mq.Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(e) }()
	dealer, err := zmtp.Dial(t.Context(), "tcp://"+server.Addr(), zmtp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dealer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	silent := 0
	for i, x := range exchanges {
		frames := x.Request.Frames
		if err := dealer.Send(frames...); err != nil {
			t.Fatal(err)
		}
		want, isAnswered := answered[x.Request.Case]
		if name == "stream" && bytes.Contains(frames[1], []byte("subscribe")) || x.Request.Control() {
			x.Replies = nil
		}
		if len(x.Replies) == 0 && !isAnswered {
			silent++
			continue
		}
		got, err := dealer.Recv(ctx)
		if err != nil {
			t.Fatalf("line %d, %s %s: no reply: %v", x.Request.Number, x.Request.Case, x.Request.Text, err)
		}
		if len(got) < 2 || !bytes.Equal(got[0], frames[0]) || !bytes.Equal(got[1], frames[1]) {
			t.Fatalf("line %d: reply %x to request %.80x", x.Request.Number, got, frames)
		}
		if isAnswered {
			if v := result(t, got); !reflect.DeepEqual(v, want) {
				t.Errorf("line %d, %s: %v; want %v", x.Request.Number, x.Request.Case, v, want)
			}
			continue
		}
		compare(t, &exchanges[i], got, pool)
	}
	// What is left unanswered is so to the end.
	_ = dealer.Send([]byte{0x7f}, []byte{byte(wire.OpNoop)})
	if got, err := dealer.Recv(ctx); err != nil || !bytes.Equal(got[0], []byte{0x7f}) {
		t.Errorf("after the session: %x, %v", got, err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got, err := dealer.Recv(ctx); err == nil {
		t.Errorf("a reply that nobody expects: %x", got)
	}
	refused := uint64(0)
	for _, n := range server.Stats().Refused {
		refused += n
	}
	if s := server.Stats(); int(refused+s.Controls) != silent {
		t.Errorf("%d requests without a reply, %d counted as refused, %d as control messages", silent, refused, s.Controls)
	}
}

// result decodes the third frame, nil if there is none.
func result(t *testing.T, frames [][]byte) any {
	t.Helper()
	if len(frames) == 2 {
		return nil
	}
	v, rest, err := msgp.ReadIntfBytes(frames[2])
	if err != nil || len(rest) > 0 || len(frames) > 3 {
		t.Fatalf("reply %x: %v", frames, err)
	}
	return v
}

// compare holds a reply against LMCache's, by the rules of testdata/zmq.
func compare(t *testing.T, x *golden.Exchange, got [][]byte, pool *l1.Pool) {
	t.Helper()
	g, w := result(t, got), result(t, x.Replies[0].Frames)
	op, err := wire.ParseOp(got[1])
	if err != nil {
		t.Fatal(err)
	}
	switch op {
	case wire.OpGetExperimental:
		w = []any{} // LMCache has event streams
	case wire.OpRegister:
		w = map[string]any{"shm_name": pool.Name(), "pool_size": pool.Size()}
	case wire.OpPrepareStore, wire.OpPrepareRetrieve:
		var ends []int64
		for _, offset := range offsets(g) {
			if offset%4096 != 0 || offset < 0 || offset >= pool.Size() || slices.Contains(ends, offset) {
				t.Errorf("line %d: slot at %d", x.Request.Number, offset)
			}
			ends = append(ends, offset)
		}
		offsets(w)
	}
	if !reflect.DeepEqual(normal(g), normal(w)) {
		t.Errorf("line %d, %s: reply\n%v, LMCache's\n%v", x.Request.Number, x.Request.Text, g, w)
	}
}

// offsets takes the offsets out of the slots of a reply.
func offsets(v any) (list []int64) {
	context, _ := v.(map[string]any)["context"].(map[string]any)
	slots, _ := context["slots"].([]any)
	for _, s := range slots {
		slot := s.(map[string]any)
		switch n := slot["offset"].(type) {
		case int64:
			list = append(list, n)
		case uint64:
			list = append(list, int64(n))
		}
		delete(slot, "offset")
	}
	return list
}

// normal makes numbers of one kind of what msgpack writes in several.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = normal(e)
		}
		return out
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, normal(e))
		}
		return out
	case uint64:
		return int64(v)
	}
	return v
}
