package workload_test

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

const (
	conversation = "../../testdata/workloads/mooncake-fast25/conversation_trace.jsonl.gz"
	sessions20   = "../../testdata/workloads/agentic-coding/sessions_20.compact.jsonl.gz"
	sessions2Raw = "../../testdata/workloads/agentic-coding/sessions_2.raw.jsonl.gz"
)

// open opens the workload that spec names and closes it with the test.
func open(t testing.TB, spec string, opt workload.SourceOptions) workload.Workload {
	t.Helper()
	s, err := workload.ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// take returns copies of the first n requests, all if n is 0.
func take(t testing.TB, w workload.Workload, n int) []workload.Request {
	t.Helper()
	var all []workload.Request
	for (n == 0 || len(all) < n) && w.Next() {
		r := *w.Request()
		r.Hashes = append([][32]byte(nil), r.Hashes...)
		all = append(all, r)
	}
	if err := w.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// writeFile writes a workload file into the test's folder.
func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func compress(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.Bytes()
}
