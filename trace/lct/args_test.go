package lct_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

var replayable = []string{
	"real-0.4.6.lct", "real-0.4.7.lct", "real-0.5.0.lct", "real-0.5.2.lct", "real-0.5.3rc1.lct", "real-0.5.3.lct",
	"real-0.5.5.lct", "real-0.5.6.lct", "real-0.5.7rc2.lct", "tiny.lct", "tiny-newest.lct", "tiny-schema2.lct",
	"../lct-v1-server/bench.lct",
}

// TestArgsComplete decodes every record of every era.
func TestArgsComplete(t *testing.T) {
	for _, name := range replayable {
		r, err := lct.Open(filepath.Join(vectors, name), func(w string) { t.Errorf("%s: warning %s", name, w) })
		if err != nil {
			t.Fatal(err)
		}
		var a trace.Args
		for r.Next() {
			if err := r.Args(&a); err != nil {
				t.Errorf("%s: record %d %s: %v", name, r.Record().Seq, r.Record().Qualname, err)
			}
			if r.Record().Op == trace.OpSubmitPrefetchTask {
				if err := a.Spec.Validate(); err != nil {
					t.Errorf("%s: record %d: %v", name, r.Record().Seq, err)
				}
			} else if a.Spec != nil || len(a.Keys) == 0 {
				t.Errorf("%s: record %d: %d keys, spec %v", name, r.Record().Seq, len(a.Keys), a.Spec)
			}
		}
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		r.Close()
	}
}

// TestArgsContent looks at records of each era, in text form. What the
// recordings contain: reference lct-v1.md, section 7.5.
func TestArgsContent(t *testing.T) {
	const (
		one = "[2,2,16,128]:bfloat16"
		two = "[2,2,16,128]:float16+[16,144]:uint8"

		server = "d653@1000100 4d03@1000100"
	)
	e3on := []string{
		2: "spec req-0001 readers=1 prefix LOCK skip=false\n  group 0 window -1 " + one + ": a668@1000100 d6b5@1000100 673a@1000100",
		8: "spec req-0002 readers=2 prefix LOCK skip=true\n  group 0 window -1 " + two + ": b37a@1000100 3f4f@1000100" +
			"\n  group 1 window 1 " + two + ": b37a@1000100 3f4f@1000100",
		15: "spec req-0003 readers=3 full LOCK skip=false\n  group 0 window -1 " + one + ": a668@1000100 d6b5@1000100",
		16: "locks=3: a668@1000100 d6b5@1000100",
		17: "spec  readers=1 prefix NO_LOCK skip=false\n  group 0 window -1 " + one + ": a668@1000100 a108@1000100",
	}
	s2 := slices.Clone(e3on)
	s2[8] = strings.Replace(s2[8], "skip=true", "skip=false", 1)
	s2[15] = strings.Replace(s2[15], "skip=false", "skip=false l1=[{cxl local} {dram local}] l2=[]", 1)
	tests := []struct {
		name string
		want []string // by record; "" is not looked at
	}{
		{"real-0.4.6.lct", []string{
			0: one + " new: a668@1000100 d6b5@1000100 673a@1000100",
			1: ": a668@1000100 d6b5@1000100 673a@1000100",
			2: e3on[2],
			6: two + " all: b37a@2000200 b37a@2010201 3f4f@2000200 3f4f@2010201",
			8: "spec req-0002 readers=2 prefix LOCK skip=false\n  group 0 window -1 " + two + ": b37a@2000200 3f4f@2000200" +
				"\n  group 0 window -1 " + two + ": b37a@2010201 3f4f@2010201",
			11: "locks=1: b37a@2000200 b37a@2010201 3f4f@2000200 3f4f@2010201",
			16: "locks=3: a668@1000100 d6b5@1000100",
			20: one + " update: a668@1000100",
		}},
		{"real-0.5.0.lct", []string{
			8: "spec req-0002 readers=2 prefix LOCK skip=true\n  group 0 window -1 " + two + ": b37a@1000100 3f4f@1000100" +
				"\n  group 1 window -1 " + two + ": b37a@1000100 3f4f@1000100",
			15: e3on[15],
			17: strings.Replace(e3on[17], "NO_LOCK", "LOCK", 1), // no modes yet
		}},
		{"real-0.5.2.lct", e3on},
		{"real-0.5.3rc1.lct", e3on},
		{"real-0.5.3.lct", e3on},
		{"real-0.5.5.lct", e3on},
		{"real-0.5.6.lct", e3on},
		{"real-0.5.7rc2.lct", s2},
		{"../lct-v1-server/bench.lct", []string{1: "[2,4,256,128]:float16 new: " + server, 2: ": " + server, 4: "locks=1: " + server}},
	}
	for _, tt := range tests {
		r, err := lct.Open(filepath.Join(vectors, tt.name), nil)
		if err != nil {
			t.Fatal(err)
		}
		var a trace.Args
		for r.Next() {
			if err := r.Args(&a); err != nil {
				t.Fatal(err)
			}
			i := int(r.Record().Seq)
			if i < len(tt.want) && tt.want[i] != "" {
				if got := argsText(r.Record().Op, &a); got != tt.want[i] {
					t.Errorf("%s: record %d: got\n%s\nwant\n%s", tt.name, i, got, tt.want[i])
				}
			}
		}
		r.Close()
	}
}

