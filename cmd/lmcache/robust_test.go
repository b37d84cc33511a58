package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/server/client"
	"github.com/lmcache/lmcache-go/server/wire"
)

// These tests treat the real server as badly as clients and machines do, and
// look at it from outside.

// served is a server of its own process.
type served struct {
	cmd    *exec.Cmd
	stderr lockedBuffer
	ended  chan error
	rpc    string // host:port
	url    string // of the HTTP front-end
}

// serveBadly starts a server on free ports of loopback. At the end of the test it
// is killed if it still runs.
func serveBadly(t *testing.T, flags ...string) *served {
	t.Helper()
	args := append([]string{"server", "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--prometheus-port", "0",
		"--l1-size-gb", "0.03125", "--eviction-policy", "LRU"}, flags...)
	s := &served{cmd: child(t, args...), ended: make(chan error, 1)}
	s.cmd.Env = append(s.cmd.Env, "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.ended <- s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Logf("the server said:\n%s", s.stderr.String())
		}
	})
	s.url = s.says(t, `HTTP server is running on (\S+)`)
	s.rpc = s.says(t, `zmq cache server is running on (\S+)`)
	return s
}

// until waits for a condition that other processes bring about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(20 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never came that %s", what)
		}
	}
}

// says waits for a line and returns its group.
func (s *served) says(t *testing.T, pattern string) (group string) {
	t.Helper()
	line := regexp.MustCompile(pattern)
	until(t, "the log has "+pattern, func() bool {
		m := line.FindStringSubmatch(s.stderr.String())
		if len(m) > 1 {
			group = m[1]
		}
		return m != nil
	})
	return group
}

