package main

import (
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/server/client"
	"github.com/lmcache/lmcache-go/server/wire"
)

func (s *served) status(t *testing.T) *client.Status {
	t.Helper()
	status, err := client.NewAdmin(s.url).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// engines returns how many engines are registered.
func (s *served) engines(t *testing.T) int {
	t.Helper()
	_, text := s.ask(t, "GET", "/status", "")
	var status struct {
		Instances []int64 `json:"registered_non_cuda_instance_ids"`
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil || status.Instances == nil {
		t.Fatalf("%v in %s", err, text)
	}
	return len(status.Instances)
}

// bench is a load on s.
func (s *served) bench(t *testing.T, args ...string) *exec.Cmd {
	return child(t, append([]string{"bench", "server", "--rpc-url", "tcp://" + s.rpc, "--kvcache-shape-spec", smallShape, "--interval", "0"}, args...)...)
}

// TestServerOutlivesKilledClients kills load generators in the middle of what
// they do. What they left half done is given back, and the recording tells of it.
func TestServerOutlivesKilledClients(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "run.lct")
	s := serveBadly(t, "--trace-level", "storage", "--trace-output", trace,
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
	until(t, "the dead are forgotten", func() bool { return s.engines(t) == 0 })
	clear := func() {
		t.Helper()
		if text, err := child(t, "kvcache", "clear", "--url", s.url).CombinedOutput(); err != nil {
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
	s.endsWell(t, syscall.SIGTERM)
	if text, err := child(t, "trace", "verify", trace).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	text, err := child(t, "trace", "replay", trace, "--l1-size-gb", "0.03125", "--eviction-policy", "LRU", "--virtual-time", "--no-csv", "--disable-metrics").CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^Records failed: +0$`).Match(text) {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestServerStopsUnderLoad stops a server that serves a load, and one with a
// client that waits for a status that never comes.
func TestServerStopsUnderLoad(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "run.lct")
	s := serveBadly(t, "--trace-level", "storage", "--trace-output", trace, "--l2-adapter", `{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":0.000001}`)
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
	s.endsWell(t, syscall.SIGTERM)
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
	s := serveBadly(t, "--worker-reap-timeout-seconds", "1", "--worker-registration-grace-seconds", "1")
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
	until(t, "it is forgotten", func() bool { return s.engines(t) == 0 })
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
	s.endsWell(t, syscall.SIGTERM)
}
