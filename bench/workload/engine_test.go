package workload_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// megabyte is a layout of 1,000,000 bytes.
func megabyte(t testing.TB) kv.Layout {
	u8, _ := kv.ParseDType("uint8")
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{1000, 1000}}, DTypes: []kv.DType{u8}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// handmade are three requests: b repeats a's two chunks and adds two, before a
// has stored them; c repeats b later. Their tokens are 512, 1024 and 1100.
const handmade = `{"timestamp":0,"input_length":512,"output_length":1,"hash_ids":[1]}
{"timestamp":40,"input_length":1024,"output_length":1,"hash_ids":[1,2]}
{"timestamp":200,"input_length":1100,"output_length":1,"hash_ids":[1,2,3]}
{"timestamp":200,"input_length":255,"output_length":1,"hash_ids":[9]}
`

// run runs a workload on a fake manager and virtual time. Set-up may change both.
func run(t *testing.T, w workload.Workload, opt workload.Options, setup func(*fakeManager)) (*workload.Result, *fakeManager, error) {
	t.Helper()
	c := clock.NewVirtual(1_700_000_000e9)
	f := newFake(t, c)
	if setup != nil {
		setup(f)
	}
	opt.Clock, opt.Manager = c, f
	res, err := workload.Run(context.Background(), w, opt)
	f.checkReleased()
	return res, f, err
}

var keySum = regexp.MustCompile(`( rank [0-9a-f]+)? (keys \d+) sum \S+`)

// calls is the log without the keys' names.
func calls(f *fakeManager) string {
	return keySum.ReplaceAllString(strings.Join(f.log, "\n"), " $2")
}

// The times: a poll every 5 ms over a result after 12 ms gives 15 ms; 10 ms a
// chunk copied; 0.1 ms a token computed.
func timedOptions(t *testing.T) workload.Options {
	return workload.Options{Layout: megabyte(t), PrefillTokensPerSecond: 10_000, CopyBytesPerSecond: 100e6, PollInterval: 5 * time.Millisecond}
}

func slow(f *fakeManager) { f.delay = 12 * time.Millisecond }

func TestRunTimes(t *testing.T) {
	w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
	res, f, err := run(t, w, timedOptions(t), slow)
	if err != nil {
		t.Fatal(err)
	}
	// a: result 15, computed 15+51.2, written +20 = 86.2. b: result 55, where a
	// has reserved nothing yet, computed 55+102.4 = 157.4; a's two are there by
	// then, so two are reserved, written at 177.4. c: result 215, four hits
	// copied until 255, 76 tokens left that fill no chunk. d has no chunk.
	want := `
   0.000 submit mooncake-0 keys 2
   0.040 submit mooncake-1 keys 4
   0.066 reserve keys 2
   0.086 finish-write keys 2
   0.157 reserve keys 4
   0.177 finish-write keys 2
   0.200 submit mooncake-2 keys 4
   0.215 enter keys 4
   0.255 exit keys 4
   0.255 finish-read keys 4`
	if got := "\n" + calls(f); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
	got := []any{res.Requests, res.Completed, res.PeakRunning, res.InputTokens, res.Chunks, res.HitChunks, res.HitTokens,
		res.FullHits, res.NoHits, res.ReservedKeys, res.RefusedKeys, res.OOMKeys, res.WrittenKeys, res.UnwrittenKeys,
		res.WorkloadDuration, res.RunDuration, res.VirtualTime, res.PrefetchWait.TotalCount(), res.Lag.Max()}
	wantFields := []any{4, 4, 2, int64(2891), int64(10), int64(4), int64(1024), 1, 2, int64(4), int64(2), int64(0), int64(4), int64(0),
		200 * time.Millisecond, 255 * time.Millisecond, true, int64(3), int64(0)}
	if fmt.Sprint(got...) != fmt.Sprint(wantFields...) {
		t.Errorf("got %v; want %v", got, wantFields)
	}
	if p := float64(res.PrefetchWait.Max()); math.Abs(p-15e6) > 15e6/1000 { // histogram buckets
		t.Errorf("prefetch wait: got %v ns; want 15 ms", p)
	}
}

