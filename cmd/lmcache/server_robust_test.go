package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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
	"github.com/lmcache/lmcache-go/server/zmtp"
)

// realServer is the program itself as a server on loopback.
type realServer struct {
	*daemon
	rpc, web string // host and port
}

// serveReal starts a server. At the end of the test it is stopped, if end has
// not done so.
func serveReal(t *testing.T, flags ...string) *realServer {
	t.Helper()
	args := append([]string{"server", "--port", "0", "--http-port", "0", "--disable-metrics", "--eviction-policy", "LRU"}, flags...)
	s := &realServer{daemon: startServer(t, child(t, args...))}
	s.rpc = s.await(t, `zmq cache server is running on (\S+)`)[1]
	s.web = strings.TrimPrefix(s.await(t, `HTTP server is running on (\S+)`)[1], "http://")
	return s
}

// end sends a signal and returns how the server ended and how long that took.
func (s *realServer) end(t *testing.T, signal os.Signal) (*os.ProcessState, time.Duration) {
	t.Helper()
	begin := time.Now()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for range s.log {
	}
	_ = s.cmd.Wait()
	return s.cmd.ProcessState, time.Since(begin)
}

func (s *realServer) status(t *testing.T) *client.Status {
	t.Helper()
	status, err := client.NewAdmin("http://" + s.web).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// engines returns how many engines are registered.
func (s *realServer) engines(t *testing.T) int {
	t.Helper()
	text, _, err := client.NewAdmin("http://"+s.web).Get(t.Context(), "/status")
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		Instances []int64 `json:"registered_non_cuda_instance_ids"`
	}
	if err := json.Unmarshal(text, &status); err != nil || status.Instances == nil {
		t.Fatalf("%v in %s", err, text)
	}
	return len(status.Instances)
}

// bench runs bench server against s.
func (s *realServer) bench(t *testing.T, args ...string) *exec.Cmd {
	return child(t, append([]string{"bench", "server", "--rpc-url", "tcp://" + s.rpc, "--kvcache-shape-spec", smallShape, "--interval", "0"}, args...)...)
}

// proc returns how many files and threads the server has, and how much memory.
func (s *realServer) proc(t *testing.T) (files int, residentKB int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	residentKB, _ = strconv.Atoi(string(m[1]))
	return len(entries), residentKB
}

