package mq_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/wire/golden"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, f mq.Service, o mq.Options) *mq.Server {
	t.Helper()
	s, err := mq.Listen("tcp://127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(f); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		serving.Wait()
	})
	return s
}

// client is a client of the tests. Requests of it are numbered from 1.
type client struct {
	t testing.TB
	*zmtp.Dealer
	wire.Encoder
	uid uint64
}

func dial(t testing.TB, s *mq.Server) *client {
	t.Helper()
	d, err := zmtp.Dial(t.Context(), s.Addr(), zmtp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return &client{t: t, Dealer: d}
}

func (c *client) next() uint64 { c.uid++; return c.uid }

// send sends a request and returns its number.
func (c *client) send(frames [][]byte) uint64 {
	c.t.Helper()
	if err := c.Send(frames...); err != nil {
		c.t.Fatal(err)
	}
	return c.uid
}

func (c *client) recv() wire.Reply {
	c.t.Helper()
	frames, err := c.Recv(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := wire.ParseReply(frames)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// want receives the reply to request uid, next.
func (c *client) want(uid uint64) wire.Reply {
	c.t.Helper()
	r := c.recv()
	if r.UID != uid {
		c.t.Fatalf("got the reply to request %d; want %d", r.UID, uid)
	}
	return r
}

func (c *client) lookup(id string) uint64 {
	c.t.Helper()
	return c.send(c.Keyed(c.next(), wire.OpLookup, key(id), 1))
}

func (c *client) ping() uint64 {
	c.t.Helper()
	return c.send(c.Ping(c.next(), 7, true))
}

func key(id string) *wire.Key {
	return &wire.Key{Model: "m", WorldSize: 1, Worker: wire.AllWorkers, Tokens: []uint32{1, 2, 3}, End: 3, RequestID: id}
}

// TestEveryRequest has each of them decoded, passed on and answered.
func TestEveryRequest(t *testing.T) {
	f := &fake{wait: func(context.Context, string) (int, bool) { return 0, false }}
	f.status = func(id string) (int, bool) { return 3, id != "loading" }
	s := start(t, f, mq.Options{})
	c := dial(t, s)
	result := func(frames [][]byte) string {
		t.Helper()
		op := bytes.Clone(frames[1])
		r := c.want(c.send(frames))
		if !bytes.Equal(r.Op, op) {
			t.Errorf("operation frame %x came back as %x", op, r.Op)
		}
		return hex.EncodeToString(r.Result)
	}
	text := func(b []byte) string { return hex.EncodeToString(b) }
	for name, x := range map[string]struct{ got, want string }{
		"noop":           {result(c.Plain(c.next(), wire.OpNoop)), "a24f4b"},
		"chunk size":     {result(c.Plain(c.next(), wire.OpGetChunkSize)), "cd0100"},
		"experimental":   {result(c.Plain(c.next(), wire.OpGetExperimental)), "90"},
		"ping":           {result(c.Ping(c.next(), 0, false)), "c3"},
		"register":       {result(c.Register(c.next(), &wire.Context{Instance: 7, DType: "float16"})), text(wire.AppendPool(nil, wire.Pool{Name: "lmcache_l1_pool_x", Size: 1 << 20}))},
		"lookup":         {result(c.Keyed(c.next(), wire.OpLookup, key("r"), 4)), ""},
		"status":         {result(c.Session(c.next(), wire.OpQueryPrefetchStatus, "r")), "03"},
		"status, null":   {result(c.Session(c.next(), wire.OpQueryPrefetchStatus, "loading")), ""},
		"wait":           {result(c.Wait(c.next(), "r", time.Second)), "03"},
		"wait, null":     {result(c.Wait(c.next(), "loading", time.Second)), ""},
		"wait, no time":  {result(c.Wait(c.next(), "loading", 0)), ""},
		"free":           {result(c.Keyed(c.next(), wire.OpFreeLookupLocks, key("r"), 1)), ""},
		"prepare store":  {result(c.Keyed(c.next(), wire.OpPrepareStore, key("r"), 7)), "81a7636f6e7465787482a5736c6f74739184a66f6666736574cd1000a66c656e67746810a573686170659402010401a56474797065a7666c6f61743136ad6368756e6b5f696e64696365739100"},
		"commit store":   {result(c.CommitStore(c.next(), key("r"), 7, []byte("xy"))), "c3"},
		"prepare read":   {result(c.Keyed(c.next(), wire.OpPrepareRetrieve, key("r"), 7)), "83a773756363657373c2a464617461c400a7636f6e7465787480"},
		"commit read":    {result(c.Keyed(c.next(), wire.OpCommitRetrieve, key("r"), 7)), "c3"},
		"end":            {result(c.Session(c.next(), wire.OpEndSession, "r")), ""},
		"clear":          {result(c.Clear(c.next(), true)), ""},
		"report":         {result(c.ReportBlockAllocation(c.next(), 7, "m", make([]wire.BlockAllocation, 2))), ""},
		"unregister":     {result(c.Unregister(c.next(), 7)), ""},
		"noop by name":   {result([][]byte{wire.AppendUID(nil, c.next()), []byte("\xa4noop")}), "a24f4b"},
		"a ping of yore": {result(c.Plain(c.next(), wire.OpPing)), "c3"},
	} {
		if x.got != x.want {
			t.Errorf("%s: got %s; want %s", name, x.got, x.want)
		}
	}
	want := []string{
		"register 7 float16", "lookup r readers 4", "wait loading 1s", "free r readers 0", "prepare store r 7",
		"commit store r 7 2", "prepare retrieve r 7", "commit retrieve r 7", "end r", "clear true", "report 7 m 2", "unregister 7",
	}
	got := f.noted()
	slices.Sort(got) // a map's values are made in any order
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the service got %q;\nwant %q", got, want)
	}
	_ = c.Close()
	_ = s.Close()
	st := s.Stats()
	if st.Answered != 22 || len(st.Refused) != 0 || st.Requests[wire.OpNoop] != 2 || st.Transport.Received != 22 {
		t.Errorf("got %+v; want 22 requests, all answered", st)
	}
}

// TestRefused sends what is not to be answered, all that LMCache's server did not
// answer among it as far as it can be told without a storage manager, and then
// asks for something: the next reply must be that.
func TestRefused(t *testing.T) {
	var log bytes.Buffer
	s := start(t, &fake{}, mq.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := dial(t, s)
	still := func(what string) {
		t.Helper()
		r := c.want(c.send(c.Plain(c.next(), wire.OpNoop)))
		if ok, err := r.Text(); err != nil || ok != "OK" {
			t.Fatalf("%s: noop answers %q, %v", what, ok, err)
		}
	}
	c.uid = 1000
	send := func(what string, frames ...[]byte) {
		t.Helper()
		if err := c.Send(frames...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		still(what)
	}
	send("one frame", []byte{1})
	send("one empty frame", []byte{})
	send("two empty frames", nil, nil)
	send("ack of no stream", []byte{1}, nil, []byte("ack"))
	send("a failure", c.Register(c.next(), &wire.Context{DType: "bad"})...)
	// A worker serves this one, so the noop does not wait for it; Close does.
	send("a panic", c.Keyed(c.next(), wire.OpPrepareRetrieve, key("panic"), 7)...)

	silent := 0
	f, err := os.Open("../../testdata/zmq/session-errors.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := golden.Parse(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines {
		if l.Kind != golden.Request || l.Control() || lines[i+1].Kind != golden.Silence {
			continue
		}
		op, err := wire.ParseOp(l.Frames[1])
		if err == nil {
			_, err = wire.DecodeRequest(op, l.Frames[2:])
		}
		if err != nil {
			silent++
			send(l.Case, l.Frames...)
		}
	}
	_ = c.Close()
	_ = s.Close()
	st := s.Stats()
	want := map[mq.Reason]uint64{
		mq.NoOperation: 2, mq.Failed: 1, mq.Panicked: 1,
		mq.UnknownOp: 5, mq.NotServed: 5, mq.WrongArity: 6, mq.Malformed: uint64(silent) - 5 - 5 - 6,
	}
	if !reflect.DeepEqual(st.Refused, want) || st.Controls != 2 {
		t.Errorf("got %v and %d controls; want %v and 2", st.Refused, st.Controls, want)
	}
	for _, text := range []string{
		`reason="no operation" op=unknown uid=1 `, `reason="unknown operation" op=unknown uid=1 client=1 error="unknown operation 99"`,
		`reason=failed op=register_kv_cache_engine_driven_context uid=`, `reason=panicked op=prepare_retrieve`,
		`msg="more requests not answered" reason="unknown operation" op=unknown count=4`,
	} {
		if !strings.Contains(log.String(), text) {
			t.Errorf("the log lacks %q:\n%s", text, &log)
		}
	}
	if n := strings.Count(log.String(), `reason="unknown operation"`); n != 2 {
		t.Errorf("%d lines of one kind; want the first and a summary", n)
	}
}

// TestWaitHoldsNobodyUp has one worker, and a status poll that waits.
func TestWaitHoldsNobodyUp(t *testing.T) {
	done := make(chan struct{})
	f := &fake{
		status: func(string) (int, bool) { return 0, false },
		wait: func(ctx context.Context, id string) (int, bool) {
			select {
			case <-done:
				return 5, true
			case <-ctx.Done():
				return 0, false
			}
		},
	}
	s := start(t, f, mq.Options{Workers: 1, AffinityWorkers: 1})
	c := dial(t, s)
	wait := c.send(c.Wait(c.next(), "r", time.Hour))
	c.want(c.ping())
	c.want(c.lookup("other"))
	c.want(c.send(c.Keyed(c.next(), wire.OpPrepareStore, key("other"), 7)))
	if st := s.Stats(); st.Waiting != 1 {
		t.Errorf("%d polls wait; want 1", st.Waiting)
	}
	close(done)
	r := c.want(wait)
	if n, ok, err := r.Count(); n != 5 || !ok || err != nil {
		t.Errorf("got %d, %v, %v; want 5", n, ok, err)
	}
}

// TestWaitsAreBounded has a client with more polls than it may have: its reader
// stops, others go on, and all are answered.
func TestWaitsAreBounded(t *testing.T) {
	done := make(chan struct{})
	f := &fake{
		status: func(string) (int, bool) { return 0, false },
		wait:   func(context.Context, string) (int, bool) { <-done; return 1, true },
	}
	s := start(t, f, mq.Options{ClientWaits: 2})
	c, other := dial(t, s), dial(t, s)
	for i := range 5 {
		c.send(c.Wait(c.next(), fmt.Sprint(i), time.Hour))
	}
	other.want(other.send(other.Plain(other.next(), wire.OpNoop)))
	close(done)
	seen := map[uint64]bool{}
	for range 5 {
		seen[c.recv().UID] = true
	}
	if len(seen) != 5 {
		t.Errorf("answered %v; want all of 5", seen)
	}
}

// TestLookupsRunSideBySide has two lookups of one client meet.
func TestLookupsRunSideBySide(t *testing.T) {
	meet := make(chan struct{})
	f := &fake{lookup: func(*wire.Key) error {
		select {
		case meet <- struct{}{}:
		case <-meet:
		}
		return nil
	}}
	s := start(t, f, mq.Options{Workers: 2})
	c := dial(t, s)
	a, b := c.lookup("a"), c.lookup("b")
	if x, y := c.recv().UID, c.recv().UID; x+y != a+b {
		t.Errorf("replies to %d and %d; want %d and %d", x, y, a, b)
	}
}

// TestOrder has what belongs together wait for each other, and only that: the
// requests of one request id, and the affine ones of a client.
func TestOrder(t *testing.T) {
	release := make(chan struct{})
	looked := false
	f := &fake{
		lookup: func(k *wire.Key) error {
			if k.RequestID == "slow" {
				<-release
				looked = true
			}
			return nil
		},
		status: func(id string) (int, bool) {
			if id == "slow" && !looked {
				return 0, true // what an unknown request has
			}
			return 9, true
		},
		prepare: func(k *wire.Key) {
			if k.RequestID == "slow" {
				<-release
			}
		},
	}
	s := start(t, f, mq.Options{Workers: 2, AffinityWorkers: 2})
	c, other := dial(t, s), dial(t, s)
	lookup := c.lookup("slow")
	status := c.send(c.Session(c.next(), wire.OpQueryPrefetchStatus, "slow"))
	wait := c.send(c.Wait(c.next(), "slow", time.Minute))
	end := c.send(c.Session(c.next(), wire.OpEndSession, "slow"))
	prepare := c.send(c.Keyed(c.next(), wire.OpPrepareStore, key("slow"), 7))
	commit := c.send(c.CommitStore(c.next(), key("slow"), 7, nil))
	c.want(c.send(c.Session(c.next(), wire.OpQueryPrefetchStatus, "quick")))
	c.want(c.lookup("quick"))
	c.want(c.ping())
	other.want(other.send(other.Keyed(other.next(), wire.OpPrepareStore, key("other"), 8)))
	unregister := c.send(c.Unregister(c.next(), 7))
	other.want(other.ping()) // the reader of c waits, that of the other does not
	close(release)
	at := map[uint64]int{}
	for i := range 7 {
		r := c.recv()
		at[r.UID] = i
		if r.UID == status {
			if n, _, err := r.Count(); n != 9 || err != nil {
				t.Errorf("status %d, %v: it overtook its lookup", n, err)
			}
		}
	}
	for _, pair := range [][2]uint64{{lookup, status}, {status, wait}, {wait, end}, {prepare, commit}, {commit, unregister}} {
		if at[pair[0]] > at[pair[1]] {
			t.Errorf("request %d was answered before %d: %v", pair[1], pair[0], at)
		}
	}
}

// TestBackPressure has a client that sends more than may wait.
func TestBackPressure(t *testing.T) {
	release := make(chan struct{})
	f := &fake{lookup: func(k *wire.Key) error {
		if k.RequestID != "other" {
			<-release
		}
		return nil
	}}
	s := start(t, f, mq.Options{Workers: 2, ClientRequests: 2})
	c, other := dial(t, s), dial(t, s)
	const n = 50
	for i := range n {
		c.lookup(fmt.Sprint(i))
	}
	other.want(other.ping())
	if got := s.Stats().InFlight; got > 2 {
		t.Errorf("%d requests in flight; want 2", got)
	}
	close(release)
	for range n {
		c.recv()
	}
	other.want(other.lookup("other"))
	if got := s.Stats().Requests[wire.OpLookup]; got != n+1 {
		t.Errorf("%d lookups; want %d", got, n+1)
	}
}

// TestTurns has a client with many requests leave room for another with one.
func TestTurns(t *testing.T) {
	entered, release := make(chan string, 100), make(chan struct{})
	f := &fake{lookup: func(k *wire.Key) error {
		entered <- k.RequestID
		<-release
		return nil
	}}
	s := start(t, f, mq.Options{Workers: 1})
	c, other := dial(t, s), dial(t, s)
	for i := range 20 {
		c.lookup(fmt.Sprint(i))
	}
	c.want(c.ping()) // so all 20 are there
	other.lookup("other")
	other.want(other.ping())
	close(release)
	for i := range 21 {
		if id := <-entered; id == "other" {
			if i > 3 {
				t.Errorf("the other client came %dth", i)
			}
			return
		}
	}
}

// TestClose answers what is in flight, and ends what waits.
func TestClose(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	f := &fake{
		lookup: func(*wire.Key) error { entered <- struct{}{}; <-release; return nil },
		status: func(string) (int, bool) { return 0, false },
		wait: func(ctx context.Context, _ string) (int, bool) {
			<-ctx.Done()
			return 0, false
		},
	}
	s := start(t, f, mq.Options{Workers: 1})
	c := dial(t, s)
	want := map[uint64]bool{
		c.send(c.Wait(c.next(), "w", time.Hour)): true,
		c.lookup("a"):                            true,
		c.lookup("b"):                            true, // waits for the worker
		c.ping():                                 true,
	}
	<-entered
	delete(want, c.recv().UID) // the ping: all are there
	closed := make(chan struct{})
	go func() { defer close(closed); _ = s.Close() }()
	close(release)
	for range 3 {
		r := c.recv()
		if r.Result != nil {
			t.Errorf("request %d: got %x; want null", r.UID, r.Result)
		}
		delete(want, r.UID)
	}
	if len(want) > 0 {
		t.Errorf("not answered: %v", want)
	}
	<-closed
	if err := s.Serve(f); err == nil {
		t.Error("served after Close")
	}
}

// TestLeaving has clients that do not wait for replies: what they sent is done,
// and a poll of theirs ends.
func TestLeaving(t *testing.T) {
	ended := make(chan struct{})
	f := &fake{
		status: func(string) (int, bool) { return 0, false },
		wait: func(ctx context.Context, _ string) (int, bool) {
			<-ctx.Done()
			close(ended)
			return 0, false
		},
	}
	s := start(t, f, mq.Options{})
	c := dial(t, s)
	c.send(c.Wait(c.next(), "w", time.Hour))
	c.send(c.Session(c.next(), wire.OpEndSession, "r"))
	_ = c.Close()
	<-ended
	_ = s.Close()
	if got := f.noted(); !slices.Contains(got, "end r") {
		t.Errorf("the service got %q; want the end of the session", got)
	}
}

// TestGoldenSessions has every request of LMCache's clients reach the service and
// be answered with its own uid and operation.
func TestGoldenSessions(t *testing.T) {
	for _, name := range []string{"bench", "bench-tp2", "bench-mla", "typed", "stream"} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(filepath.Join("../../testdata/zmq", "session-"+name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			lines, err := golden.Parse(f)
			_ = f.Close()
			if err != nil {
				t.Fatal(err)
			}
			list, err := golden.Exchanges(lines)
			if err != nil {
				t.Fatal(err)
			}
			c := dial(t, start(t, &fake{}, mq.Options{}))
			for _, x := range list {
				frames := x.Request.Frames
				if err := c.Send(frames...); err != nil {
					t.Fatal(err)
				}
				if _, err := wire.ParseOp(frames[1]); err != nil {
					continue // the stream, which is not served
				}
				got, err := c.Recv(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want := x.Replies[0].Frames
				if !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) || len(got) < 2 {
					t.Errorf("line %d: got %x; want %x", x.Request.Number, got, want)
				}
			}
		})
	}
}
