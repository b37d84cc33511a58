package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPortTaken gives replay and benchmark a port that another program has. One
// that was asked for ends them with one line and before anything else; the
// default one costs the endpoint.
func TestPortTaken(t *testing.T) {
	path, out := watchedTrace(t), t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	bench := []string{"bench", "storage", "--workload", "chat:1", "--requests", "3", "--virtual-time", "--l1-size-gb", "1", "--eviction-policy", "LRU"}
	recording := filepath.Join(out, "w.lct")
	for _, args := range [][]string{
		replayFlags(path, out, "--prometheus-port", port, "--virtual-time"),
		append(bench[:len(bench):len(bench)], "--prometheus-port", port, "--trace-level", "storage", "--trace-output", recording),
	} {
		text, err := child(t, args...).CombinedOutput()
		want := fmt.Sprintf("lmcache: metrics endpoint 127.0.0.1:%s: bind: address already in use\n", port)
		if err == nil || err.Error() != "exit status 1" || string(text) != want {
			t.Errorf("%v: %v, %q; want exit status 1, %q", args[:2], err, text, want)
		}
	}
	if _, err := os.Stat(recording); !os.IsNotExist(err) {
		t.Errorf("a recording was begun: %v", err)
	}
	for _, more := range []string{"--disable-metrics", "--disable-observability", "--otlp-endpoint=127.0.0.1:1"} {
		if text, err := child(t, append(bench[:len(bench):len(bench)], "--prometheus-port", port, more)...).CombinedOutput(); err != nil {
			t.Errorf("%s, and so no port: %v\n%s", more, err, text)
		}
	}

	if held, err := net.Listen("tcp", "127.0.0.1:9090"); err == nil { // else another has it: all the same
		defer held.Close()
	}
	text, err := child(t, bench...).CombinedOutput()
	if err != nil || !bytes.Contains(text, []byte("WARNING: metrics endpoint 127.0.0.1:9090: bind: address already in use; going on without")) {
		t.Errorf("with the default port taken: %v\n%s", err, text)
	}
}

// TestSecondSignal has a benchmark that cannot end in peace: nobody reads its
// log. Whatever it is doing, a second signal ends it.
func TestSecondSignal(t *testing.T) {
	cmd := child(t, "bench", "storage", "--workload", "chat:1", "--requests", "400", "--virtual-time", "--l1-size-gb", "1", "--eviction-policy", "LRU", "--disable-metrics")
	cmd.Env = append(cmd.Env, "LMCACHE_LOG_LEVEL=DEBUG")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := stderr.Read(first); err != nil { // it runs; from here on the pipe fills
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := cmd.Process.Wait(); ended <- err }()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for late, signals := time.After(20*time.Second), 0; ; {
		select {
		case <-ended:
			if signals < 2 {
				t.Errorf("it ended after %d signals; want 2: the pipe was too roomy", signals)
			}
			return
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			signals++
		case <-late:
			_ = cmd.Process.Kill()
			t.Fatalf("it lives on after %d signals", signals)
		}
	}
}

// TestKilledBench ends a benchmark with SIGTERM in the middle: the report, the
// recording, the dump and what the collector has tell of the same.
func TestKilledBench(t *testing.T) {
	t.Setenv("LMCACHE_LOG_LEVEL", "INFO")
	out, c := t.TempDir(), startCollector(t)
	dump, recording := filepath.Join(out, "m.txt"), filepath.Join(out, "w.lct")
	cmd := child(t, "bench", "storage", "--workload", "chat:1", "--requests", "100000", "--speed", "20", "--l1-size-gb", "1", "--eviction-policy", "LRU",
		"--l2-adapter", mockAdapter(8), "--otlp-endpoint", c.address, "--enable-tracing", "--metrics-dump", dump,
		"--trace-level", "storage", "--trace-output", recording)
	var report bytes.Buffer
	cmd.Stdout = &report
	s := startServer(t, cmd)
	s.await(t, `L1 memory usage .* above watermark`) // well on its way
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.await(t, `^lmcache: interrupted$`)
	for range s.log { // until its end
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit status %d; want %d", code, exitInterrupted)
	}
	m := regexp.MustCompile(`(?m)^Requests completed: +(\d+)$`).FindStringSubmatch(report.String())
	if m == nil || m[1] == "0" {
		t.Fatalf("the report has no requests:\n%s", &report)
	}
	text, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	got := readExposition(t, bytes.NewReader(text))
	if v := got["lmcache_bench_requests_done_total"]; fmt.Sprint(v) != m[1] || c.sum("lmcache_bench.requests_done") != v {
		t.Errorf("%s requests reported, %v dumped, %v collected", m[1], v, c.sum("lmcache_bench.requests_done"))
	}
	calls := 0.0
	for series, n := range got {
		if strings.HasPrefix(series, "lmcache_bench_call_duration_seconds{") {
			calls += n
		}
	}
	c.checkSpans(t, int64(calls), map[string]string{"l2.lookup": "sm.submit_prefetch_task", "l2.store": "sm.finish_write"})
	info, err := child(t, "trace", "info", recording).Output()
	if err != nil || !regexp.MustCompile(fmt.Sprintf(`(?m)total_records: +%.0f$`, calls)).Match(info) {
		t.Errorf("%v calls measured; recorded:\n%s%v", calls, info, err)
	}
}
