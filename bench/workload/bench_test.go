package workload_test

import (
	"context"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
)

// missManager answers every call at once and has nothing: what remains is the
// engine's own cost, all of every prompt being stored.
type missManager struct {
	result  sm.PrefetchResult
	results []l1.WriteResult
	codes   []l1.Code
}

func newMissManager() *missManager {
	m := &missManager{results: make([]l1.WriteResult, 1<<14), codes: make([]l1.Code, 1<<14)}
	for i := range m.results {
		m.results[i].Code, m.codes[i] = l1.Success, l1.Success
	}
	m.result.Rows = []sm.PrefetchRow{{Hits: kv.NewBitmap(1 << 14)}}
	return m
}

func (m *missManager) SubmitPrefetchTask(*kv.PrefetchSpec, string, bool) (h sm.PrefetchHandle, err error) {
	return h, nil
}
func (m *missManager) QueryPrefetchStatus(sm.PrefetchHandle) (*sm.PrefetchResult, bool) {
	return &m.result, true
}
func (m *missManager) ReadPrefetched([]kv.ObjectKey) workload.Read { panic("nothing is there") }
func (m *missManager) FinishReadPrefetched(k []kv.ObjectKey, _ int) []l1.Code {
	return m.codes[:len(k)]
}
func (m *missManager) ReserveWrite(k []kv.ObjectKey, _ kv.Layout, _ kv.WriteMode) ([]l1.WriteResult, error) {
	return m.results[:len(k)], nil
}
func (m *missManager) FinishWrite(k []kv.ObjectKey) []l1.Code { return m.codes[:len(k)] }
func (m *missManager) Stats() (s sm.Stats)                    { return s }

// BenchmarkRun runs workloads on virtual time against a manager that costs
// nothing: reading the file, hashing, making keys and the engine's events.
//
//	go test ./bench/workload -run '^$' -bench '^BenchmarkRun$' -count 5
func BenchmarkRun(b *testing.B) {
	for name, spec := range map[string]string{"mooncake": "mooncake:" + conversation, "agentic": "agentic:" + sessions20, "chat": "chat:1"} {
		b.Run("workload="+name, func(b *testing.B) {
			b.ReportAllocs()
			requests, chunks := 0, 0
			for b.Loop() {
				w := open(b, spec, workload.SourceOptions{})
				opt := workload.Options{Clock: clock.NewVirtual(0), Manager: newMissManager()}
				if w.Endless() {
					opt.MaxRequests = 1000
				}
				res, err := workload.Run(context.Background(), w, opt)
				if err != nil {
					b.Fatal(err)
				}
				requests += res.Requests
				chunks += int(res.Chunks)
			}
			ns := float64(b.Elapsed().Nanoseconds())
			b.ReportMetric(ns/float64(requests), "ns/request")
			b.ReportMetric(ns/float64(chunks), "ns/chunk")
		})
	}
}
