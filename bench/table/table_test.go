package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A run as go test prints it, with a benchmark that ran three times, a value
// exactly at its bound, one beyond it, and lines that are no results.
const run = `goos: linux
goarch: amd64
pkg: github.com/lmcache/lmcache-go/trace
cpu: AMD EPYC
BenchmarkTracedCall/recording=off/mode=floor-2 	 1000	 1.0 ns/op
BenchmarkTracedCall/recording=off/mode=hook-2 	 1000	 2.0 ns/op
BenchmarkTracedCall/recording=on/keys=1/producers=1/mode=floor-2 	 1000	 10 ns/op	 88 MB/s	 0 B/op	 0 allocs/op
BenchmarkTracedCall/recording=on/keys=1/producers=1/mode=call-2 	 1000	 21 ns/op	 0 allocs/op
BenchmarkTracedCall/recording=on/keys=1/producers=1/mode=call-2 	 1000	 22 ns/op	 0 allocs/op
BenchmarkTracedCall/recording=on/keys=1/producers=1/mode=call-2 	 1000	 29 ns/op	 0 allocs/op
BenchmarkTail 	 10	 1500 p99.99-call-ns	 400 p99.99-floor-ns
LTTng-UST: not installed
BenchmarkDrain/keys=1/mode=floor-2	 10	 80 ns/op
BenchmarkDrain/keys=1/lists=repeated/mode=drain-2	 10	 100 ns/op
BenchmarkCall/op=hits-2	10	6500 ns/call
BenchmarkPeer/peer=zerolog/keys=1/producers=1-2	 10	 220 ns/op
BenchmarkHitRate/l1=1024GiB/policy=S3FIFO-2	 1	 3 evicted-keys	 21.512 hit-%
BenchmarkPolicyCost/policy=S3FIFO-2	 1	 137.9 B/object	 921.7 ns/evicted	 17273 ns/write
PASS
ok  	github.com/lmcache/lmcache-go/trace	1.0s
`

func TestCells(t *testing.T) {
	m, err := read(strings.NewReader(run))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"recording off":                  {"≤ floor + 1 ns", "2 ns", "1 ns", "1 ns", "yes"},
		"traced call, 1 key":             {"≤ 2 × floor", "22 ns ± 18 %", "10 ns", "2.20", "NO"},
		"tail at 5 µs spacing, p99.99":   {"≤ floor + 1 µs", "1.50 µs", "400 ns", "1.10 µs", "NO"},
		"drain alone, 1 key, known list": {"≥ 0.8 × floor's rate", "100 ns", "80 ns", "0.80", "yes"},
		"drain alone, 32 keys, known list": {
			"≥ 0.8 × floor's rate, ≤ 250 ns", "not measured", "", "", "",
		},
	}
	for i := range rows {
		got := rows[i].cells(m)
		if w, ok := want[got[0]]; ok && !slices.Equal(got[1:], w) {
			t.Errorf("%s: got %q; want %q", got[0], got[1:], w)
		}
		delete(want, got[0])
	}
	for what := range want {
		t.Errorf("no row %q", what)
	}
	for _, row := range policyCells(m) {
		if want := []string{"S3FIFO", "not measured", "21.51 %", "not measured", "138 B", "17.3 µs", "922 ns"}; row[0] == "S3FIFO" && !slices.Equal(row, want) {
			t.Errorf("got %q; want %q", row, want)
		}
	}
	for _, row := range peerCells(m) {
		if row[0] == "zerolog" && row[1] != "220 ns (10 ×)" {
			t.Errorf("zerolog: %q; want 220 ns (10 ×)", row[1])
		}
	}
	for _, row := range releasedCells(m) {
		if row[0] == "prefetch, all of them hits" && !slices.Equal(row[1:], []string{"130 µs – 147 µs", "6.50 µs", "20 ×"}) {
			t.Errorf("LMCache's figures: %q", row)
		}
	}
	var out bytes.Buffer
	if err := write(&out, m); err != nil || !strings.Contains(out.String(), "(AMD EPYC, linux/amd64)") {
		t.Errorf("%v, %s", err, out.Bytes())
	}
}

func TestWatcher(t *testing.T) {
	for line, want := range map[string]bool{"PASS\n": false, "--- FAIL: BenchmarkX\n": true, "FAIL\tpkg 1s\n": true, "ok\nFAIL\n": true} {
		var failed bool
		var out bytes.Buffer
		w := watcher{&out, &failed}
		if _, err := w.Write([]byte(line)); err != nil || failed != want || out.String() != line {
			t.Errorf("%q: failed = %v, passed on %q, %v", line, failed, out.String(), err)
		}
	}
}

// TestRowsAreMeasured holds the names in the rows against the functions in the
// packages that bench/run measures.
func TestRowsAreMeasured(t *testing.T) {
	script, err := os.ReadFile("../run")
	if err != nil {
		t.Fatal(err)
	}
	selected := regexp.MustCompile(`(?m)^bench (\S+) '([^']*)'`).FindAllStringSubmatch(string(script), -1)
	if len(selected) == 0 {
		t.Fatal("no benchmarks in bench/run")
	}
	function := regexp.MustCompile(`(?m)^func (Benchmark\w+)\(`)
	names := map[string]bool{}
	for _, sel := range selected {
		files, err := filepath.Glob(filepath.Join("../..", sel[1], "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no tests in %s: %v", sel[1], err)
		}
		top, _, _ := strings.Cut(sel[2], "/") // of the pattern, what selects functions
		pattern := regexp.MustCompile(top)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range function.FindAllStringSubmatch(string(text), -1) {
				if pattern.MatchString(f[1]) {
					names[strings.TrimPrefix(f[1], "Benchmark")] = true
				}
			}
		}
	}
	for _, r := range released {
		if base, _, _ := strings.Cut(r.ours.name, "/"); !names[base] {
			t.Errorf("%s: bench/run does not run Benchmark%s", r.what, base)
		}
	}
	for _, name := range []string{"HitRate", "PolicyCost"} { // of policyCells
		if !names[name] {
			t.Errorf("bench/run does not run Benchmark%s", name)
		}
	}
	for i := range rows {
		for _, k := range []key{rows[i].got, rows[i].floor} {
			if base, _, _ := strings.Cut(k.name, "/"); k.name != "" && !names[base] {
				t.Errorf("%s: bench/run does not run Benchmark%s", rows[i].what, base)
			}
		}
	}
}
