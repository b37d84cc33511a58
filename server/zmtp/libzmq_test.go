package zmtp_test

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/server/zmtp"
)

// pyzmq runs a script with the system's Python and its binding of libzmq, which
// is what LMCache's own clients and server use.
func pyzmq(t *testing.T, script string, args ...string) (stdin io.WriteCloser, stdout *bufio.Reader, wait func()) {
	t.Helper()
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import zmq").Run(); err != nil {
		t.Skip("no libzmq to talk to: install Debian's python3-zmq")
	}
	cmd := exec.CommandContext(t.Context(), python, append([]string{script}, args...)...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return stdin, bufio.NewReader(pipe), func() {
		t.Helper()
		rest, _ := io.ReadAll(pipe) // its error is the process's
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, rest)
		}
	}
}

// TestLibzmqClients has libzmq's DEALERs against our Router: sizes, pipelining,
// heartbeats of theirs, many connections, and what a REQ does.
func TestLibzmqClients(t *testing.T) {
	r := serve(t, zmtp.Options{}, echo)
	_, out, wait := pyzmq(t, "testdata/dealers.py", "tcp://"+r.Addr())
	for {
		line, err := out.ReadString('\n')
		if line != "" && !strings.HasPrefix(line, "ok ") {
			t.Errorf("%s", line)
		}
		if err != nil {
			break
		}
		t.Log(strings.TrimSpace(line))
	}
	wait()
	_ = r.Close()
	if s := r.Stats(); s.Malformed != 0 || s.Slow != 0 || s.Accepted < 200 {
		t.Errorf("got %+v; want 200 peers and more, none of them bad", s)
	}
}

// TestLibzmqServer has our Dealer against libzmq's ROUTER.
func TestLibzmqServer(t *testing.T) {
	stdin, out, wait := pyzmq(t, "testdata/router.py")
	endpoint, err := out.ReadString('\n')
	if err != nil {
		wait()
		t.Fatal(err)
	}
	d, err := zmtp.Dial(t.Context(), strings.TrimSpace(endpoint), zmtp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, d, []byte("x"), nil, make([]byte, 255), make([]byte, 256), bytes.Repeat([]byte("y"), 4<<20))
	const n = 2000
	for range n {
		if err := d.Post([]byte("uid"), []byte("op")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if _, err := d.Recv(t.Context()); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	// The ROUTER sends heartbeats each 20 ms and gives up after a second.
	receiving := make(chan error, 1)
	go func() {
		_, err := d.Recv(t.Context())
		receiving <- err
	}()
	select {
	case err := <-receiving:
		t.Errorf("hung up amid heartbeats: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	_ = stdin.Close()
	wait()
	if err := <-receiving; err == nil {
		t.Error("a message from nowhere")
	}
	_ = d.Close()
}
