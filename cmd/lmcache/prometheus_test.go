package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/replay"
)

// daemon is a program that a test started, and that is ended with it.
type daemon struct {
	cmd *exec.Cmd
	log chan string // lines of stderr, those that nobody waits for left out
}

// startServer starts a command that is told to end when the test does.
func startServer(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &daemon{cmd: cmd, log: make(chan string, 10000)}
	go func() {
		defer close(s.log)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			select {
			case s.log <- lines.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		for range s.log { // until its end
		}
		_ = cmd.Wait()
	})
	return s
}

// await returns the groups of the first line that matches.
func (s *daemon) await(t *testing.T, pattern string) []string {
	t.Helper()
	match := regexp.MustCompile(pattern)
	var seen []string
	for late := time.After(time.Minute); ; {
		select {
		case line, ok := <-s.log:
			if m := match.FindStringSubmatch(line); m != nil {
				return m
			}
			if seen = append(seen, line); !ok {
				t.Fatalf("%s ended without a line that matches %s:\n%s", s.cmd.Path, pattern, strings.Join(seen, "\n"))
			}
		case <-late:
			t.Fatalf("%s has no line that matches %s:\n%s", s.cmd.Path, pattern, strings.Join(seen, "\n"))
		}
	}
}

// prometheus is a Prometheus server that scrapes as deploy/prometheus.yml says.
type prometheus struct{ url string }

func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	for _, tool := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s: apt-get install prometheus", tool)
		}
	}
	text, err := os.ReadFile("../../deploy/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`targets: \[.*\]`)
	if !targets.Match(text) {
		t.Fatal("deploy/prometheus.yml has no targets")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, targets.ReplaceAll(text, fmt.Appendf(nil, "targets: [%q]", target)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "config", config).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free: Prometheus does not say which it got
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	s := startServer(t, exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address))
	s.await(t, "Server is ready to receive web requests")
	return &prometheus{"http://" + address}
}

// sample is one series of an answer.
type sample struct {
	Metric map[string]string
	Value  [2]any // when, and the value as text
}

func (s *sample) String() string { return fmt.Sprint(s.Value[1]) }

// query asks for the present value of an expression.
func (p *prometheus) query(t *testing.T, expr string) []sample {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []sample }
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v, %s", expr, err, body)
	}
	return answer.Data.Result
}

// await asks until the expression has the value want.
func (p *prometheus) await(t *testing.T, expr, want string) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for late := time.After(30 * time.Second); ; {
		got := p.query(t, expr)
		if len(got) == 1 && got[0].String() == want {
			return
		}
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("%s is %v, want %s", expr, got, want)
		}
	}
}

// TestPrometheusOfAReplay has a Prometheus server scrape a replay every second.
// What it stored is held against the replay's result, and every expression of the
// dashboard is put to it.
func TestPrometheusOfAReplay(t *testing.T) {
	path, out := watchedTrace(t), t.TempDir()
	dump := filepath.Join(out, "metrics.txt")
	cmd := child(t, replayFlags(path, out, "--quiet", "--prometheus-port", "0", "--run-name", "blue", "--metrics-sample-rate", "1",
		"--metrics-dump", dump, "--metrics-linger", "10m")...)
	run := startServer(t, cmd)
	endpoint := run.await(t, `Prometheus fallback \(http://([^/]+)/metrics\)`)[1]
	p := startPrometheus(t, endpoint)
	run.await(t, "metrics stay at")
	result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}

	p.await(t, "lmcache_replay_records_done_total", fmt.Sprint(result.Records.Total))
	if got := p.query(t, "count_over_time(lmcache_replay_records_done_total[5m])"); len(got) != 1 || got[0].Value[1] == "1" {
		t.Errorf("the replay was scraped %v times", got)
	}
	for series, want := range wantOf(result) {
		expr := strings.Replace(series, "lmcache_replay_call_duration_seconds", "lmcache_replay_call_duration_seconds_count", 1)
		expr = strings.Replace(expr, "lmcache_replay_call_lag_seconds", "lmcache_replay_call_lag_seconds_count", 1)
		if got := p.query(t, expr); len(got) != 1 || got[0].String() != fmt.Sprint(want) && got[0].String() != fmt.Sprintf("%.0f", want) {
			t.Errorf("%s: Prometheus has %v, want %v", expr, got, want)
		}
	}
	if got := p.query(t, "target_info"); len(got) != 1 || got[0].Metric["lmcache_run_name"] != "blue" || got[0].Metric["service_name"] != "lmcache-replay" {
		t.Errorf("target_info: %v", got)
	}
	p.checkDashboard(t)

	text, err := os.Open(dump)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = text
	complaints, err := lint.CombinedOutput()
	if err != nil && lint.ProcessState.ExitCode() != 3 { // 3: complaints of style
		t.Errorf("promtool check metrics: %v\n%s", err, complaints)
	}
	for line := range strings.Lines(string(complaints)) {
		if !strings.HasPrefix(line, "lmcache_mp_l2_load_throughput_GB_per_second ") && !strings.HasPrefix(line, "lmcache_mp_l2_store_throughput_GB_per_second ") {
			t.Errorf("promtool check metrics: %s", line) // those two are LMCache's names
		}
	}
}

// checkDashboard puts every expression of the dashboard to the server. One that
// is empty must be about what the replay had none of.
func (p *prometheus) checkDashboard(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/lmcache-storage.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	none := regexp.MustCompile(`_num_inflight_|_l2_policy_evicted_|_subscriber_exceptions_|_l2_prefetch_failure_|lmcache_(server|bench)_|lmcache_mp_lookup`)
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	n := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			n++
			if got := p.query(t, fill.Replace(target.Expr)); len(got) == 0 && !none.MatchString(target.Expr) {
				t.Errorf("panel %q shows nothing: %s", panel.Title, target.Expr)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d expressions in the dashboard", n)
	}
}

// TestTwoReplaysOnOnePort: the second is told so in one line and does nothing. At
// the port that nobody asked for it goes on without an endpoint.
func TestTwoReplaysOnOnePort(t *testing.T) {
	path, out := watchedTrace(t), t.TempDir()
	first := startServer(t, child(t, replayFlags(path, out, "--virtual-time", "--quiet", "--prometheus-port", "0", "--metrics-linger", "10m")...))
	endpoint := first.await(t, `metrics stay at http://([^/]+)/metrics`)[1]
	_, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	none := t.TempDir()
	second := child(t, replayFlags(path, none, "--virtual-time", "--prometheus-port", port)...)
	second.Env = append(second.Env, "LMCACHE_LOG_LEVEL=ERROR")
	text, err := second.CombinedOutput()
	if second.ProcessState.ExitCode() != exitFailed || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), endpoint+": ") || !strings.Contains(string(text), "address already in use") {
		t.Errorf("%v:\n%s", err, text)
	}
	if files, err := os.ReadDir(none); err != nil || len(files) > 0 {
		t.Errorf("it left %v, %v", files, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	last := readExposition(t, resp.Body)
	result, err := replay.ReadResult(filepath.Join(out, replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	last.expect(t, wantOf(result)) // after the end
	last.expect(t, wantInside(result))
}
