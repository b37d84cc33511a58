package replay_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/replay"
)

func TestWriteComparison(t *testing.T) {
	a, err := replay.ReadResult(filepath.Join("testdata", replay.ResultName))
	if err != nil {
		t.Fatal(err)
	}
	b := *a
	b.Storage.L1CapacityBytes *= 4
	b.Outcome[replay.L1HitKeys], b.Outcome[replay.MissedKeys] = 11, 0
	b.Ops = b.Ops[1:]
	c := replay.Result{Trace: a.Trace} // of a trace without records
	var buf bytes.Buffer
	if err := replay.WriteComparison(&buf, []string{"64 MiB", "256 MiB", "nothing"}, []*replay.Result{a, &b, &c}); err != nil {
		t.Fatal(err)
	}
	golden(t, "comparison.txt", buf.Bytes())

	if strings.Contains(buf.String(), "not one recording") {
		t.Error("replays of one recording are said to be of several")
	}
	b.Trace.WallStartNS++
	buf.Reset()
	if err := replay.WriteComparison(&buf, []string{"a", "b"}, []*replay.Result{a, &b}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(buf.String(), "not one recording") {
		t.Errorf("replays of two recordings are not told apart:\n%s", buf.String())
	}
}

func TestReadResultRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{"result_version": 2}`, "result_version 2, this build reads 1"},
		{`{}`, "not the result of a replay: it has no result_version"},
		{`{"result_version": 1, "outcome": {"frobs": 1}}`, `unknown count "frobs"`},
		{`{"result_version": 1`, "not the result of a replay: unexpected end of JSON input"},
	} {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(path, []byte(tt.text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := replay.ReadResult(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("ReadResult(%s) = %v; want an error with the path and %q", tt.text, err, tt.want)
		}
	}
}

// Property: an Outcome that is read is written back the same.
func FuzzOutcome(f *testing.F) {
	for _, s := range []string{`{}`, `{"l1_hit_keys": 5}`, `{"l1_hit_keys": -9223372036854775808}`, `{"x": 1}`, `null`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o, back replay.Outcome
		if json.Unmarshal(data, &o) != nil {
			return
		}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &back); err != nil || back != o {
			t.Errorf("%s is written as %s, which reads as %v, %v", data, text, back, err)
		}
	})
}