func (s *served) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// endsWell sends a signal after which the server must be gone within a second,
// with status 0 and nothing left in shared memory.
func (s *served) endsWell(t *testing.T, sig syscall.Signal) {
	t.Helper()
	start := time.Now()
	s.signal(t, sig)
	select {
	case err := <-s.ended:
		if took := time.Since(start); err != nil || took > time.Second {
			t.Errorf("after %v it ended in %v: %v; want status 0 within 1 s", sig, took, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not end after %v", sig)
	}
	s.leavesNothing(t)
}

func (s *served) leavesNothing(t *testing.T) {
	t.Helper()
	pid := strconv.Itoa(s.cmd.Process.Pid)
	for _, pattern := range []string{"lmcache_l1_pool_" + pid, "lmcache-ring-" + pid + "-*"} {
		if left, _ := filepath.Glob("/dev/shm/" + pattern); len(left) > 0 {
			t.Errorf("left in shared memory: %v", left)
		}
	}
}

// fds counts the server's open files.
func (s *served) fds(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// anonymous returns the bytes of memory that the server has for itself: L1 is
// shared and does not count.
func (s *served) anonymous(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no RssAnon")
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb << 10
}

// ask makes an HTTP request on a connection of its own.
func (s *served) ask(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// metric returns the value of a series.
func (s *served) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, text := s.ask(t, "GET", "/metrics", "")
	return readExposition(t, strings.NewReader(text))[series]
}

func (s *served) dial(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), "tcp://"+s.rpc, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// raw opens a connection that has sent bytes of its own.
func (s *served) raw(t *testing.T, sent []byte) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.rpc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// alive fails if the server does not serve a client that behaves.
func (s *served) alive(t *testing.T) {
	t.Helper()
	c := s.dial(t)
	defer c.Close()
	if err := c.Noop(t.Context()); err != nil {
		t.Errorf("a client that behaves: %v", err)
	}
}

// dealer is what a DEALER says before its first message.
func dealer() []byte {
	b := make([]byte, 64)
	b[0], b[9], b[10], b[11] = 0xff, 0x7f, 3, 1
	copy(b[12:], "NULL")
	ready := "\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
	return append(append(b, 4, byte(len(ready))), ready...)
}

// message encodes short frames.
func message(frames ...string) []byte {
	var b []byte
	for i, f := range frames {
		more := byte(1)
		if i == len(frames)-1 {
			more = 0
		}
		b = append(append(b, more, byte(len(f))), f...)
	}
	return b
}

// announced is the header of a frame of n bytes, of which none comes.
func announced(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{2}, n) }

// Two hundred clients come, ask and go, some by reset: everything returns.
func TestClientsComeAndGo(t *testing.T) {
	t.Setenv("GOGC", "20") // garbage is not what is counted
	s := serveBadly(t)
	s.alive(t)
	round := func() {
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				if i%4 == 3 {
					nc, err := net.Dial("tcp", s.rpc)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = nc.Write(append(dealer(), 0, 200, 'h', 'a', 'l', 'f'))
					_ = nc.(*net.TCPConn).SetLinger(0) // a reset in the middle of a frame
					nc.Close()
					return
				}
				c, err := client.Dial(t.Context(), "tcp://"+s.rpc, client.Options{})
				if err == nil {
					err = c.Noop(t.Context())
					c.Close()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		until(t, "all clients are gone", func() bool { return s.metric(t, "lmcache_server_clients") == 0 })
	}
	fds, goroutines := s.fds(t), s.metric(t, "go_goroutines")
	round()
	memory := s.anonymous(t)
	round()
	round()
	until(t, "files and goroutines are as before", func() bool {
		return s.fds(t) <= fds+1 && s.metric(t, "go_goroutines") <= goroutines+2 // one more of each: the connection that asks
	})
	if now := s.anonymous(t); !raceflag.Enabled && now > memory+16<<20 {
		t.Errorf("%d MiB of memory after 600 clients, %d MiB after 200", now>>20, memory>>20)
	}
	s.endsWell(t, syscall.SIGTERM)
}

// What no client sends costs its sender the connection or the answer, is counted
// by its kind, said once, and harms nobody.
func TestMalformedTraffic(t *testing.T) {
	s := serveBadly(t)
	before := s.anonymous(t)
	var open []*net.TCPConn
	for range 3 { // said once, however often it comes
		for _, bad := range [][]byte{announced(1 << 63), announced(1<<64 - 1), announced(1 << 30), {0x80, 0}} {
			c := s.raw(t, append(dealer(), bad...))
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("% x: %v", bad, err)
			}
		}
		for _, bad := range [][]byte{
			message("\x07"),                         // one frame
			message("\x07", "\xc1"),                 // no operation at all
			message("\x07", "\xcc\xc8"),             // none of LMCache's
			message("\x07", "\x08"),                 // a lookup of nothing
			message("\x07", "\x08", "\x81", "\x01"), // half a key
		} {
			open = append(open, s.raw(t, append(dealer(), bad...)))
		}
	}
	s.raw(t, []byte("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n"))
	s.raw(t, dealer()[:64]) // a greeting, and silence
	s.raw(t, nil)
	s.raw(t, append(dealer(), announced(60<<20)...)) // allowed, and never sent
	for _, c := range []struct {
		series string
		want   float64
	}{
		{`lmcache_server_disconnected_clients_total{reason="malformed frames"}`, 12},
		{`lmcache_server_disconnected_clients_total{reason="no handshake"}`, 1},
		{`lmcache_server_refused_requests_total{reason="no operation"}`, 3},
		{`lmcache_server_refused_requests_total{reason="unknown operation"}`, 3},
		{`lmcache_server_refused_requests_total{reason="wrong number of arguments"}`, 3},
		{`lmcache_server_refused_requests_total{reason="malformed"}`, 6},
	} {
		until(t, fmt.Sprintf("%s is %v", c.series, c.want), func() bool { return s.metric(t, c.series) >= c.want })
		if got := s.metric(t, c.series); c.series != `lmcache_server_disconnected_clients_total{reason="no handshake"}` && got != c.want {
			t.Errorf("%s: %v; want %v", c.series, got, c.want)
		}
	}
	if now := s.anonymous(t); now > before+32<<20 {
		t.Errorf("%d MiB of memory for sizes that were only announced", (now-before)>>20)
	}
	for _, once := range []string{`reason="?no operation"? .*uid=7`, `reason="?unknown operation"? .*uid=7`, `reason="?wrong number of arguments"? .*uid=7`, `WARN.*peer disconnected`} {
		if n := len(regexp.MustCompile(once).FindAllString(s.stderr.String(), -1)); n != 1 {
			t.Errorf("%d lines with %s; want 1", n, once)
		}
	}
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now()) // all was counted: an answer would be here
		answer, _ := io.ReadAll(c)
		if len(answer) > len(dealer())+32 {
			t.Errorf("a bad request was answered: %q", answer)
		}
	}
	s.alive(t)
	s.endsWell(t, syscall.SIGTERM) // with half-open connections
}

