package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
)

// memorySource is a trace in memory.
type memorySource struct {
	records []trace.Record
	args    []trace.Args
	errs    map[int]error // by record: why its arguments do not decode
	err     error         // at the end
	i       int           // of the next record
}

func (s *memorySource) Header() *trace.Header { return &trace.Header{} }
func (s *memorySource) Next() bool            { s.i++; return s.i <= len(s.records) }
func (s *memorySource) Record() trace.Record  { return s.records[s.i-1] }
func (s *memorySource) Err() error            { return s.err }
func (s *memorySource) Close() error          { return nil }
func (s *memorySource) Args(a *trace.Args) error {
	*a = s.args[s.i-1]
	return s.errs[s.i-1]
}

// everyOp is one record of every operation of the schema, one of an unknown
// operation, and one that does not decode.
func everyOp(t *testing.T) *memorySource {
	t.Helper()
	scope, err := kv.InternScope("meta/m", "tenant")
	if err != nil {
		t.Fatal(err)
	}
	bf16, _ := kv.ParseDType("bfloat16")
	layout, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{2, 4}}, DTypes: []kv.DType{bf16}})
	if err != nil {
		t.Fatal(err)
	}
	var keys []kv.ObjectKey
	for _, hash := range []string{"\x01\x02", "\x03\x04", "\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"} {
		k, err := kv.NewObjectKey([]byte(hash), scope, 0x02010201, 3)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	a := trace.Args{Keys: keys, Layout: layout, Mode: kv.ModeUpdate, Text: "req <é>", Flag: true, Count: 2,
		Spec: &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keys[:1], Group: 3, Layout: layout, Window: kv.FullAttention}},
			L1Tags: []kv.MemoryTag{{Segment: "s", Residency: "r"}}}}
	s := &memorySource{errs: map[int]error{}}
	add := func(op trace.Op, qualname string) {
		n := int64(len(s.records))
		s.records = append(s.records, trace.Record{Op: op, Qualname: qualname, MonoNS: n * 500_000_000, WallNS: 1_700_000_000_000_000_000 + n, Seq: uint64(n), Offset: n * 64})
		s.args = append(s.args, a)
	}
	for _, row := range trace.Schema() {
		add(row.Op, row.Qualname)
	}
	add(trace.OpUnknown, "lmcache.v9.Other.call")
	add(trace.OpFinishWrite, trace.OpFinishWrite.String())
	s.errs[len(s.records)-1] = errors.New("trace.codecs: unknown tag 'X'")
	return s
}

func dumpText(t *testing.T, s trace.Source, o dumpOptions) string {
	t.Helper()
	var b strings.Builder
	w := bufio.NewWriter(&b)
	if err := dumpRecords(context.Background(), w, s, o); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return b.String()
}

