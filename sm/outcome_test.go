package sm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// TestTracedOutcomes records a run with a store below and reads what came of
// every call: a prefetch that loads reports when its result is there.
func TestTracedOutcomes(t *testing.T) {
	dtype, _ := kv.ParseDType("uint8")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{1 << 20}}, DTypes: []kv.DType{dtype}})
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/run.lct"
	clk := clock.NewVirtual(0)
	r, err := trace.Create(path, trace.Options{RingDir: t.TempDir(), Overflow: trace.OverflowBlock, Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	cfg := sm.DefaultConfig()
	cfg.L1.SizeBytes, cfg.Eviction.Policy = 8<<20, "LRU"
	cfg.L2Adapters = []string{`{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 1}`}
	m, err := sm.New(cfg, sm.Options{Clock: clk, Tracer: r, Memory: sm.ScratchMemory, Adapters: l2.Registry{"mock": mock.Kind}, ManualEviction: true})
	if err != nil {
		t.Fatal(err)
	}
	wait := func() {
		if err := clk.SleepUntil(t.Context(), clk.Now()+1e9); err != nil {
			t.Fatal(err)
		}
	}
	k := span(0, 4)
	reserve := func(keys []kv.ObjectKey, l kv.Layout) error {
		_, err := m.ReserveWrite(keys, l, kv.ModeNew)
		return err
	}
	prefetch := func(keys []kv.ObjectKey) {
		t.Helper()
		spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys, Layout: layout, Window: kv.FullAttention}}}
		h, err := m.SubmitPrefetchTask(spec, "", false)
		if err != nil {
			t.Fatal(err)
		}
		wait()
		if _, ok := m.QueryPrefetchStatus(h); !ok {
			t.Fatal("no result after a second")
		}
	}
	if err := reserve(k[:3], layout); err != nil {
		t.Fatal(err)
	}
	m.FinishWrite(k[:4])
	wait() // for the store
	m.Clear(true)
	if err := reserve(k[:1], layout); err != nil {
		t.Fatal(err)
	}
	m.FinishWrite(k[:1])
	if err := reserve(k[:2], layout); err != nil {
		t.Fatal(err)
	}
	m.FinishWrite(k[1:2])
	prefetch(k)
	read := m.ReadPrefetched(k[:3])
	read.Exit(nil)
	m.Touch(k) // one of the three is a copy that goes with its reader; one was never written
	if deleted, skipped := m.DeleteL1(k, false); deleted != 0 || skipped != 3 {
		t.Errorf("deleted %d, skipped %d under locks; want 0, 3", deleted, skipped)
	}
	m.FinishReadPrefetched(k[:3], 1)
	if err := reserve(k, 0); err == nil {
		t.Fatal("a layout without bytes was taken")
	}
	if _, err := m.SubmitPrefetchTask(&kv.PrefetchSpec{Groups: []kv.KeyGroup{{Keys: k}, {Keys: k[:1]}}}, "", false); err == nil {
		t.Fatal("a grid with a hole was taken")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	src, err := trace.OpenNative(path, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var got []string
	src.OnOutcome(func(o *trace.OutcomeRecord) {
		line := fmt.Sprintf("%d %s", o.Seq, o.Qualname[strings.LastIndex(o.Qualname, ".")+1:])
		for i, n := range o.Counts {
			line += fmt.Sprintf(" %d", n)
			if i < len(o.Bits) {
				line += fmt.Sprintf("(%s)", o.Bits[i])
			}
		}
		if o.Failed {
			line += " failed"
		}
		if o.DurationNS > 0 {
			line += " later"
		}
		got = append(got, line)
	})
	for src.Next() {
	}
	want := []string{
		"0 reserve_write 3(111) 0 0",
		"1 finish_write 3(1110) 1",
		"2 clear 3",
		"3 reserve_write 1(1) 0 0",
		"4 finish_write 1(1) 0",
		"5 reserve_write 1(01) 1 0",
		"6 finish_write 1(1) 0",
		"7 submit_prefetch_task 2(1100) 1(0010) 1 later",
		"8 __enter__ 3(111) 0",
		"9 __exit__ 0 0",
		"10 touch_l1_keys 3",
		"11 delete_l1_keys 0(0000) 4",
		"12 finish_read_prefetched 3(111) 0 1", // the loaded copy goes with its last lock
		"13 reserve_write 0 0 0 failed",
		"14 submit_prefetch_task 0 0 0 failed",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || src.Err() != nil {
		t.Errorf("error %v, got\n%s\nwant\n%s", src.Err(), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
