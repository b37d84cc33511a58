package lct_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// TestReencode decodes the recordings of every release and encodes them again:
// header and records must come out as they were, byte for byte, times included.
func TestReencode(t *testing.T) {
	tests := map[string]string{
		"real-0.4.6.lct": "0.4.6", "real-0.4.7.lct": "0.4.7", "real-0.5.0.lct": "0.5.0", "real-0.5.2.lct": "0.5.2",
		"real-0.5.3rc1.lct": "0.5.3rc1", "real-0.5.3.lct": "0.5.3", "real-0.5.5.lct": "0.5.5", "real-0.5.6.lct": "0.5.6",
		"real-0.5.7rc2.lct": "0.5.7rc2", "tiny.lct": "0.4.4", "tiny-newest.lct": "0.5.6", "tiny-schema2.lct": "0.5.7rc2",
		"../lct-v1-server/bench.lct": "0.5.6",
	}
	for name, release := range tests {
		era, ok := lct.EraOf(release)
		if !ok {
			t.Fatalf("EraOf(%s): not known", release)
		}
		r, err := lct.Open(filepath.Join(vectors, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		want := file(t, name)
		got, err := lct.AppendHeader(nil, r.Header())
		if err != nil {
			t.Fatal(err)
		}
		var a trace.Args
		for r.Next() {
			rec := r.Record()
			if !bytes.Equal(got, want[:rec.Offset]) {
				t.Fatalf("%s: differs before record %d at offset %d", name, rec.Seq, rec.Offset)
			}
			if err := r.Args(&a); err != nil {
				t.Fatal(err)
			}
			var loss lct.Loss
			if got, loss, err = lct.AppendRecord(got, era, r.Header(), &rec, &a); err != nil || loss != 0 {
				t.Errorf("%s: record %d: lost %q, error %v", name, rec.Seq, loss, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the last record differs", name)
		}
		if r.Header().SchemaVersion != era.SchemaVersion() {
			t.Errorf("%s: schema %d; want that of its era, %d", name, r.Header().SchemaVersion, era.SchemaVersion())
		}
	}
}

// TestLoss checks that what an era cannot hold is named, and nothing else.
func TestLoss(t *testing.T) {
	salted := key(t, 1, 1, 0, "tenant-a")
	layout, other := layoutOf(t, 2, 16), layoutOf(t, 2, 32)
	plain := func() *kv.PrefetchSpec {
		return &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: []kv.ObjectKey{key(t, 1, 1, 0, "")}, Layout: layout, Window: kv.FullAttention}}}
	}
	with := func(change func(*kv.PrefetchSpec)) trace.Args {
		s := plain()
		change(s)
		return trace.Args{Spec: s}
	}
	second := func(l kv.Layout, window int32) func(*kv.PrefetchSpec) {
		return func(s *kv.PrefetchSpec) {
			s.Groups = append(s.Groups, kv.KeyGroup{Keys: []kv.ObjectKey{key(t, 1, 1, 1, "")}, Group: 1, Layout: l, Window: window})
		}
	}
	prefetch, write := trace.OpSubmitPrefetchTask, trace.OpReserveWrite
	tests := []struct {
		name string
		era  lct.Era
		op   trace.Op
		args trace.Args
		want string
	}{
		{"nothing", lct.E1, prefetch, with(func(*kv.PrefetchSpec) {}), ""},
		{"salt", lct.E6, trace.OpFinishWrite, trace.Args{Keys: []kv.ObjectKey{salted}}, "cache_salt"},
		{"mode", lct.E6, write, trace.Args{Mode: kv.ModeAll}, "mode"},
		{"mode", lct.E5, write, trace.Args{Mode: kv.ModeAll}, ""},
		{"policy", lct.E1, prefetch, with(func(s *kv.PrefetchSpec) { s.Policy = kv.FetchFull }), "fetching_policy"},
		{"policy", lct.E2a, prefetch, with(func(s *kv.PrefetchSpec) { s.Policy = kv.FetchSegmentedPrefix }), ""},
		{"policy", lct.E6, prefetch, with(func(s *kv.PrefetchSpec) { s.Policy = kv.FetchSegmentedPrefix }), "fetching_policy"},
		{"lock", lct.E2b, prefetch, with(func(s *kv.PrefetchSpec) { s.Lock = kv.NoLock }), "lock_mode"},
		{"lock", lct.E3a, prefetch, with(func(s *kv.PrefetchSpec) { s.Lock = kv.NoLock }), ""},
		{"group", lct.E1, prefetch, with(second(layout, kv.FullAttention)), "object_group_id, shape of the key groups"},
		{"window", lct.E2a, prefetch, with(second(layout, 4)), "sliding_window_size"},
		{"window", lct.E3a, prefetch, with(second(layout, 4)), ""},
		{"layout", lct.E3b, prefetch, with(second(other, 4)), "layout_desc by group"},
		{"layout", lct.E4, prefetch, with(second(other, 4)), ""},
		{"skip_l2", lct.E2a, prefetch, trace.Args{Spec: plain(), Flag: true}, "skip_l2"},
		{"skip_l2", lct.S2, prefetch, trace.Args{Spec: plain(), Flag: true}, "skip_l2"},
		{"skip_l2", lct.E6, prefetch, trace.Args{Spec: plain(), Flag: true}, ""},
		{"tags", lct.E6, prefetch, with(func(s *kv.PrefetchSpec) { s.L2Tags = []kv.MemoryTag{} }), "memory tags"},
		{"locks", lct.E4, trace.OpFinishReadPrefetched, trace.Args{Count: 0}, "read_locks"},
		{"locks", lct.E5, trace.OpFinishReadPrefetched, trace.Args{Count: 0}, ""},
		{"several", lct.E1, prefetch, with(func(s *kv.PrefetchSpec) { s.Lock, s.Policy = kv.NoLock, kv.FetchFull }), "fetching_policy, lock_mode"},
	}
	for _, tt := range tests {
		rec := trace.Record{Op: tt.op, Qualname: tt.op.String()}
		_, loss, err := lct.AppendRecord(nil, tt.era, &trace.Header{}, &rec, &tt.args)
		if err != nil || loss.String() != tt.want {
			t.Errorf("%s, era %d: got %q, %v; want %q", tt.name, tt.era, loss, err, tt.want)
		}
	}
	rec := trace.Record{Qualname: "events.batch"}
	if b, _, err := lct.AppendRecord([]byte("x"), lct.E6, &trace.Header{}, &rec, &trace.Args{}); err == nil || string(b) != "x" {
		t.Errorf("an unknown operation: got %q, %v; want dst and an error", b, err)
	}
}

// key returns a key with a hash of 32 bytes that is made of i.
func key(t testing.TB, i int, rank uint64, group uint32, salt string) kv.ObjectKey {
	t.Helper()
	scope, err := kv.InternScope("meta-llama/Llama-3.1-8B-Instruct", salt)
	if err != nil {
		t.Fatal(err)
	}
	hash := make([]byte, 32)
	for j := range hash {
		hash[j] = byte(i>>(j%4*8)) ^ byte(j*37)
	}
	k, err := kv.NewObjectKey(hash, scope, rank, group)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func layoutOf(t testing.TB, shape ...int64) kv.Layout {
	t.Helper()
	d, _ := kv.ParseDType("bfloat16")
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{shape}, DTypes: []kv.DType{d}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