func TestDumpBrief(t *testing.T) {
	const key = "meta/m@02010201@3@"
	want := `      1        0.000000  reserve_write  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]  layout_desc=[2,4]:bfloat16  mode=update
      2        0.500000  finish_write  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]
      3        1.000000  submit_prefetch_task  spec={policy=prefix lock=LOCK readers=1 group=3 window=-1 layout=[2,4]:bfloat16 keys=1[` + key + `0102@tenant]}  external_request_id="req <\u00e9>"  skip_l2=true
      4        1.500000  finish_read_prefetched  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]  read_locks=2
      5        2.000000  read_prefetched_results.__enter__  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]
      6        2.500000  read_prefetched_results.__exit__  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]
      7        3.000000  clear  force=true
      8        3.500000  touch_l1_keys  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]
      9        4.000000  delete_l1_keys  keys=3[` + key + `0102@tenant … ` + key + `05060708090a0b0c…@tenant]  force=true
     10        4.500000  lmcache.v9.Other.call  (an operation that this build does not know)
     11        5.000000  finish_write  cannot be decoded: trace.codecs: unknown tag 'X'
`
	if got := dumpText(t, everyOp(t), dumpOptions{brief: true, to: math.Inf(1)}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Every record is one JSON object that holds every argument of its operation.
func TestDumpJSONL(t *testing.T) {
	s := everyOp(t)
	lines := strings.Split(strings.TrimSuffix(dumpText(t, s, dumpOptions{jsonl: true, to: math.Inf(1)}), "\n"), "\n")
	if len(lines) != len(s.records) {
		t.Fatalf("got %d lines; want %d", len(lines), len(s.records))
	}
	for i, line := range lines {
		var got struct {
			N        int64                      `json:"n"`
			Seq      uint64                     `json:"seq"`
			Offset   int64                      `json:"offset_bytes"`
			Mono     int64                      `json:"t_mono_ns"`
			Wall     int64                      `json:"t_wall_ns"`
			Qualname string                     `json:"qualname"`
			Args     map[string]json.RawMessage `json:"args"`
			Error    string                     `json:"error"`
		}
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("line %d: %v\n%s", i+1, err, line)
		}
		want := s.records[i]
		if got.N != int64(i+1) || got.Seq != want.Seq || got.Offset != want.Offset || got.Mono != want.MonoNS || got.Wall != want.WallNS || got.Qualname != want.Qualname {
			t.Errorf("line %d: got %+v; want %+v", i+1, got, want)
		}
		row := want.Op.Row()
		if s.errs[i] != nil || want.Op == trace.OpUnknown {
			if got.Error == "" || got.Args != nil {
				t.Errorf("line %d: got error %q and %d args; want an error and none", i+1, got.Error, len(got.Args))
			}
			continue
		}
		if len(got.Args) != len(row.Args) {
			t.Errorf("line %d: got %d args; want %d", i+1, len(got.Args), len(row.Args))
		}
		for _, arg := range row.Args {
			if len(got.Args[arg.Name]) == 0 {
				t.Errorf("line %d: no argument %s", i+1, arg.Name)
			}
		}
	}
	const spec = `"spec": {"key_groups": [{"object_group_id": 3, "window_chunks": -1, "layout_desc": {"dtypes": ["torch.bfloat16"], "shapes": [[2, 4]], "size_bytes": 16}, ` +
		`"keys": [{"chunk_hash_hex": "0102", "model_name": "meta/m", "kv_rank": 33620481, "object_group_id": 3, "cache_salt": "tenant"}]}], ` +
		`"num_kv_readers": 1, "policy": "prefix", "lock_mode": "LOCK", "flat": false, "allowed_l1_memory_tags": [{"residency": "r", "segment": "s"}]}`
	if !strings.Contains(lines[2], spec) {
		t.Errorf("got %s\nwant in it %s", lines[2], spec)
	}
}

func TestDumpSelects(t *testing.T) {
	all := math.Inf(1)
	for _, tt := range []struct {
		name string
		o    dumpOptions
		want string // record numbers
	}{
		{"limit", dumpOptions{limit: 2, to: all}, "1 2"},
		{"short name", dumpOptions{ops: []string{"finish_write"}, to: all}, "2 11"},
		{"qualified name", dumpOptions{ops: []string{"lmcache.v9.Other.call"}, to: all}, "10"},
		{"two names, limited", dumpOptions{ops: []string{"reserve_write", "finish_write"}, limit: 2, to: all}, "1 2"},
		{"times, inclusive", dumpOptions{from: 1, to: 2}, "3 4 5"},
		{"nothing", dumpOptions{from: 99, to: all}, ""},
	} {
		tt.o.brief = true
		var got []string
		for _, line := range strings.Split(dumpText(t, everyOp(t), tt.o), "\n") {
			if f := strings.Fields(line); len(f) > 0 {
				got = append(got, f[0])
			}
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got records %q; want %q", tt.name, s, tt.want)
		}
	}
}

func TestDumpTellsWhatEndedTheFile(t *testing.T) {
	s := everyOp(t)
	s.err = errors.New("broken")
	if err := dumpRecords(context.Background(), bufio.NewWriter(&strings.Builder{}), s, dumpOptions{to: math.Inf(1)}); err != s.err {
		t.Errorf("got %v; want %v", err, s.err)
	}
}
