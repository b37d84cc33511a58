package replay_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", name, got, want)
	}
}

// logLines returns a logger that writes "LEVEL message error", a line each.
func logLines(w *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// latencies is a clock for calls that take the given times in turn.
func latencies(ns ...int64) func() int64 {
	now, call, end := int64(0), 0, false
	return func() int64 {
		if end {
			now += ns[call%len(ns)]
			call++
		}
		end = !end
		return now
	}
}

// sample is a trace in which all that can happen happens once or more.
func sample(t *testing.T) (*source, *manager) {
	src, layout := storageSource(), makeLayout(t)
	k := makeKeys(t, 0, 6)
	spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: k[:4], Layout: layout, Window: kv.FullAttention}}}
	src.add(trace.OpReserveWrite, 0, trace.Args{Keys: k[:4], Layout: layout})
	src.add(trace.OpFinishWrite, 0.25, trace.Args{Keys: k[:4]})
	src.add(trace.OpSubmitPrefetchTask, 1, trace.Args{Spec: spec, Text: "req-0"})             // L1 0, 1; L2 2; misses 3
	src.add(trace.OpSubmitPrefetchTask, 2, trace.Args{Spec: spec, Text: "req-1", Flag: true}) // result comes later
	src.add(trace.OpSubmitPrefetchTask, 3, trace.Args{Spec: spec, Text: "req-2"})             // never
	src.add(trace.OpReadPrefetchedEnter, 4, trace.Args{Keys: k[:3]})                          // read 0
	src.add(trace.OpReadPrefetchedEnter, 5, trace.Args{Keys: k[:3]})                          // read 1, refused
	src.add(trace.OpReadPrefetchedEnter, 6, trace.Args{Keys: k[:2]})                          // read 2, never left
	src.add(trace.OpReadPrefetchedExit, 7, trace.Args{Keys: k[:3]})                           // read 0
	src.add(trace.OpReadPrefetchedExit, 8, trace.Args{Keys: k[:3]})                           // read 1
	src.add(trace.OpReadPrefetchedExit, 9, trace.Args{Keys: k[:3]})                           // none
	src.add(trace.OpFinishReadPrefetched, 10, trace.Args{Keys: k[:3], Count: 4})
	src.add(trace.OpUnknown, 11, trace.Args{})
	src.records[12].rec.Qualname = "SM.frobnicate"
	src.add(trace.OpFinishWrite, 12, trace.Args{})
	src.records[13].err = errArgs
	src.add(trace.OpReserveWrite, 13.125, trace.Args{Keys: k, Layout: layout}) // fails

	m := &manager{results: map[int64]*sm.PrefetchResult{
		0: {L1Hits: 2, L2Hits: 1, Rows: []sm.PrefetchRow{{L1: bitmap(4, 0, 1), L2: bitmap(4, 2)}}},
	}}
	m.stats = sm.Stats{EvictedKeys: 100, EvictedBytes: 1000, CapacityBytes: 64 << 20}
	calls := 0
	m.onCall = func(op trace.Op) {
		calls++
		m.codes, m.fail = nil, nil
		switch calls {
		case 1:
			m.codes = []l1.Code{l1.Success, l1.Success, l1.KeyNotWritable, l1.OutOfMemory}
		case 2:
			m.codes = []l1.Code{l1.Success, l1.Success, l1.KeyInWrongState, l1.KeyInWrongState}
			m.stats.WrittenBytes += 2 << 20
		case 6:
			m.results[1] = &sm.PrefetchResult{L1Hits: 4, Rows: []sm.PrefetchRow{{L1: bitmap(4, 0, 1, 2, 3)}}}
		case 7:
			m.codes = []l1.Code{l1.Success, l1.KeyNotExist, l1.KeyNotReadable}
		case 11:
			m.stats.EvictedKeys, m.stats.EvictedBytes, m.stats.EvictionPasses = 107, 1000+7<<20, 1
			m.stats.UsedBytes, m.stats.Resident = 2<<20, 2
		case 12:
			m.fail = errors.New("layout of no bytes")
		}
	}
	return src, m
}

