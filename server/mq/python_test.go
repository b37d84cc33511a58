package mq_test

import (
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/server/mq"
)

// TestPythonClient has a libzmq client with frames of another msgpack.
func TestPythonClient(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import zmq, msgpack").Run(); err != nil {
		t.Skip("no client to talk to: install Debian's python3-zmq and python3-msgpack")
	}
	f := &fake{}
	s := start(t, f, mq.Options{})
	out, err := exec.CommandContext(t.Context(), python, "testdata/client.py", "tcp://"+s.Addr()).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "ok ") {
			t.Errorf("%s", line)
		}
	}
	if got := f.noted(); !slices.Contains(got, "lookup r readers 1") || !slices.Contains(got, "lookup r readers 4") {
		t.Errorf("the service got %q; want lookups with 1 and 4 readers", got)
	}
	want := map[mq.Reason]uint64{mq.NoOperation: 1, mq.UnknownOp: 1, mq.NotServed: 1, mq.Malformed: 2}
	if st := s.Stats(); !reflect.DeepEqual(st.Refused, want) || st.Controls != 1 {
		t.Errorf("got %v and %d controls; want %v and 1", st.Refused, st.Controls, want)
	}
}
