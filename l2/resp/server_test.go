package resp_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a real server on a free loopback port, with a folder of its own.
type server struct {
	t    testing.TB
	bin  string
	addr string
	port string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when its output has ended
}

// newServer starts the first of the programs that is installed. Without any the
// test is skipped.
func newServer(t testing.TB, programs []string, args ...string) *server {
	t.Helper()
	for _, name := range programs {
		bin, err := exec.LookPath("../../build/tools/" + name) // where make tools puts it
		if err != nil {
			bin, err = exec.LookPath(name)
		}
		if err != nil {
			continue
		}
		s := &server{t: t, bin: bin}
		dir := t.TempDir()
		for range 10 { // another program may take the port between our asking and the server's start
			s.port = freePort(t)
			s.addr = "127.0.0.1:" + s.port
			s.args = append([]string{"--port", s.port, "--bind", "127.0.0.1", "--dir", dir, "--save", "",
				"--daemonize", "no", "--logfile", ""}, args...)
			if s.start() {
				t.Cleanup(s.kill)
				return s
			}
		}
		t.Fatalf("%s does not start", name)
	}
	t.Skipf("none of %s is installed", strings.Join(programs, ", "))
	return nil
}

var (
	redisPrograms  = []string{"redis-server", "valkey-server"}
	valkeyPrograms = []string{"valkey-server", "redis-server"}
)

func freePort(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if addr.Port < 55000 { // a cluster node takes port + 10000 as well
			return fmt.Sprint(addr.Port)
		}
	}
}

// start runs the server and reports whether it came up.
func (s *server) start() bool {
	s.t.Helper()
	s.cmd = exec.Command(s.bin, s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is cut off leaves no server
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	up := make(chan bool, 1)
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Ready to accept connections") {
				up <- true
				_, _ = io.Copy(io.Discard, out)
				return
			}
		}
		up <- false
	}()
	if <-up {
		return true
	}
	_ = s.cmd.Wait()
	return false
}

// kill ends the server as a crash does.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Kill()
	<-s.done
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *server) restart() {
	s.t.Helper()
	if !s.start() {
		s.t.Fatal("the server does not start again")
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// do runs one command, as redis-cli would, and returns the answer as text.
func (s *server) do(args ...string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(c, "$%d\r\n%s\r\n", len(a), a)
	}
	answer, err := readAnswer(bufio.NewReader(c))
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return answer
}

func readAnswer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	var n int
	_, _ = fmt.Sscan(line[1:], &n)
	switch line[0] {
	case '$':
		if n < 0 {
			return "(nil)", nil
		}
		b := make([]byte, n+2)
		_, err := io.ReadFull(r, b)
		return string(b[:n]), err
	case '*':
		var all []string
		for range n {
			a, err := readAnswer(r)
			if err != nil {
				return "", err
			}
			all = append(all, a)
		}
		return strings.Join(all, "\n"), nil
	case '-':
		return line, nil
	}
	return line[1:], nil
}

// newCluster starts three nodes and gives each a third of the slots.
func newCluster(t testing.TB) []*server {
	t.Helper()
	nodes := make([]*server, 3)
	for i := range nodes {
		nodes[i] = newServer(t, valkeyPrograms, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
			"--cluster-require-full-coverage", "no", "--cluster-config-file", "nodes.conf")
	}
	for i, n := range nodes {
		if got := n.do("cluster", "addslotsrange", fmt.Sprint(i*16384/3), fmt.Sprint((i+1)*16384/3-1)); got != "OK" {
			t.Fatal(got)
		}
		if got := n.do("cluster", "set-config-epoch", fmt.Sprint(i+1)); got != "OK" {
			t.Fatal(got)
		}
		if i > 0 {
			n.do("cluster", "meet", "127.0.0.1", nodes[0].port)
		}
	}
	for _, n := range nodes {
		eventually(t, "the nodes agree", func() bool {
			info := n.do("cluster", "info")
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_size:3") &&
				strings.Contains(info, "cluster_slots_ok:16384")
		})
	}
	return nodes
}

// eventually asks until the answer is yes: what other programs do has no signal
// of ours.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}