// argsText shows the arguments of a call; a key is the begin of its hash and
// its rank.
func argsText(op trace.Op, a *trace.Args) string {
	keys := func(list []kv.ObjectKey) string {
		s := ":"
		for _, k := range list {
			s += fmt.Sprintf(" %x@%x", k.ChunkHash()[:2], k.Rank)
		}
		return s
	}
	switch op {
	case trace.OpReserveWrite:
		return fmt.Sprintf("%v %v%s", a.Layout.Desc(), a.Mode, keys(a.Keys))
	case trace.OpFinishReadPrefetched:
		return fmt.Sprintf("locks=%d%s", a.Count, keys(a.Keys))
	case trace.OpSubmitPrefetchTask:
		s := fmt.Sprintf("spec %s readers=%d %v %v skip=%t", a.Text, a.Spec.Readers, a.Spec.Policy, a.Spec.Lock, a.Flag)
		if a.Spec.L1Tags != nil || a.Spec.L2Tags != nil {
			s += fmt.Sprintf(" l1=%v l2=%v", a.Spec.L1Tags, a.Spec.L2Tags)
		}
		if a.Spec.Flat {
			s += " flat"
		}
		for _, g := range a.Spec.Groups {
			s += fmt.Sprintf("\n  group %d window %d %v%s", g.Group, g.Window, g.Layout.Desc(), keys(g.Keys))
		}
		return s
	}
	return keys(a.Keys)
}

// TestSkippedRecord checks that one record's bad arguments do not disturb the
// next: upstream skips the record.
func TestSkippedRecord(t *testing.T) {
	r, err := lct.Open(filepath.Join(vectors, "malformed.lct"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var a trace.Args
	if err := r.Args(&a); err == nil {
		t.Error("Args before Next: got no error")
	}
	var got []string
	for r.Next() {
		got = append(got, fmt.Sprint(r.Record().Op == trace.OpFinishWrite, r.Args(&a)))
	}
	want := []string{"false <nil>", "true argument keys: key 0: trace.codecs: unknown tag 'NoSuchTag'", "true <nil>"}
	if !slices.Equal(got, want) || len(a.Keys) == 0 {
		t.Errorf("got %q, %d keys at the end; want %q, some", got, len(a.Keys), want)
	}
	if r.Next() || r.Args(&a) == nil {
		t.Error("after the end: got a record")
	}
}

// TestUnknownOp checks that an operation of a later release keeps its name.
func TestUnknownOp(t *testing.T) {
	r, err := lct.Open(filepath.Join(vectors, "unknown-op.lct"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Next()
	r.Next()
	if rec := r.Record(); rec.Op != trace.OpUnknown || rec.Qualname != sm+"frobnicate" || rec.Seq != 1 {
		t.Errorf("got %+v; want the unknown operation frobnicate, number 1", rec)
	}
}

// TestRecord checks times and offsets against the frames of the reference,
// section 7.2.
func TestRecord(t *testing.T) {
	r, err := lct.Open(filepath.Join(vectors, "tiny.lct"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if h := r.Header(); h.Native || h.FormatVersion != 1 || h.SchemaVersion != 1 || h.Level != trace.LevelStorage || len(h.ConfigJSON) != 419 ||
		h.MonoStartNS != 86400500000000 || h.WallStartNS != 1776470400250000000 || h.LevelMeta != nil {
		t.Errorf("header: got %+v", h)
	}
	offsets := []int64{645, 1252, 1770, 2417, 2956, 3494, 4035, 4470, 4798, 5388, 5737, 6085}
	for i, want := range offsets {
		if !r.Next() || r.Record().Offset != want {
			t.Fatalf("record %d: got offset %d; want %d", i, r.Record().Offset, want)
		}
	}
	if rec := r.Record(); rec.MonoNS != 3125e6 || rec.WallNS != 1776470403375000000 || rec.Op != trace.OpFinishReadPrefetched || rec.Seq != 11 {
		t.Errorf("last record: got %+v", rec)
	}
	var a trace.Args
	if err := r.Args(&a); err != nil {
		t.Fatal(err)
	}
	want, _ := kv.InternScope("meta-llama/Llama-3.1-8B-Instruct", "")
	if len(a.Keys) != 2 || a.Count != 4 || string(a.Keys[1].ChunkHash()) != "\x00\x00\x00\x05" || a.Keys[0].Rank != 16777472 || a.Keys[0].Scope != want {
		t.Errorf("last record: got %v, %d locks; want keys 4 and 5, 4 locks", a.Keys, a.Count)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil || r.Next() {
		t.Errorf("closed twice: got %v, or a record", err)
	}
}
