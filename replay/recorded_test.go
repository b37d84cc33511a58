package replay_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// recordRun makes the calls of a small workload on a storage manager with room
// for so many objects, and records them.
func recordRun(t *testing.T, path string, objects int64) {
	t.Helper()
	clk := clock.NewVirtual(1_776_470_400_250_000_000)
	r, err := trace.Create(path, trace.Options{RingDir: t.TempDir(), Overflow: trace.OverflowBlock, Clock: clk, ConfigJSON: "{}"})
	if err != nil {
		t.Fatal(err)
	}
	m := newSized(t, objects, clk, r)
	layout, k := makeLayout(t), makeKeys(t, 0, 6)
	for part := range 3 { // a reservation gets all or nothing
		if _, err := m.ReserveWrite(k[2*part:2*part+2], layout, kv.ModeNew); err != nil {
			t.Fatal(err)
		}
	}
	m.FinishWrite(k)
	h, err := m.SubmitPrefetchTask(&kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: k, Layout: layout, Window: kv.FullAttention}}}, "r", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.QueryPrefetchStatus(h); !ok {
		t.Fatal("no result")
	}
	read := m.ReadPrefetched(k)
	read.Exit(nil)
	m.FinishReadPrefetched(k, 1)
	if _, err := m.ReserveWrite(k, 0, kv.ModeNew); err == nil {
		t.Fatal("a layout without bytes was taken")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func newSized(t *testing.T, objects int64, clk clock.Clock, r *trace.Recorder) *sm.Manager {
	t.Helper()
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = objects*makeLayout(t).Bytes(), "LRU"
	cfg.L1.AlignBytes = 1
	m, err := sm.New(cfg, sm.Options{Clock: clk, Tracer: r, Memory: sm.ScratchMemory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestRecordedOutcome replays a recording with the same memory and with less:
// what was recorded and what came of the replay are side by side.
func TestRecordedOutcome(t *testing.T) {
	path := t.TempDir() + "/run.lct"
	recordRun(t, path, 4) // of six objects
	for objects, want := range map[int64]map[string]map[string][2]int64{
		4: {
			"reserve_write":          {"reserved_keys": {4, 4}, "oom_keys": {2, 2}, "refused_keys": {0, 0}},
			"finish_write":           {"written_keys": {4, 4}, "write_failed_keys": {2, 2}},
			"submit_prefetch_task":   {"l1_hit_keys": {4, 4}, "missed_keys": {2, 2}},
			"finish_read_prefetched": {"released_keys": {0, 0}, "release_failed_keys": {6, 6}},
		},
		2: {
			"reserve_write":        {"reserved_keys": {4, 2}, "oom_keys": {2, 4}},
			"submit_prefetch_task": {"l1_hit_keys": {4, 2}, "missed_keys": {2, 4}},
		},
	} {
		src, err := trace.OpenNative(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		clk := clock.NewVirtual(0)
		var table bytes.Buffer
		m := newSized(t, objects, clk, nil)
		res, err := replay.Run(t.Context(), replay.Options{Source: src, Path: path, Manager: replay.StorageManager(m), Clock: clk, Table: &table})
		if err != nil {
			t.Fatal(err)
		}
		src.Close()
		got := map[string]replay.Recorded{}
		for _, r := range res.Recorded {
			got[r.Qualname[strings.LastIndex(r.Qualname, ".")+1:]] = r
		}
		for op, counts := range want {
			for name, n := range counts {
				if then, now := got[op].Counts[name], got[op].Replayed[name]; then != n[0] || now != n[1] {
					t.Errorf("%d objects: %s of %s: then %d, now %d; want %v", objects, name, op, then, now, n)
				}
			}
		}
		if r := got["reserve_write"]; r.Outcomes != 4 || r.Failed != 1 {
			t.Errorf("reserve_write: %d outcomes, %d failed; want 4, 1", r.Outcomes, r.Failed)
		}
		row := fmt.Sprintf("submit_prefetch_task l1 hit: then 4, now %d", min(objects, 4))
		if text := strings.Join(strings.Fields(table.String()), " "); !strings.Contains(text, row) {
			t.Errorf("%d objects: the table lacks %q:\n%s", objects, row, table.String())
		}
		if j, err := json.Marshal(res); err != nil || !bytes.Contains(j, []byte(`"recorded_outcome":[`)) {
			t.Errorf("JSON: %s, %v", j, err)
		}
	}
}
