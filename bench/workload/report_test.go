package workload_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

var update = flag.Bool("update", false, "rewrite golden files")

func reportOf(t *testing.T) *workload.Result {
	w := open(t, "mooncake:"+writeFile(t, "handmade.jsonl", []byte(handmade)), workload.SourceOptions{})
	res, _, err := run(t, w, timedOptions(t), slow)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestReportText(t *testing.T) {
	var got bytes.Buffer
	if err := reportOf(t).WriteText(&got); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.txt"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
	}
	for line := range strings.Lines(got.String()) {
		if len(line) != 65 {
			t.Errorf("got a line of %d columns; want 64: %q", len(line)-1, line)
		}
	}
	if err := reportOf(t).WriteText(brokenWriter{}); !errors.Is(err, errBroken) {
		t.Errorf("a writer that fails: got %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestReportJSON(t *testing.T) {
	b, err := json.Marshal(reportOf(t))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Description  map[string]string
		Requests     int
		Chunks       int     `json:"chunks"`
		HitChunks    int     `json:"hit_chunks"`
		MissedChunks int     `json:"missed_chunks"`
		ChunkHitRate float64 `json:"chunk_hit_rate"`
		RunDurationS float64 `json:"run_duration_s"`
		Storage      map[string]int64
		PrefetchWait map[string]float64 `json:"prefetch_wait"`
		Calls        map[string]map[string]float64
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Requests != 4 || got.Chunks != 10 || got.HitChunks != 4 || got.MissedChunks != 6 || got.ChunkHitRate != 0.4 || got.RunDurationS != 0.255 {
		t.Errorf("got %+v", got)
	}
	if got.Description["prefill_tokens_s"] != "10000" || got.Description["arrivals"] != "as in the file" {
		t.Errorf("description: got %v", got.Description)
	}
	// What the manager counted, less what it had counted before.
	if got.Storage["l1_hit_keys"] != 4 || got.Storage["written_keys"] != 4 || got.Storage["refused_keys"] != 2 {
		t.Errorf("storage: got %v", got.Storage)
	}
	if got.PrefetchWait["count"] != 3 || len(got.Calls) != 7 || got.Calls["query_prefetch_status"]["count"] != 12 || got.Calls["reserve_write"]["count"] != 2 {
		t.Errorf("prefetch wait: got %v; calls: got %v", got.PrefetchWait, got.Calls)
	}
}

// The second run on one manager reports its own counts.
func TestReportDifference(t *testing.T) {
	var results []*workload.Result
	var manager *fakeManager
	for range 2 {
		w := open(t, "mooncake:"+writeFile(t, "handmade.jsonl", []byte(handmade)), workload.SourceOptions{})
		opt := timedOptions(t)
		res, f, err := run(t, w, opt, func(f *fakeManager) {
			if manager != nil {
				f.resident, f.stats = manager.resident, manager.stats
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		manager = f
		results = append(results, res)
	}
	first, second := results[0].Storage, results[1].Storage
	if first.WrittenKeys != 4 || second.WrittenKeys != 0 || first.L1HitKeys != 4 || second.L1HitKeys != 10 || second.Resident != 4 {
		t.Errorf("got %+v, then %+v", first, second)
	}
}
