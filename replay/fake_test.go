package replay_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

var errArgs = errors.New("trace.codecs: unknown tag 'NoSuchTag'")

// source is a trace in memory.
type source struct {
	header  trace.Header
	records []fakeRecord
	repeat  int   // of the whole list; 1 if zero
	err     error // what ends the reading

	i, round int
}

type fakeRecord struct {
	rec  trace.Record
	args trace.Args
	err  error // of decoding
}

func (s *source) Header() *trace.Header { return &s.header }
func (s *source) Next() bool {
	if s.i++; s.i > len(s.records) && s.round+1 < s.repeat {
		s.round++
		s.i = 1
	}
	return s.i <= len(s.records)
}
func (s *source) Record() trace.Record { return s.records[s.i-1].rec }
func (s *source) Args(a *trace.Args) error {
	r := &s.records[s.i-1]
	if r.err != nil {
		return r.err
	}
	*a = r.args
	return nil
}
func (s *source) Err() error   { return s.err }
func (s *source) Close() error { return nil }

// add appends a record at ms milliseconds.
func (s *source) add(op trace.Op, ms float64, args trace.Args) {
	s.records = append(s.records, fakeRecord{rec: trace.Record{Op: op, Qualname: op.String(), MonoNS: int64(ms * 1e6)}, args: args})
}

func storageSource() *source {
	return &source{header: trace.Header{Level: trace.LevelStorage, ConfigDigest: "0f685d8a68ee4e1f", WallStartNS: 1776470400250000000}}
}

// manager is a storage manager that answers as it is told to.
type manager struct {
	codes   []l1.Code // of the next call, repeated over its keys; Success if empty
	fail    error     // of the next call that can fail
	results map[int64]*sm.PrefetchResult
	stats   sm.Stats
	onCall  func(op trace.Op)

	submitted int64
	calls     []string
	reads     int // entered
}

type read struct {
	m     *manager
	codes []l1.Code
	name  string
}

func (m *manager) called(op trace.Op, format string, args ...any) {
	if m.onCall != nil {
		m.onCall(op)
	}
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

func (m *manager) answer(n int) []l1.Code {
	out := make([]l1.Code, n)
	for i := range out {
		out[i] = l1.Success
		if len(m.codes) > 0 {
			out[i] = m.codes[i%len(m.codes)]
		}
	}
	return out
}

func (m *manager) ReserveWrite(keys []kv.ObjectKey, layout kv.Layout, mode kv.WriteMode) ([]l1.WriteResult, error) {
	m.called(trace.OpReserveWrite, "reserve %d %v", len(keys), mode)
	if m.fail != nil {
		return nil, m.fail
	}
	var results []l1.WriteResult
	for _, c := range m.answer(len(keys)) {
		results = append(results, l1.WriteResult{Code: c})
	}
	return results, nil
}

func (m *manager) FinishWrite(keys []kv.ObjectKey) []l1.Code {
	m.called(trace.OpFinishWrite, "finish %d", len(keys))
	return m.answer(len(keys))
}

func (m *manager) SubmitPrefetchTask(spec *kv.PrefetchSpec, id string, skipL2 bool) (sm.PrefetchHandle, error) {
	m.called(trace.OpSubmitPrefetchTask, "submit %s %v", id, skipL2)
	if m.fail != nil {
		return sm.PrefetchHandle{}, m.fail
	}
	m.submitted++
	return sm.PrefetchHandle{ID: m.submitted - 1, ExternalRequestID: id}, nil
}

func (m *manager) QueryPrefetchStatus(h sm.PrefetchHandle) (*sm.PrefetchResult, bool) {
	res, ok := m.results[h.ID]
	return res, ok
}

func (m *manager) ReadPrefetched(keys []kv.ObjectKey) replay.Read {
	m.called(trace.OpReadPrefetchedEnter, "enter %d", len(keys))
	m.reads++
	return &read{m, m.answer(len(keys)), fmt.Sprintf("read %d", m.reads-1)}
}

func (r *read) Codes() []l1.Code { return r.codes }
func (r *read) Exit(err error)   { r.m.called(trace.OpReadPrefetchedExit, "exit %s %v", r.name, err) }

func (m *manager) FinishReadPrefetched(keys []kv.ObjectKey, readLocks int) []l1.Code {
	m.called(trace.OpFinishReadPrefetched, "release %d %d", len(keys), readLocks)
	return m.answer(len(keys))
}

func (m *manager) Clear(force bool) { m.called(trace.OpClear, "clear %v", force) }

func (m *manager) Touch(keys []kv.ObjectKey) { m.called(trace.OpTouch, "touch %d", len(keys)) }

func (m *manager) DeleteL1(keys []kv.ObjectKey, force bool) (deleted, skipped int) {
	m.called(trace.OpDelete, "delete %d %v", len(keys), force)
	return len(keys), 0
}

func (m *manager) Stats() sm.Stats { return m.stats }

// makeKeys returns the keys from up to but not including to.
func makeKeys(t testing.TB, from, to int) []kv.ObjectKey {
	t.Helper()
	scope, err := kv.InternScope("meta-llama/Llama-3.1-8B-Instruct", "")
	if err != nil {
		t.Fatal(err)
	}
	var keys []kv.ObjectKey
	for i := from; i < to; i++ {
		k, err := kv.NewObjectKey([]byte{0, 0, byte(i >> 8), byte(i)}, scope, kv.PackRank(1, 0, 1, 0), 0)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// makeLayout returns a layout of a MiB.
func makeLayout(t testing.TB) kv.Layout {
	t.Helper()
	bf16, _ := kv.ParseDType("bfloat16")
	l, err := kv.InternLayout(kv.LayoutDesc{Shapes: [][]int64{{2, 8, 32, 1024}}, DTypes: []kv.DType{bf16}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bitmap(n int, set ...int) kv.Bitmap {
	b := kv.NewBitmap(n)
	for _, i := range set {
		b.Set(i)
	}
	return b
}
