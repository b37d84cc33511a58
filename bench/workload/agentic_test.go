package workload_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

// bySession groups requests by their session.
func bySession(requests []workload.Request) map[string][]workload.Request {
	m := map[string][]workload.Request{}
	for _, r := range requests {
		id, _, _ := strings.Cut(r.ID, "/")
		m[id] = append(m[id], r)
	}
	return m
}

// The counts are those of the cut's SOURCE.md.
func TestAgenticCounts(t *testing.T) {
	all := take(t, open(t, "agentic:"+sessions20, workload.SourceOptions{ChunkTokens: 64}), 0)
	blocks := 0
	for i, r := range all {
		blocks += len(r.Hashes)
		if i > 0 && r.ArrivalNS < all[i-1].ArrivalNS {
			t.Errorf("%s arrives at %d, before %s", r.ID, r.ArrivalNS, all[i-1].ID)
		}
	}
	if sessions := len(bySession(all)); sessions != 20 || len(all) != 738 || blocks != 1766295 {
		t.Errorf("got %d sessions, %d requests, %d blocks; want 20, 738, 1766295", sessions, len(all), blocks)
	}
	for _, r := range take(t, open(t, "agentic:"+sessions20, workload.SourceOptions{}), 0) {
		if len(r.Hashes) != r.InputTokens/256 {
			t.Errorf("%s: got %d chunks of %d tokens", r.ID, len(r.Hashes), r.InputTokens)
		}
	}
}

func TestAgenticCompactEqualsRaw(t *testing.T) {
	raw := bySession(take(t, open(t, "agentic:"+sessions2Raw, workload.SourceOptions{}), 0))
	compact := bySession(take(t, open(t, "agentic:"+sessions20, workload.SourceOptions{}), 0))
	if len(raw) != 2 {
		t.Fatalf("got %d raw sessions; want 2", len(raw))
	}
	for id, want := range raw {
		got := compact[id]
		if len(got) != len(want) {
			t.Fatalf("%s: got %d requests; want %d", id, len(got), len(want))
		}
		for i, w := range want {
			g := got[i]
			g.ArrivalNS -= got[0].ArrivalNS
			w.ArrivalNS -= want[0].ArrivalNS
			if g.ID != w.ID || g.ArrivalNS != w.ArrivalNS || g.InputTokens != w.InputTokens || g.OutputTokens != w.OutputTokens || !slices.Equal(g.Hashes, w.Hashes) {
				t.Errorf("%s: got %s at %d with %d tokens, %d chunks; want %s at %d, %d, %d, or other hashes",
					id, g.ID, g.ArrivalNS, g.InputTokens, len(g.Hashes), w.ID, w.ArrivalNS, w.InputTokens, len(w.Hashes))
			}
		}
	}
}

// A sub-agent's times count from its start, its ids continue nobody's, and
// they are the session's.
func TestAgenticSubAgent(t *testing.T) {
	line := sessionOf(`{"t":1,"in":640,"out":1,"hash_keep":0,"hash_runs":[[1,10]]},
		{"t":2.5,"type":"subagent","requests":[
			{"t":0,"in":300,"out":2,"hash_keep":0,"hash_runs":[[1,4]]},
			{"t":10,"in":600,"out":3,"hash_keep":4,"hash_runs":[[50,2],[60,3]]}]},
		{"t":5,"in":700,"out":4,"hash_keep":9,"hash_runs":[[70,1]]}`)
	line = strings.ReplaceAll(line, "\n\t\t", "")
	line = strings.ReplaceAll(line, "\n", "") // the table above has line breaks, a file's line has none
	got := take(t, open(t, "agentic:"+writeFile(t, "s", []byte(line)), workload.SourceOptions{}), 0)
	h := func(block uint64) [32]byte { return workload.ChunkHash("agentic:u", block, 0) }
	want := []workload.Request{
		{ID: "u/0", ArrivalNS: 1e9, InputTokens: 640, OutputTokens: 1, Hashes: [][32]byte{h(4), h(8)}},
		{ID: "u/1.0", ArrivalNS: 2.5e9, InputTokens: 300, OutputTokens: 2, Hashes: [][32]byte{h(4)}},
		{ID: "u/2", ArrivalNS: 5e9, InputTokens: 700, OutputTokens: 4, Hashes: [][32]byte{h(4), h(8)}},
		{ID: "u/1.1", ArrivalNS: 12.5e9, InputTokens: 600, OutputTokens: 3, Hashes: [][32]byte{h(4), h(61)}},
	}
	for i := range want {
		if i >= len(got) || fmt.Sprint(got[i]) != fmt.Sprint(want[i]) {
			t.Errorf("request %d: got %v; want %v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d requests; want %d", len(got), len(want))
	}
}

// starts returns when each session of one request starts, in s.
func starts(t *testing.T, n int, opt workload.SourceOptions) []float64 {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"s%d","block_size":64,"hash_id_scope":"local","requests":[{"t":0,"in":64,"out":1,"hash_ids":[1]}]}`+"\n", i)
	}
	var at []float64
	for i, r := range take(t, open(t, "agentic:"+writeFile(t, "s", []byte(b.String())), opt), 0) {
		if want := fmt.Sprintf("s%d/0", i); r.ID != want {
			t.Fatalf("request %d: got %s; want %s", i, r.ID, want)
		}
		at = append(at, float64(r.ArrivalNS)/1e9)
	}
	return at
}

func TestAgenticArrivals(t *testing.T) {
	const n = 4000
	one := starts(t, n, workload.SourceOptions{ArrivalSeed: 1})
	if !slices.Equal(one, starts(t, n, workload.SourceOptions{ArrivalSeed: 1})) {
		t.Error("the same seed: got other times")
	}
	if slices.Equal(one, starts(t, n, workload.SourceOptions{ArrivalSeed: 2})) {
		t.Error("another seed: got the same times")
	}
	// Gaps of a Poisson process: mean 60 s, and as large a deviation. Five
	// standard errors of the mean are 8 %.
	mean := one[n-1] / (n - 1)
	square := 0.0
	for i := range n - 1 {
		d := one[i+1] - one[i] - mean
		square += d * d
	}
	deviation := math.Sqrt(square / (n - 2))
	if one[0] != 0 || math.Abs(mean-60) > 5 || math.Abs(deviation-60) > 8 {
		t.Errorf("got first %v, mean gap %v, deviation %v; want 0, 60, 60", one[0], mean, deviation)
	}
	fast := starts(t, n, workload.SourceOptions{ArrivalSeed: 1, SessionsPerHour: 600})
	if got := one[n-1] / fast[n-1]; math.Abs(got-10) > 1e-6 {
		t.Errorf("ten times the rate: got %v times as fast", got)
	}
}

// Only sessions that have started are read from the file.
func TestAgenticStreams(t *testing.T) {
	w := open(t, "agentic:"+sessions20, workload.SourceOptions{})
	started := func() string {
		for _, f := range w.Facts() {
			if f.Label == "Sessions started" {
				return f.Value
			}
		}
		return ""
	}
	take(t, w, 1)
	if got := started(); got != "1" {
		t.Errorf("after one request: got %s sessions; want 1", got)
	}
	take(t, w, 0)
	if got := started(); got != "20" {
		t.Errorf("at the end: got %s sessions; want 20", got)
	}
}
