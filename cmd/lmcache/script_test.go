package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare with cmp")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lmcache": main})
}

// The scripts run the real program. $DATA is the module's testdata. Beside
// testscript's own commands there are
//
//	status N COMMAND ARG...       run a command that must exit with status N
//	start NAME REGEXP COMMAND ARG...  run a command in the background, and go on
//	                              when a line of its stderr matches
//	finish NAME SIGNAL N          send it SIGNAL (INT, TERM, KILL, or - for none);
//	                              it must exit with status N
//	json VAR FILE KEY...          set $VAR to a value of a JSON file
//	said VAR NAME REGEXP          set $VAR to the group of REGEXP in a line that a
//	                              running command has written to stderr by now
//	http STATUS METHOD URL [BODY] an HTTP request that is answered with STATUS; the
//	                              answer is the stdout of later commands
//
// $VECTORS is the folder of LMCache's files. There is the condition [smalldisk]: a file system of a few MiB can be mounted, as
// `unshare -rm` lets most users do.
func TestScripts(t *testing.T) {
	data, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATA", data)
			env.Setenv("VECTORS", filepath.Join(data, "lct-v1"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a race is still reported; the second of waiting adds up
			env.Values[background{}] = map[string]*process{}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "smalldisk" {
				return false, fmt.Errorf("unknown condition %s", cond)
			}
			return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", os.TempDir()).Run() == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": runStatus, "start": start, "finish": finish, "json": jsonValue, "said": said, "http": httpRequest,
		},
	})
}

func usage(ts *testscript.TestScript, wrong bool, text string) {
	if wrong {
		ts.Fatalf("usage: %s", text)
	}
}

func runStatus(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 2, "status N command args...")
	checkStatus(ts, args[0], ts.Exec(args[1], args[2:]...), args[1:])
}

func checkStatus(ts *testscript.TestScript, want string, err error, command []string) {
	n, convErr := strconv.Atoi(want)
	ts.Check(convErr)
	got := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode() // -1: ended by a signal
	}
	if got != n {
		ts.Fatalf("%v: exit status %d; want %d", command, got, n)
	}
}

// background is the key of a script's running processes, by name.
type background struct{}

type process struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr lockedBuffer
	read   chan struct{} // closed when stderr was read to its end
}

// lockedBuffer is a bytes.Buffer that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func said(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 3, "said VAR NAME REGEXP")
	p := ts.Value(background{}).(map[string]*process)[args[1]]
	if p == nil {
		ts.Fatalf("nothing was started as %s", args[1])
	}
	text := p.stderr.String()
	m := regexp.MustCompile(args[2]).FindStringSubmatch(text)
	if len(m) != 2 {
		ts.Fatalf("no line, or no one group, for %s in:\n%s", args[2], text)
	}
	ts.Setenv(args[0], m[1])
}

func httpRequest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 3 || len(args) > 4, "http STATUS METHOD URL [BODY]")
	body := ""
	if len(args) == 4 {
		body = args[3]
	}
	req, err := http.NewRequest(args[1], args[2], strings.NewReader(body))
	ts.Check(err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
	if got := strconv.Itoa(resp.StatusCode); got != args[0] {
		ts.Fatalf("%s %s: status %s; want %s", args[1], args[2], got, args[0])
	}
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 3, "start NAME REGEXP command args...")
	path := ""
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		if p := filepath.Join(dir, args[2]); path == "" {
			if info, err := os.Stat(p); err == nil && info.Mode()&0o111 != 0 {
				path = p
			}
		}
	}
	if path == "" {
		ts.Fatalf("no command %s", args[2])
	}
	p := &process{cmd: exec.Command(path, args[3:]...), read: make(chan struct{})}
	p.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "LMCACHE_LOG_LEVEL"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	p.cmd.Stdout = &p.stdout
	pipe, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ts.Defer(func() { _ = p.cmd.Process.Kill() }) // what finish has not waited for

	ready := make(chan bool, 1)
	match := regexp.MustCompile(args[1])
	go func() {
		defer close(p.read)
		r := bufio.NewReader(io.TeeReader(pipe, &p.stderr))
		for waiting := true; ; {
			line, err := r.ReadString('\n')
			if waiting && (err != nil || match.MatchString(line)) {
				ready <- err == nil
				waiting = false
			}
			if err != nil {
				return
			}
		}
	}()
	if !<-ready {
		<-p.read
		ts.Fatalf("%v ended without a line that matches %q on stderr:\n%s", args[2:], args[1], p.stderr.String())
	}
	ts.Value(background{}).(map[string]*process)[args[0]] = p
}

func finish(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 3, "finish NAME SIGNAL N")
	running := ts.Value(background{}).(map[string]*process)
	p := running[args[0]]
	if p == nil {
		ts.Fatalf("nothing was started as %s", args[0])
	}
	delete(running, args[0])
	if args[1] != "-" {
		sig, ok := map[string]os.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
		usage(ts, !ok, "finish NAME INT|TERM|KILL|- N")
		ts.Check(p.cmd.Process.Signal(sig))
	}
	<-p.read
	err := p.cmd.Wait()
	_, _ = ts.Stdout().Write(p.stdout.Bytes())
	_, _ = io.WriteString(ts.Stderr(), p.stderr.String())
	checkStatus(ts, args[2], err, p.cmd.Args[1:])
}

func jsonValue(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 3, "json VAR FILE key...")
	var value any
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile(args[1])))
	dec.UseNumber()
	ts.Check(dec.Decode(&value))
	for _, key := range args[2:] {
		object, _ := value.(map[string]any)
		v, ok := object[key]
		if !ok {
			ts.Fatalf("%s: no key %q in %v", args[1], key, value)
		}
		value = v
	}
	ts.Setenv(args[0], fmt.Sprint(value))
}