func TestGolden(t *testing.T) {
	src, m := sample(t)
	dir := t.TempDir()
	var table, verbose, jsonl, log bytes.Buffer
	res, err := replay.Run(t.Context(), replay.Options{
		Source: src, Path: "run.lct", Total: int64(len(src.records)), Manager: m,
		Clock: clock.NewVirtual(0), LatencyNS: latencies(252_000, 32_000, 104_235, 1_000_001, 7),
		Log: logLines(&log, slog.LevelInfo), Verbose: &verbose, JSONL: &jsonl, Table: &table,
		OutputDir: dir, CSV: true, JSON: true,
		DigestRow: "MISMATCH (rec=0f685d8a, run=d56843bb)", Differences: []string{"l1 size: recorded 200 GiB, replay 100 GiB"},
		ConfigJSON: `{"prefetch_max_in_flight": 8}`, ConfigDigest: "d56843bb",
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "calls.txt", []byte(strings.Join(m.calls, "\n")+"\n"))
	golden(t, "table.txt", table.Bytes())
	golden(t, "verbose.txt", verbose.Bytes())
	golden(t, "records.jsonl", jsonl.Bytes())
	golden(t, "log.txt", bytes.ReplaceAll(log.Bytes(), []byte(dir+string(filepath.Separator)), nil))
	for _, name := range []string{replay.CSVName, replay.JSONName, replay.ResultName} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, data)
	}
	back, err := replay.ReadResult(filepath.Join(dir, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	if back.Outcome != res.Outcome || back.Storage != res.Storage || len(back.Ops) != len(res.Ops) || back.Lag != res.Lag {
		t.Errorf("result file reads back as %+v; want %+v", back, res)
	}
}

func TestNoRecords(t *testing.T) {
	var table bytes.Buffer
	dir := t.TempDir()
	if _, err := replay.Run(t.Context(), replay.Options{
		Source: storageSource(), Manager: &manager{}, Clock: clock.NewVirtual(0), Table: &table, OutputDir: dir, CSV: true, JSON: true,
	}); err != nil {
		t.Fatal(err)
	}
	golden(t, "empty-table.txt", table.Bytes())
	for name, want := range map[string]string{
		replay.CSVName:  "qualname,count,errors,mean_ms,p50_ms,p90_ms,p99_ms,min_ms,max_ms\r\n",
		replay.JSONName: "{\n  \"duration_s\": 0.0,\n  \"ops\": {}\n}\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
}

// Adding a row to the schema without a handler must not go unnoticed.
func TestEveryOpIsReplayed(t *testing.T) {
	for _, row := range trace.Schema() {
		src := storageSource()
		src.add(row.Op, 0, trace.Args{Spec: &kv.PrefetchSpec{}, Keys: makeKeys(t, 0, 1)})
		res, err := replay.Run(t.Context(), replay.Options{Source: src, Manager: &manager{}, Clock: clock.NewVirtual(0), DrainTimeout: -1})
		if err != nil {
			t.Fatal(err)
		}
		if res.Records.Replayed != 1 || len(res.Ops) != 1 || res.Ops[0].Qualname != row.Qualname {
			t.Errorf("%s: records %+v, ops %+v; want it replayed", row.Qualname, res.Records, res.Ops)
		}
	}
}

func TestPacingIsExact(t *testing.T) {
	src := storageSource()
	var want []int64
	for _, at := range []float64{5, 5, 7.5, 3_600_000, 2, 3_600_001} { // out of order: dispatched late, at once
		src.add(trace.OpFinishWrite, at, trace.Args{})
	}
	src.add(trace.OpUnknown, 3_700_000, trace.Args{}) // skipped, but waited for
	c := clock.NewVirtual(0)
	if err := c.SleepUntil(t.Context(), 1e9); err != nil { // a clock that has an origin of its own
		t.Fatal(err)
	}
	for _, ms := range []int64{5_000, 5_000, 7_500, 3_600_000_000, 3_600_000_000, 3_600_001_000} {
		want = append(want, 1e9+ms*1000)
	}
	var got []int64
	m := &manager{onCall: func(trace.Op) { got = append(got, c.Now()) }}
	res, err := replay.Run(t.Context(), replay.Options{Source: src, Manager: m, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("dispatched at %v; want %v", got, want)
	}
	if res.DurationS != 3700 {
		t.Errorf("duration %v s; want 3700", res.DurationS)
	}
	if res.Lag.Count != 7 || res.Lag.P50MS != 0 || res.Lag.MaxMS != 3_600_000-2 {
		t.Errorf("lag %+v; want 7 values, 0 at the median, %d at most", res.Lag, 3_600_000-2)
	}
}

// What a call sets going is done before the next record, also one due at the
// same time.
func TestVirtualTimeSettlesBetweenRecords(t *testing.T) {
	src := storageSource()
	for range 3 {
		src.add(trace.OpFinishWrite, 5, trace.Args{})
	}
	var got []string
	c := clock.NewVirtual(0)
	task := c.Go(clock.Never, func(int64) int64 {
		got = append(got, "step")
		return clock.Never
	})
	m := &manager{onCall: func(trace.Op) { got = append(got, "call"); task.Wake() }}
	if _, err := replay.Run(t.Context(), replay.Options{Source: src, Manager: m, Clock: c}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"call", "step", "call", "step", "call"}; !slices.Equal(got, want) {
		t.Errorf("order %v; want %v", got, want)
	}
}

func TestRealPacingIsNeverEarly(t *testing.T) {
	src := storageSource()
	for i := range 20 {
		src.add(trace.OpFinishWrite, float64(i)*0.5, trace.Args{})
	}
	var c clock.Real
	var at []int64
	m := &manager{onCall: func(trace.Op) { at = append(at, c.Now()) }}
	begin := c.Now()
	if _, err := replay.Run(t.Context(), replay.Options{Source: src, Manager: m}); err != nil {
		t.Fatal(err)
	}
	for i, now := range at {
		if early := begin + src.records[i].rec.MonoNS - now; early > 0 {
			t.Errorf("record %d dispatched %d ns early", i, early)
		}
	}
}

func TestInterrupt(t *testing.T) {
	for _, tt := range []struct {
		name string
		op   trace.Op
	}{{"between busy records", trace.OpFinishWrite}, {"while waiting", trace.OpReserveWrite}} {
		ctx, cancel := context.WithCancel(t.Context())
		src := storageSource()
		src.add(trace.OpReserveWrite, 0, trace.Args{})
		src.add(trace.OpFinishWrite, 1, trace.Args{})
		src.add(trace.OpReadPrefetchedEnter, 1, trace.Args{})
		src.add(trace.OpFinishWrite, 3_600_000, trace.Args{})
		m := &manager{onCall: func(op trace.Op) {
			if op == tt.op {
				cancel()
			}
		}}
		dir := t.TempDir()
		var table bytes.Buffer
		res, err := replay.Run(ctx, replay.Options{Source: src, Total: 4, Manager: m, Table: &table, OutputDir: dir, CSV: true, JSON: true})
		if !errors.Is(err, replay.ErrInterrupted) {
			t.Fatalf("%s: err = %v; want %v", tt.name, err, replay.ErrInterrupted)
		}
		want := int64(1)
		if tt.op == trace.OpFinishWrite {
			want = 2
		}
		if !res.Interrupted || res.Records.Replayed != want || res.Records.Total != 4 {
			t.Errorf("%s: %+v, interrupted %v; want %d replayed, interrupted", tt.name, res.Records, res.Interrupted, want)
		}
		if !strings.Contains(table.String(), "reserve_write count:") {
			t.Errorf("%s: no table; got %q", tt.name, table.String())
		}
		for _, name := range []string{replay.CSVName, replay.JSONName, replay.ResultName} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// An exit that an interruption keeps from being dispatched is made all the same.
func TestInterruptLeavesReads(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := storageSource()
	k := makeKeys(t, 0, 2)
	src.add(trace.OpReadPrefetchedEnter, 0, trace.Args{Keys: k})
	src.add(trace.OpReadPrefetchedEnter, 0, trace.Args{Keys: k[:1]})
	src.add(trace.OpReadPrefetchedExit, 3_600_000, trace.Args{Keys: k})
	m := &manager{}
	m.onCall = func(op trace.Op) {
		if len(m.calls) == 1 { // the second enter
			cancel()
		}
	}
	if _, err := replay.Run(ctx, replay.Options{Source: src, Manager: m}); !errors.Is(err, replay.ErrInterrupted) {
		t.Fatalf("err = %v; want %v", err, replay.ErrInterrupted)
	}
	if want := []string{"enter 2", "enter 1", "exit read 0 <nil>", "exit read 1 <nil>"}; !slices.Equal(m.calls, want) {
		t.Errorf("calls %v; want %v", m.calls, want)
	}
}

// A damaged trace ends the replay, after what can be had.
func TestSourceError(t *testing.T) {
	src := storageSource()
	src.add(trace.OpFinishWrite, 0, trace.Args{})
	src.err = errors.New("frame at offset 4096: bad checksum")
	res, err := replay.Run(t.Context(), replay.Options{Source: src, Path: "run.lct", Manager: &manager{}, Clock: clock.NewVirtual(0)})
	if err == nil || err.Error() != "replay: frame at offset 4096: bad checksum" {
		t.Errorf("err = %v; want the source's", err)
	}
	if res == nil || res.Records.Replayed != 1 {
		t.Errorf("result %+v; want a record replayed", res)
	}
}

func TestLevel(t *testing.T) {
	src := &source{header: trace.Header{Level: trace.LevelEvents}}
	_, err := replay.Run(t.Context(), replay.Options{Source: src, Path: "e.lct", Manager: &manager{}})
	const want = "trace 'e.lct' is level 'events'; StorageReplayDriver replays 'storage' traces only." +
		" An 'events' trace holds the cache-event stream for a coordinator."
	if !errors.Is(err, replay.ErrLevel) || err.Error() != want {
		t.Errorf("err = %v; want %s", err, want)
	}
}

// Results of prefetches that arrive after the last record are waited for, on
// the replay's clock, and not for ever.
func TestDrain(t *testing.T) {
	spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: makeKeys(t, 0, 4), Layout: makeLayout(t), Window: kv.FullAttention}}}
	for _, tt := range []struct {
		name                  string
		after, timeout        time.Duration
		hits, unfinished, end int64 // end in ns
	}{
		{"arrives", 100 * time.Millisecond, 0, 4, 0, 100e6},
		{"too late", 10 * time.Second, 0, 0, 4, 5e9},
		{"no wait", 100 * time.Millisecond, -1, 0, 4, 0},
	} {
		src := storageSource()
		src.add(trace.OpSubmitPrefetchTask, 0, trace.Args{Spec: spec})
		m := &manager{results: map[int64]*sm.PrefetchResult{}}
		c := clock.NewVirtual(0)
		c.AfterFunc(tt.after, func() {
			m.results[0] = &sm.PrefetchResult{L2Hits: 4, Rows: []sm.PrefetchRow{{L2: bitmap(4, 0, 1, 2, 3)}}}
		})
		res, err := replay.Run(t.Context(), replay.Options{Source: src, Manager: m, Clock: c, DrainTimeout: tt.timeout})
		if err != nil {
			t.Fatal(err)
		}
		if res.Outcome[replay.L2HitKeys] != tt.hits || res.Outcome[replay.UnfinishedKeys] != tt.unfinished || c.Now() != tt.end {
			t.Errorf("%s: %d hits, %d unfinished, at %d ns; want %d, %d, %d", tt.name,
				res.Outcome[replay.L2HitKeys], res.Outcome[replay.UnfinishedKeys], c.Now(), tt.hits, tt.unfinished, tt.end)
		}
		if res.DurationS != 0 {
			t.Errorf("%s: duration %v s includes the wait; want 0", tt.name, res.DurationS)
		}
	}
}