// A client that asks and never reads fills its own queue and no more.
func TestSlowReader(t *testing.T) {
	t.Setenv("GOGC", "20") // garbage is not what is counted
	s := serveBadly(t)
	c := s.raw(t, dealer())
	_ = c.SetReadBuffer(4 << 10)
	before := s.anonymous(t)
	ask := []byte(strings.Repeat(string(message("\x07", "\x18")), 4096))
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for sent := 0; sent < 256<<20; sent += len(ask) {
		if _, err := c.Write(ask); err != nil {
			break // cut off, as it should be
		}
	}
	until(t, "the client that does not read is cut off", func() bool {
		return s.metric(t, `lmcache_server_disconnected_clients_total{reason="slow reader"}`) == 1
	})
	s.alive(t)
	if now := s.anonymous(t); !raceflag.Enabled && now > before+96<<20 { // the detector has memory of its own
		t.Errorf("%d MiB of memory for a client that does not read", (now-before)>>20)
	}
	s.endsWell(t, syscall.SIGTERM)
}

// A server that was killed leaves its pool; the next of that name replaces it, but
// never one that lives. What is refused creates nothing.
func TestOneServerAtATime(t *testing.T) {
	name := fmt.Sprintf("robust-%d", os.Getpid())
	segment := "/dev/shm/lmcache_l1_pool_" + name
	t.Cleanup(func() { os.Remove(segment) })
	first := serveBadly(t, "--shm-name", name)
	first.signal(t, syscall.SIGKILL)
	<-first.ended
	if _, err := os.Stat(segment); err != nil {
		t.Fatalf("nothing to replace: %v", err)
	}
	s := serveBadly(t, "--shm-name", name)
	s.says(t, "was left behind by a server that is gone: replaced")
	mine, err := os.Stat(segment)
	if err != nil {
		t.Fatal(err)
	}
	_, rpc, _ := net.SplitHostPort(s.rpc)
	_, web, _ := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
	recording := filepath.Join(t.TempDir(), "no.lct")
	free := fmt.Sprintf("%s-free", name)
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--port", rpc, "--shm-name", free}, "request socket: .*address already in use"},
		{[]string{"--http-port", web, "--shm-name", free}, "HTTP: .*address already in use"},
		{[]string{"--prometheus-port", web, "--shm-name", free}, "metrics endpoint .*address already in use"},
		{[]string{"--shm-name", name}, "shared memory .* belongs to a server that runs"},
		{[]string{"--shm-name", free, "--l1-size-gb", "9000"}, "shared memory .*/dev/shm has less free space than L1"},
	} {
		args := append([]string{"server", "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--prometheus-port", "0", "--l1-size-gb", "0.01",
			"--eviction-policy", "LRU", "--trace-level", "storage", "--trace-output", recording}, c.flags...)
		text, err := child(t, args...).CombinedOutput()
		if err == nil || err.Error() != "exit status 1" || !regexp.MustCompile(`^lmcache: `+c.want+`[^\n]*\n$`).Match(text) {
			t.Errorf("%v: %v\n%s\nwant status 1 and one line: %s", c.flags, err, text, c.want)
		}
		for _, path := range []string{recording, segment + "-free"} {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("%v: %s was created", c.flags, path)
			}
		}
	}
	if now, err := os.Stat(segment); err != nil || !os.SameFile(now, mine) {
		t.Errorf("the segment of the server that runs was touched: %v", err)
	}
	s.alive(t)
	s.endsWell(t, syscall.SIGINT)
	if _, err := os.Stat(segment); !os.IsNotExist(err) {
		t.Errorf("%s was left: %v", segment, err)
	}
}

func robustContext(instance int64) *wire.Context {
	return &wire.Context{Instance: instance, Model: "m", WorldSize: 1, BlockSize: 16, Layers: 2, Hidden: 64, DType: "float16", PhysicalSlots: 256}
}

func robustKey(id string) *wire.Key {
	return &wire.Key{Model: "m", WorldSize: 1, Tokens: make([]uint32, 512), End: 512, RequestID: id, Readers: 1}
}

