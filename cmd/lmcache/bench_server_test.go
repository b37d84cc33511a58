package main

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const smallShape = "(2,64,16,1,8):float16:2" // 32 KiB a chunk

func TestBenchServer(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "run.lct")
	t.Run("sequence", func(t *testing.T) {
		endpoint := serveLMCache(t, "--l1-size-gb", "0.03125", "--trace-level", "storage", "--trace-output", trace)
		bench := func(args ...string) (int, string, string) {
			return lmcache(t, append([]string{"bench", "server", "--rpc-url", endpoint, "--kvcache-shape-spec", smallShape, "--interval", "0"}, args...)...)
		}
		status, stdout, stderr := bench("--end", "3")
		for pattern, want := range map[string]int{
			`Server chunk_size = 256\nResolved KV shape spec: \(2,64,16,1,8\):float16:2\n  \[info\] spec nb=64 overrides --num-blocks=1024\nEach request: 513 tokens \(2 full chunks\)\n`: 1,
			`KV shape: 2 layers, 1 heads x 8, dtype=float16, blocks=64x16, kv=2\n\[rank 0\] Allocated 2 KV tensors on cpu\n\[rank 0\] REGISTER_KV_CACHE: OK\n`:                            1,
			`\n=== Request seq=\d ===\n  \[seq \d/cold\] LOOKUP: 0/2 chunks hit \(\d+\.\d ms\)\n  \[seq \d/cold\] CHECKSUM: [0-9a-f]{16} \(2 chunks\)\n`:                                  3,
			`  \[seq \d/cold\] STORE: stored \(512 tokens, \d+\.\d ms, 1 writers\)\n  \[seq \d/warm\] LOOKUP: 2/2 chunks hit `:                                                            3,
			`  \[seq \d/warm\] RETRIEVE: retrieved \(512 tokens, \d+\.\d ms, 1 workers\)\n  \[seq \d/warm\] CHECKSUM: [0-9a-f]{16} \(2 chunks\)\n  \[seq \d\] CHECKSUM MATCH OK\n`:        3,
			`\n\[iid 1000\] UNREGISTER_KV_CACHE: OK\n=+ Server Bench Result =+\n-+ Configuration -+\nRPC URL: `:                                                                           1,
			`Checksum OK: +3\nChecksum FAIL: +0\nPass rate \(%\): +100\.00\n-+ Cold Lookup \(ms\) -+\ncount: +3\n`:                                                                        1,
			`\n={64}\nDone\.\n$`: 1,
		} {
			if got := len(regexp.MustCompile(pattern).FindAllString(stdout, -1)); got != want {
				t.Errorf("%d matches of %s; want %d", got, pattern, want)
			}
		}
		if status != exitDone || t.Failed() {
			t.Errorf("status %d\n%s%s", status, stdout, stderr)
		}
		// A second run finds all of it, also cold.
		if status, stdout, stderr := bench("--end", "1"); status != exitDone || !strings.Contains(stdout, "[seq 0/cold] RETRIEVE: retrieved") {
			t.Errorf("again: status %d\n%s%s", status, stdout, stderr)
		}
		for _, args := range [][]string{
			{"--start", "10", "--end", "14", "--tp-size", "2", "--concurrency", "4", "--model", "tp"},
			{"--start", "20", "--end", "22", "--tp-size", "2", "--kvcache-shape-spec", "(1,64,16,1,8):float16:2", "--model", "mla"},
			{"--workload", "mooncake:" + mooncakeFile, "--requests", "20", "--no-arrivals", "--concurrency", "3"},
			{"--workload", "multi-round-chat", "--kv-cache-volume", "0.01", "--mrc-qps", "100", "--mrc-duration", "0.2"},
			{"--workload", "long-doc-qa", "--kv-cache-volume", "0.01", "--ldqa-document-length", "1500", "--tp-size", "2", "--model", "qa"},
			{"--op", "lookup", "--requests", "200", "--in-flight", "16"},
		} {
			status, stdout, stderr := bench(append(args, "--json")...)
			var got struct {
				Requests  int `json:"requests"`
				Passed    int `json:"checksum_ok"`
				Failed    int `json:"checksum_fail"`
				Hits      int `json:"hit_chunks"`
				Retrieved int `json:"retrieved_bytes"`
			}
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || status != exitDone || got.Requests < 2 || got.Failed > 0 {
				t.Errorf("%v: status %d, %v\n%s%s", args, status, err, stdout, stderr)
			}
			if args[0] != "--op" && (got.Hits == 0 || got.Passed == 0 || got.Retrieved == 0) {
				t.Errorf("%v: nothing was compared: %+v", args, got)
			}
		}
	})
	_, info, _ := lmcache(t, "trace", "info", trace)
	if !strings.Contains(info, "read_prefetched_results.__enter__") {
		t.Errorf("the recording has no reads:\n%s", info)
	}
}

func TestBenchServerFailures(t *testing.T) {
	small := serveLMCache(t, "--l1-size-gb", "0.0001") // three objects
	private := serveLMCache(t, "--l1-size-gb", "0.01", "--shm-name", "")
	for _, c := range []struct {
		args   string
		status int
		stderr string
	}{
		{"--rpc-url " + small + " --end 4", 1, "unexpected misses"},
		{"--rpc-url " + private + " --end 1", 1, "no shared-memory pool"},
		{"--rpc-url tcp://127.0.0.1:1 --end 1", 1, "connection refused"},
		{"--rpc-url " + small + " --end 1 --num-tokens 100", 2, "less than a chunk"},
		{"--rpc-url " + small + " --end 1 --num-tokens 5000", 2, "blocks of 16 hold 4"},
		{"--mode gpu", 2, "gpu is not supported"},
		{"--transfer-mode lmcache_driven", 2, "lmcache_driven is not supported"},
		{"--kvcache-shape-spec (2,64,16,1,8):float64:2", 2, "no dtype"},
		{"--kvcache-shape-spec (2,64,16,1,8):float16:2;(2,64,16,1,8):float16:2", 2, "several groups"},
		{"--flamegraph on", 2, "--flamegraph is not supported"},
		{"--op noop --workload chat:1", 2, "not allowed with"},
		{"--workload chat:1", 2, "no end"},
		{"--use-mla --end 1 --rpc-url " + small, 2, "kv_size 1"},
	} {
		args := append([]string{"bench", "server", "--interval", "0", "--kvcache-shape-spec", smallShape}, strings.Fields(c.args)...)
		status, stdout, stderr := lmcache(t, args...)
		if status != c.status || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: status %d, want %d and %q\n%s%s", c.args, status, c.status, c.stderr, stdout, stderr)
		}
	}
}