// Twice the speed: arrivals and the engine's work in half the time, polls as
// they are.
func TestRunSpeed(t *testing.T) {
	w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
	opt := timedOptions(t)
	opt.Speed = 2
	res, f, err := run(t, w, opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `
   0.000 submit mooncake-0 keys 2
   0.020 submit mooncake-1 keys 4
   0.026 reserve keys 2
   0.036 finish-write keys 2
   0.071 reserve keys 4
   0.081 finish-write keys 2
   0.100 submit mooncake-2 keys 4
   0.100 enter keys 4
   0.120 exit keys 4
   0.120 finish-read keys 4`
	if got := "\n" + calls(f); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
	if res.WorkloadDuration != 200*time.Millisecond || res.RunDuration != 120*time.Millisecond {
		t.Errorf("got %v of workload in %v; want 200 ms in 120 ms", res.WorkloadDuration, res.RunDuration)
	}
}

func TestRunRanks(t *testing.T) {
	w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
	opt := timedOptions(t)
	opt.Ranks, opt.Salt = 2, "tenant"
	var read []kv.ObjectKey
	res, f, err := run(t, w, opt, func(f *fakeManager) {
		slow(f)
		f.unreadable = func(k kv.ObjectKey) bool { // looks only
			read = append(read, k)
			return false
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each worker reads, reserves and finishes its own keys.
	want := `
   0.200 submit mooncake-2 rank 000200 keys 4
   0.215 enter rank 000200 keys 4
   0.215 enter rank 010201 keys 4
   0.255 exit rank 000200 keys 4
   0.255 finish-read rank 000200 keys 4
   0.255 exit rank 010201 keys 4
   0.255 finish-read rank 010201 keys 4`
	log := regexp.MustCompile(` sum \S+`).ReplaceAllString(strings.Join(f.log, "\n"), "")
	if !strings.HasSuffix("\n"+log, want) {
		t.Errorf("got\n%s\nwant it to end in%s", log, want)
	}
	if res.Chunks != 10 || res.HitChunks != 4 || res.ReservedKeys != 8 || res.RefusedKeys != 4 {
		t.Errorf("got %d chunks, %d hits, %d reserved, %d refused; want 10, 4, 8, 4", res.Chunks, res.HitChunks, res.ReservedKeys, res.RefusedKeys)
	}
	for i, k := range read {
		if k.Scope.Model() != workload.DefaultModel || k.Scope.Salt() != "tenant" || k.Rank>>24 != 2 || k.Hash != workload.ChunkHash("mooncake", uint64(1+i%4/2), i%2) || k.HashLen != 32 {
			t.Errorf("key %d of the read: got %v", i, k)
		}
	}
	if len(read) != 8 {
		t.Errorf("got %d keys read; want 8", len(read))
	}
}

func TestRunTrouble(t *testing.T) {
	t.Run("out of memory", func(t *testing.T) {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
		res, f, err := run(t, w, timedOptions(t), func(f *fakeManager) { slow(f); f.capacity = 3 })
		if err != nil {
			t.Fatal(err)
		}
		// b's two do not fit; c hits two, and its two do not fit either.
		if res.OOMKeys != 4 || res.RefusedKeys != 2 || res.WrittenKeys != 2 || res.HitChunks != 2 || res.Completed != 4 {
			t.Errorf("got %d oom, %d refused, %d written, %d hits, %d completed; want 4, 2, 2, 2, 4\n%s",
				res.OOMKeys, res.RefusedKeys, res.WrittenKeys, res.HitChunks, res.Completed, calls(f))
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
		opt := timedOptions(t)
		opt.Ranks = 2
		res, f, err := run(t, w, opt, func(f *fakeManager) {
			slow(f)
			f.unreadable = func(k kv.ObjectKey) bool {
				return k.Rank == kv.PackRank(2, 1, 2, 1) && k.Hash == workload.ChunkHash("mooncake", 2, 0)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		// c's second worker cannot read: its exit releases, the first worker's
		// read is finished, both store everything, which is there.
		want := `
   0.215 enter keys 4
   0.215 enter keys 4
   0.215 exit keys 4
   0.215 finish-read keys 4
   0.215 exit keys 4
   0.325 reserve keys 4
   0.325 reserve keys 4`
		if got := "\n" + calls(f); !strings.HasSuffix(got, want) {
			t.Errorf("got%s\nwant it to end in%s", got, want)
		}
		if res.UnreadableKeys != 1 || res.Completed != 4 {
			t.Errorf("got %d unreadable keys, %d completed; want 1, 4", res.UnreadableKeys, res.Completed)
		}
	})
	t.Run("prefetch without end", func(t *testing.T) {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
		opt := timedOptions(t)
		opt.PrefetchTimeout = time.Second
		res, f, err := run(t, w, opt, func(f *fakeManager) { f.delay = -1 })
		if err != nil {
			t.Fatal(err)
		}
		if res.PrefetchTimeouts != 3 || res.Completed != 4 || res.HitChunks != 0 || res.PrefetchWait.TotalCount() != 0 {
			t.Errorf("got %d given up, %d completed, %d hits; want 3, 4, 0", res.PrefetchTimeouts, res.Completed, res.HitChunks)
		}
		if got := f.log[3]; !strings.HasPrefix(got, "   1.051 reserve") {
			t.Errorf("got %s; want the reservation of the first at 1.0512 s", got)
		}
	})
	t.Run("refused call", func(t *testing.T) {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
		wrong := errors.New("wrong")
		opt := timedOptions(t)
		opt.Ranks = 2
		res, _, err := run(t, w, opt, func(f *fakeManager) { // the first worker holds a reservation then
			f.reserveErr = func(k kv.ObjectKey) error {
				if k.Rank == kv.PackRank(2, 1, 2, 1) {
					return wrong
				}
				return nil
			}
		})
		if !errors.Is(err, wrong) || !strings.Contains(err.Error(), "mooncake-0") || res == nil || res.Completed != 0 || res.Requests != 2 {
			t.Errorf("got %+v, %v; want the error, and 2 requests started", res, err)
		}
	})
	t.Run("broken workload", func(t *testing.T) {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade+"{")), workload.SourceOptions{})
		res, _, err := run(t, w, timedOptions(t), nil)
		le := (*workload.LineError)(nil)
		if !errors.As(err, &le) || le.Line != 5 || res.Requests != 4 || res.Completed != 4 {
			t.Errorf("got %v; want a LineError of line 5, after all of 4 requests; started %d, completed %d", err, res.Requests, res.Completed)
		}
	})
}

// Whatever a request holds when the run is interrupted is let go.
func TestRunInterrupted(t *testing.T) {
	// In these moments a copies into a reservation, c reads, b computes.
	for _, tc := range []struct {
		at        time.Duration
		last      string
		completed int
	}{
		{70 * time.Millisecond, "finish-write keys 2", 0},
		{230 * time.Millisecond, "finish-read keys 4", 3},
		{100 * time.Millisecond, "finish-write keys 2", 1},
	} {
		w := open(t, "mooncake:"+writeFile(t, "w", []byte(handmade)), workload.SourceOptions{})
		c := clock.NewVirtual(0)
		f := newFake(t, c)
		slow(f)
		ctx, cancel := context.WithCancel(context.Background())
		c.AfterFunc(tc.at, cancel)
		opt := timedOptions(t)
		opt.Clock, opt.Manager = c, f
		res, err := workload.Run(ctx, w, opt)
		f.checkReleased()
		if !errors.Is(err, context.Canceled) || res.Completed != tc.completed || !strings.HasSuffix(calls(f), tc.last) {
			t.Errorf("at %v: got %v, %d completed, calls\n%s\nwant %d completed, the last %s", tc.at, err, res.Completed, calls(f), tc.completed, tc.last)
		}
	}
}

func TestRunLimits(t *testing.T) {
	lines := conversationLines(t)
	for _, tc := range []struct {
		requests int
		duration time.Duration
	}{{10, 0}, {0, 10 * time.Minute}, {100, 10 * time.Minute}, {0, time.Millisecond}} {
		want := 0
		for _, l := range lines {
			if (tc.requests == 0 || want < tc.requests) && (tc.duration == 0 || time.Duration(l.Timestamp)*time.Millisecond < tc.duration) {
				want++
			}
		}
		opt := workload.Options{MaxRequests: tc.requests, MaxDuration: tc.duration}
		res, _, err := run(t, open(t, "mooncake:"+conversation, workload.SourceOptions{}), opt, nil)
		if err != nil || res.Requests != want || res.Completed != want {
			t.Errorf("%+v: got %d requests, %d completed, %v; want %d", tc, res.Requests, res.Completed, err, want)
		}
	}
}

func TestRunOptions(t *testing.T) {
	w := open(t, "mooncake:"+conversation, workload.SourceOptions{})
	c := clock.NewVirtual(0)
	good := workload.Options{Clock: c, Manager: newFake(t, c)}
	for name, change := range map[string]func(*workload.Options){
		"no manager":   func(o *workload.Options) { o.Manager = nil },
		"no clock":     func(o *workload.Options) { o.Clock = nil },
		"speed":        func(o *workload.Options) { o.Speed = -1 },
		"speed NaN":    func(o *workload.Options) { o.Speed = math.NaN() },
		"ranks":        func(o *workload.Options) { o.Ranks = 3 },
		"many ranks":   func(o *workload.Options) { o.Ranks = 256 },
		"requests":     func(o *workload.Options) { o.MaxRequests = -1 },
		"duration":     func(o *workload.Options) { o.MaxDuration = -1 },
		"poll":         func(o *workload.Options) { o.PollInterval = -1 },
		"prefill rate": func(o *workload.Options) { o.PrefillTokensPerSecond = math.NaN() },
		"model":        func(o *workload.Options) { o.Model = "a@b" },
		"salt":         func(o *workload.Options) { o.Salt = "a/b" },
	} {
		opt := good
		change(&opt)
		if res, err := workload.Run(context.Background(), w, opt); res != nil || !errors.Is(err, workload.ErrOptions) {
			t.Errorf("%s: got %v, %v; want ErrOptions", name, res, err)
		}
	}
	if _, err := workload.Run(context.Background(), open(t, "chat:1", workload.SourceOptions{}), good); !errors.Is(err, workload.ErrOptions) {
		t.Errorf("chat without a limit: got %v; want ErrOptions", err)
	}
}

func TestDefaultLayout(t *testing.T) {
	for ranks, want := range map[int]string{1: "[2,32,256,1024]:bfloat16", 2: "[2,32,256,512]:bfloat16", 8: "[2,32,256,128]:bfloat16"} {
		l, err := workload.LlamaLayout(256, ranks)
		if err != nil || l.Desc().String() != want || l.Bytes() != 32<<20/int64(ranks) {
			t.Errorf("%d ranks: got %v of %d bytes, %v; want %s", ranks, l.Desc(), l.Bytes(), err, want)
		}
	}
}

// Two runs on virtual time make the same calls with the same arguments at the
// same times.
func TestRunDeterminism(t *testing.T) {
	for _, spec := range []string{"mooncake:" + conversation, "agentic:" + sessions20, "chat:3"} {
		var logs [2][]string
		for i := range logs {
			w := open(t, spec, workload.SourceOptions{SessionsPerHour: 600, ArrivalSeed: 9})
			opt := workload.Options{MaxDuration: 5 * time.Minute, Ranks: 2}
			_, f, err := run(t, w, opt, func(f *fakeManager) { f.delay = 3500 * time.Microsecond; f.capacity = 50_000 })
			if err != nil {
				t.Fatal(err)
			}
			logs[i] = f.log
		}
		if len(logs[0]) < 300 || !slices.Equal(logs[0], logs[1]) {
			t.Errorf("%s: got %d and %d calls, or different ones", spec, len(logs[0]), len(logs[1]))
		}
	}
}

// With a cache that forgets nothing and an engine that takes no time, hits are
// what a scan over the file finds.
func TestInfiniteCacheHitRate(t *testing.T) {
	chunks, hits, tokens := 0, 0, 0
	type chunk struct {
		id   uint64
		part int
	}
	seen := map[chunk]bool{}
	for _, l := range conversationLines(t) {
		prefix := true
		for i := range l.InputLength / 256 {
			k := chunk{l.HashIDs[i/2], i % 2}
			if prefix = prefix && seen[k]; prefix {
				hits++
			}
			seen[k] = true
			chunks++
		}
		tokens += l.InputLength
	}
	w := open(t, "mooncake:"+conversation, workload.SourceOptions{})
	res, _, err := run(t, w, workload.Options{PrefillTokensPerSecond: -1, CopyBytesPerSecond: -1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if int(res.Chunks) != chunks || int(res.HitChunks) != hits || int(res.InputTokens) != tokens || int(res.HitTokens) != 256*hits {
		t.Errorf("got %d of %d chunks hit, %d tokens; want %d of %d, %d", res.HitChunks, res.Chunks, res.InputTokens, hits, chunks, tokens)
	}
	if int(res.Storage.Resident) != len(seen) || int(res.WrittenKeys) != len(seen) || res.RefusedKeys != 0 {
		t.Errorf("got %d resident, %d written, %d refused; want %d, %d, 0", res.Storage.Resident, res.WrittenKeys, res.RefusedKeys, len(seen), len(seen))
	}
	if got := res.ChunkHitRate(); got != float64(hits)/float64(chunks) || got < 0.3 || got > 0.5 {
		t.Errorf("got hit rate %v", got)
	}
}