// Without room for the pool the server runs with private memory: nothing can be
// prepared, all else goes on.
func TestNoRoomForPool(t *testing.T) {
	s := serveBadly(t, "--l1-size-gb", "9000")
	s.says(t, "WARNING.*/dev/shm has less free space than L1, .*going on with private memory")
	c := s.dial(t)
	pool, err := c.Register(t.Context(), robustContext(1))
	if err != nil || pool != (wire.Pool{}) {
		t.Errorf("register: %+v, %v; want no pool", pool, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() { _, _, err := c.PrepareStore(ctx, robustKey("r"), 1); asked <- err }()
	until(t, "the prepare is counted", func() bool {
		return s.metric(t, `lmcache_server_refused_requests_total{reason="failed"}`) == 1
	})
	if err := c.Noop(t.Context()); err != nil { // sent later: its answer would come later too
		t.Error(err)
	}
	cancel()
	if err := <-asked; err == nil {
		t.Error("the prepare was answered")
	}
	s.endsWell(t, syscall.SIGTERM)
}

// The signal comes while a download that nobody reads is on, an HTTP request
// stands half written, and many are connected.
func TestSignalAmidTraffic(t *testing.T) {
	out := t.TempDir()
	first, second := filepath.Join(out, "a.lct"), filepath.Join(out, "b.lct")
	s := serveBadly(t, "--trace-level", "storage", "--trace-output", first)
	bench := func(end string) *exec.Cmd {
		return child(t, "bench", "server", "--rpc-url", "tcp://"+s.rpc, "--num-tokens", "512", "--kvcache-shape-spec", "(2,64,16,2,64):float16:4",
			"--start", "0", "--end", end, "--interval", "0")
	}
	if text, err := bench("5").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if status, text := s.ask(t, "POST", "/trace/stop", ""); status != 200 {
		t.Fatal(text)
	}
	if status, text := s.ask(t, "POST", "/trace/start", `{"name":"b.lct"}`); status != 200 {
		t.Fatal(text)
	}
	web := strings.TrimPrefix(s.url, "http://")
	for _, text := range []string{"GET /trace/download HTTP/1.1\r\nHost: x\r\n\r\n", "POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "GET /sta"} {
		c, err := net.Dial("tcp", web)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ body, path string }{{strings.Repeat("x", 33<<20), "/cache/prefetches"}, {"[1]", "/trace/start"}, {`{"name":7}`, "/trace/start"}, {`{"name":"../x"}`, "/trace/start"}} {
		if status, text := s.ask(t, "POST", c.path, c.body); status < 400 || status >= 500 {
			t.Errorf("POST %s of %d bytes: %d %s; want a refusal", c.path, len(c.body), status, text)
		}
	}
	load := bench("1000000")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
	until(t, "the load run is on", func() bool { return s.metric(t, `lmcache_server_requests_total{operation="commit_store"}`) > 10 })
	s.endsWell(t, syscall.SIGTERM)
	for _, path := range []string{first, second} {
		if text, err := child(t, "trace", "verify", path).CombinedOutput(); err != nil {
			t.Errorf("verify %s: %v\n%s", path, err, text)
		}
		text, err := child(t, "trace", "replay", path, "--l1-size-gb", "0.03125", "--eviction-policy", "LRU", "--virtual-time", "--no-csv", "--disable-metrics").CombinedOutput()
		if err != nil || !regexp.MustCompile(`(?m)^Records failed: +0$`).Match(text) {
			t.Errorf("replay %s: %v\n%s", path, err, text)
		}
	}
}

// A recording that finds no room costs records, not the server.
func TestFullDiskOfARecording(t *testing.T) {
	s := serveBadly(t, "--trace-level", "storage", "--trace-output", filepath.Join(t.TempDir(), "w.lct"))
	limit := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), "--fsize=4096")
	if text, err := limit.CombinedOutput(); err != nil {
		t.Skipf("no limit can be set: %v %s", err, text)
	}
	for i := range 20 {
		_, _ = s.ask(t, "POST", "/cache/clear", `{"tier":"l1"}`)
		if i == 0 {
			s.alive(t)
		}
	}
	if text, err := child(t, "bench", "server", "--rpc-url", "tcp://"+s.rpc, "--num-tokens", "512", "--kvcache-shape-spec", "(2,64,16,2,64):float16:4",
		"--start", "0", "--end", "25", "--interval", "0").CombinedOutput(); err != nil {
		t.Errorf("clients of a server whose disk is full: %v\n%s", err, text)
	}
	s.alive(t)
	s.signal(t, syscall.SIGTERM)
	<-s.ended // with 0 or, where records were lost, 1
	if s.cmd.ProcessState.ExitCode() < 0 {
		t.Errorf("it was killed: %v", s.cmd.ProcessState)
	}
	s.leavesNothing(t)
}

// What is not on loopback is said.
func TestExposedServerWarns(t *testing.T) {
	s := serveBadly(t, "--host", "0.0.0.0")
	s.says(t, `WARNING.*request socket: .* is no loopback address, and nobody is authenticated`)
	if strings.Contains(s.stderr.String(), "HTTP: ") {
		t.Error("HTTP is on loopback, and warned of")
	}
	s.endsWell(t, syscall.SIGINT)
}
