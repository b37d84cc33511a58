package golden_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/server/wire/golden"
)

func TestSessions(t *testing.T) {
	for name, want := range map[string]struct{ requests, replies, silent, controls int }{
		"bench":  {13, 13, 0, 0},
		"errors": {88, 40, 48, 1},
		"stream": {14, 13, 3, 3}, // one request has two results and the end of its stream
	} {
		f, err := os.Open(filepath.Join("../../../testdata/zmq", "session-"+name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := golden.Parse(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		list, err := golden.Exchanges(lines)
		if err != nil {
			t.Fatal(err)
		}
		got := want
		got.requests, got.replies, got.silent, got.controls = len(list), 0, 0, 0
		for _, x := range list {
			got.replies += len(x.Replies)
			if len(x.Replies) == 0 {
				got.silent++
			}
			if x.Request.Control() {
				got.controls++
			}
		}
		if got != want {
			t.Errorf("%s: got %+v; want %+v", name, got, want)
		}
	}
}

func TestDamage(t *testing.T) {
	for _, text := range []string{"> c0", "? c0 00", "> c0 0", "> c0 zz", "- c0 soon"} {
		if _, err := golden.Parse(strings.NewReader(text + "\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: got %v; want an error of line 1", text, err)
		}
	}
	lines, err := golden.Parse(strings.NewReader("> c0 00 18\n< c1 00 18\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := golden.Exchanges(lines); err == nil {
		t.Error("a reply on another connection is the answer")
	}
}