// eventually waits until something of another process is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); !is(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func segments(t *testing.T, name string) []string {
	t.Helper()
	found, err := filepath.Glob("/dev/shm/*" + name + "*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestServerOutlivesKilledClients kills load generators in the middle of what
// they do. What they left half done is given back, and the recording tells of it.
func TestServerOutlivesKilledClients(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "run.lct")
	s := serveReal(t, "--l1-size-gb", "0.03125", "--trace-level", "storage", "--trace-output", trace,
		"--worker-reap-timeout-seconds", "1", "--worker-registration-grace-seconds", "1", "--l1-read-ttl-seconds", "1")
	for range 4 {
		cmd := s.bench(t, "--concurrency", "3", "--tp-size", "2", "--num-tokens", "1000")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, out, 8<<10); err != nil { // well on its way
			t.Error(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	eventually(t, "the dead are forgotten", func() bool { return s.engines(t) == 0 })
	clear := func() {
		t.Helper()
		if text, err := child(t, "kvcache", "clear", "--url", "http://"+s.web).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
		if l1 := s.status(t).Storage.L1; l1.UsedBytes != 0 {
			t.Errorf("%v bytes are held after all was cleared", l1.UsedBytes)
		}
	}
	clear() // the locks of lookups that no retrieve followed have lapsed meanwhile
	if text, err := s.bench(t, "--end", "3", "--model", "after").CombinedOutput(); err != nil {
		t.Errorf("after the dead: %v\n%s", err, text)
	}
	clear()
	if state, _ := s.end(t, syscall.SIGTERM); !state.Success() {
		t.Error(state)
	}
	if text, err := child(t, "trace", "verify", trace).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	text, err := child(t, "trace", "replay", trace, "--l1-size-gb", "0.03125", "--eviction-policy", "LRU", "--virtual-time", "--no-csv", "--disable-metrics").CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^Records failed: +0$`).Match(text) {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestServerBadClients has two hundred clients that send what no client should,
// do not read, or fall silent. Others are served meanwhile; afterwards the
// server holds no more than before.
func TestServerBadClients(t *testing.T) {
	s := serveReal(t, "--l1-size-gb", "0.0625")
	if text, err := s.bench(t, "--end", "3").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	files, resident := s.proc(t)

	greeting := append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'}, make([]byte, 48)...)
	ready := []byte("\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00")
	raw := func(send ...[]byte) net.Conn {
		conn, err := net.Dial("tcp", s.rpc)
		if err != nil {
			t.Error(err)
			return nil
		}
		for _, b := range send {
			_, _ = conn.Write(b) // the server may have had enough
		}
		return conn
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	kinds := []func(i int) net.Conn{
		func(int) net.Conn { return raw() }, // half open: nothing
		func(int) net.Conn { return raw(greeting) },
		func(int) net.Conn { return raw([]byte("GET / HTTP/1.1\r\n\r\n")) },
		func(int) net.Conn { return raw(greeting, ready, []byte("\x02\x7f\xff\xff\xff\xff\xff\xff\xff")) }, // a frame of 2^63 - 1 bytes
		func(int) net.Conn {
			return raw(greeting, ready, join([]byte("\x03\x00\x00\x00\x00\x40\x00\x00\x00"), make([]byte, 1<<20)))
		},
		func(int) net.Conn { return raw(greeting, ready, []byte("\x00\x03abc")) },                          // a message of one frame
		func(int) net.Conn { return raw(greeting, ready, []byte("\x01\x01\xc1\x01\x01\xc1\x00\x01\xc1")) }, // no msgpack
		func(i int) net.Conn {
			conn := raw(greeting, ready)
			if tcp, ok := conn.(*net.TCPConn); ok && i%2 == 0 {
				_ = tcp.SetLinger(0) // a reset in the middle of a frame
				_, _ = tcp.Write([]byte("\x00\xff"))
				_ = tcp.Close()
			}
			return conn
		},
	}
	var conns []net.Conn
	for i := range 200 {
		if conn := kinds[i%len(kinds)](i); conn != nil {
			conns = append(conns, conn)
		}
	}
	// One that asks and never reads.
	ctx, cancel := context.WithCancel(t.Context())
	slow, err := zmtp.Dial(ctx, "tcp://"+s.rpc, zmtp.Options{SendQueue: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		// Frames of a request: its number, its name, no arguments.
		for n := 0; n < 200_000 && ctx.Err() == nil; n++ {
			if slow.Send([]byte{0xcd, byte(n >> 8), byte(n)}, append([]byte{0xae}, "GET_CHUNK_SIZE"...)) != nil {
				return
			}
		}
	})
	if text, err := s.bench(t, "--start", "10", "--end", "20", "--concurrency", "2", "--first-instance", "5000").CombinedOutput(); err != nil {
		t.Errorf("beside them: %v\n%s", err, text)
	}
	cancel()
	asking.Wait()
	_ = slow.Close()
	for _, conn := range conns {
		_ = conn.Close()
	}
	eventually(t, "the server lets go of their sockets", func() bool { now, _ := s.proc(t); return now <= files })
	if _, now := s.proc(t); !raceflag.Enabled && now > resident+128<<10 {
		t.Errorf("%d kB resident, %d before", now, resident)
	}
	if err := func() error {
		c, err := client.Dial(t.Context(), "tcp://"+s.rpc, client.Options{Timeout: 10 * time.Second})
		if err != nil {
			return err
		}
		return errors.Join(c.Noop(t.Context()), c.Close())
	}(); err != nil {
		t.Error(err)
	}
	if state, took := s.end(t, syscall.SIGINT); !state.Success() || took > 5*time.Second {
		t.Errorf("%v after %v", state, took)
	}
}

// TestServerKilled kills a server. The next takes over the segment that it left,
// and the recording is readable up to the end.
func TestServerKilled(t *testing.T) {
	dir, name := t.TempDir(), fmt.Sprintf("robust-%d", os.Getpid())
	trace := filepath.Join(dir, "run.lct")
	s := serveReal(t, "--l1-size-gb", "0.03125", "--shm-name", name, "--trace-level", "storage", "--trace-output", trace)
	if text, err := s.bench(t, "--end", "5").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if state, _ := s.end(t, syscall.SIGKILL); state.Success() || len(segments(t, name)) == 0 {
		t.Errorf("%v, segments %v", state, segments(t, name))
	}
	repaired := filepath.Join(dir, "repaired.lct")
	if text, err := child(t, "trace", "repair", trace, repaired).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	text, err := child(t, "trace", "info", repaired).CombinedOutput()
	if err != nil || !regexp.MustCompile(`StorageManager\.finish_write: +5\n`).Match(text) {
		t.Errorf("%v\n%s", err, text)
	}
	if text, err := child(t, "trace", "verify", repaired).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}

	next := serveReal(t, "--l1-size-gb", "0.03125", "--shm-name", name)
	if text, err := next.bench(t, "--end", "2").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if state, _ := next.end(t, syscall.SIGTERM); !state.Success() {
		t.Error(state)
	}
	if left := segments(t, name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestServerStopsUnderLoad stops a server that serves a load, and one with a
// client that waits for a status that never comes.
func TestServerStopsUnderLoad(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "run.lct")
	s := serveReal(t, "--l1-size-gb", "0.03125", "--trace-level", "storage", "--trace-output", trace, "--l2-adapter", `{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":0.000001}`)
	load := s.bench(t, "--concurrency", "2")
	out, err := load.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, out, 8<<10); err != nil {
		t.Error(err)
	}
	c, err := client.Dial(t.Context(), "tcp://"+s.rpc, client.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Noop(t.Context()); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, _, err := c.WaitPrefetchStatus(t.Context(), "nobody", time.Minute)
		waited <- err
	}()
	state, took := s.end(t, syscall.SIGTERM)
	if !state.Success() || took > 5*time.Second {
		t.Errorf("%v after %v", state, took)
	}
	<-waited
	_, _ = io.Copy(io.Discard, out)
	if err := load.Wait(); err == nil || load.ProcessState.ExitCode() != exitFailed {
		t.Errorf("the load: %v; want status %d", err, exitFailed)
	}
	if text, err := child(t, "trace", "verify", trace).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestServerReservationOfTheDead has a client die between prepare and commit:
// once it is forgotten another stores the same chunks.
func TestServerReservationOfTheDead(t *testing.T) {
	s := serveReal(t, "--l1-size-gb", "0.03125", "--worker-reap-timeout-seconds", "1", "--worker-registration-grace-seconds", "1")
	const instance = 77
	dial := func() *client.Client {
		c, err := client.Dial(t.Context(), "tcp://"+s.rpc, client.Options{Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Register(t.Context(), &wire.Context{Instance: instance, Model: "m", WorldSize: 1, BlockSize: 16, Layers: 2, Hidden: 8, DType: "float16", PhysicalSlots: 256}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	key := &wire.Key{Model: "m", WorldSize: 1, Tokens: make([]uint32, 512), End: 512, RequestID: "r", Readers: 1}
	c := dial()
	if p, shared, err := c.PrepareStore(t.Context(), key, instance); err != nil || !shared || len(p.Slots) != 2 {
		t.Fatalf("%+v, %v, %v", p, shared, err)
	}
	_ = c.Close() // without a word
	eventually(t, "it is forgotten", func() bool { return s.engines(t) == 0 })
	if used := s.status(t).Storage.L1.UsedBytes; used != 0 {
		t.Errorf("%v bytes are still reserved", used)
	}
	c = dial()
	defer c.Close()
	if p, _, err := c.PrepareStore(t.Context(), key, instance); err != nil || len(p.Slots) != 2 {
		t.Errorf("again: %+v, %v", p, err)
	}
	if ok, err := c.CommitStore(t.Context(), key, instance); err != nil || !ok {
		t.Errorf("commit: %v, %v", ok, err)
	}
}
