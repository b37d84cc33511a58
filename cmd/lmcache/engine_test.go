package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveLMCache runs the real program as a server on loopback and returns its
// request endpoint. At the end of the test it is stopped, and must end well.
func serveLMCache(t *testing.T, flags ...string) (endpoint string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"lmcache", "server", "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--prometheus-port", "0", "--eviction-policy", "LRU"}, flags...)
	cmd := &exec.Cmd{Path: self, Args: args, Env: append(os.Environ(), "PATH="+filepath.Dir(self), "GORACE=atexit_sleep_ms=0")}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	lines := bufio.NewScanner(stderr)
	running := regexp.MustCompile(`zmq cache server is running on (\S+)`)
	for endpoint == "" && lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if m := running.FindStringSubmatch(lines.Text()); m != nil {
			endpoint = "tcp://" + m[1]
		}
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			log.WriteString(lines.Text() + "\n")
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v\n%s", err, &log)
		}
		stop.Stop()
	})
	if endpoint == "" {
		t.Fatalf("the server does not run:\n%s", &log)
	}
	return endpoint
}

// An engine of hand-made frames, on the libzmq that LMCache's clients use,
// stores and retrieves; one is killed between prepare and commit, and what it
// left can neither be read nor stays for ever.
func TestHandMadeEngine(t *testing.T) {
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import zmq, msgpack").CombinedOutput(); err != nil {
		t.Skipf("needs Debian's python3-zmq and python3-msgpack: %s", out)
	}
	trace := filepath.Join(t.TempDir(), "run.lct")
	t.Run("against the server", func(t *testing.T) {
		endpoint := serveLMCache(t, "--l1-size-gb", "0.03125", "--trace-level", "storage", "--trace-output", trace)
		for _, step := range []struct {
			name   string
			killed bool
			want   string
		}{
			{"store", false, "hits 0\nindices 0 1 2\ncommit True\nend None\n"},
			{"retrieve", false, "hits 3\nsuccess True b''\nequal True\nequal True\nequal True\ncommit True\nagain {'slots': [], 'chunk_indices': []}\nping True OK\n"},
			{"die", true, "hits 0\nprepared 3\n"},
			{"after", false, "hits 0\nreserved 0\nothers 3\nhits 0\nfreed 3\ncommit True\nhits 3\n"},
		} {
			cmd := exec.Command(python, "testdata/client/engine.py", endpoint, step.name)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != step.killed || !killed && err != nil || out.String() != step.want {
				t.Fatalf("%s: %v\n%s%s\nwant\n%s", step.name, err, &out, &errs, step.want)
			}
		}
	})
	status, stdout, stderr := lmcache(t, "trace", "replay", trace, "--l1-size-gb", "0.03125", "--eviction-policy", "LRU", "--virtual-time", "--no-csv", "--output-dir", t.TempDir())
	if status != exitDone || !strings.Contains(stdout, "Records failed:") {
		t.Errorf("replay of the recording: status %d\n%s%s", status, stdout, stderr)
	}
}
