package replay_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/replay"
	"github.com/lmcache/lmcache-go/trace"
)

func TestPrepareOutput(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := replay.PrepareOutput(dir, replay.CSVName); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("folder has %v, %v; want it created and empty", entries, err)
	}
	csv := filepath.Join(dir, replay.CSVName)
	if err := os.WriteFile(csv, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := replay.PrepareOutput(dir, replay.CSVName); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(csv); string(got) != "old" {
		t.Errorf("existing file holds %q; want it untouched", got)
	}

	// Root may write anywhere, so what cannot be written is of the wrong kind.
	if err := replay.PrepareOutput(filepath.Join(csv, "sub"), replay.CSVName); err == nil {
		t.Error("a folder below a file: no error")
	}
	if err := os.Mkdir(filepath.Join(dir, replay.JSONName), 0o777); err != nil {
		t.Fatal(err)
	}
	err := replay.PrepareOutput(dir, replay.CSVName, replay.JSONName)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), replay.JSONName) {
		t.Errorf("a folder in the place of the file: %v; want an error that names both", err)
	}
}

func TestPrepareOutputReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("permissions do not bind root")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := replay.PrepareOutput(dir, replay.CSVName); err == nil {
		t.Error("no error for a read-only folder")
	}
}

func TestOpenJSONL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "out.jsonl")
	for range 2 { // the second time truncates
		w, err := replay.OpenJSONL(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("{}\n")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "{}\n" {
		t.Errorf("file holds %q; want one line", got)
	}
	var stdout bytes.Buffer
	w, err := replay.OpenJSONL("-", &stdout)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil || w.Close() != nil || stdout.String() != "x" {
		t.Errorf("stdout got %q, %v; want x", stdout.String(), err)
	}
	if _, err := replay.OpenJSONL(filepath.Join(path, "below-a-file"), nil); err == nil {
		t.Error("a path below a file: no error")
	}
}

func TestBanner(t *testing.T) {
	rule := strings.Repeat("=", 78)
	for _, tt := range []struct {
		color       bool
		start, stop string
	}{
		{true, `\u001b[1;33m`, `\u001b[0m`},
		{false, "", ""},
	} {
		var buf bytes.Buffer
		replay.LogBanner(slog.New(slog.NewJSONHandler(&buf, nil)), tt.color)
		if !strings.Contains(buf.String(), `"level":"WARN"`) {
			t.Errorf("banner logged as %s; want a warning", buf.String())
		}
		start := `"msg":"\n` + tt.start + rule + `\n  !! REPLAY ENVIRONMENT MISMATCH MAY CAUSE RETRIEVE MISSES !!\n` + rule + tt.stop + `\n  * `
		if !strings.Contains(buf.String(), start) || !strings.Contains(buf.String(), `\n`+rule+tt.stop+`"`) {
			t.Errorf("colour %v: banner is %s", tt.color, buf.String())
		}
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// An output that breaks in the middle does not stop the replay or the others.
func TestBrokenOutputs(t *testing.T) {
	full := errors.New("no space left on device")
	for _, tt := range []struct {
		name string
		opt  replay.Options
	}{
		{"verbose", replay.Options{Verbose: brokenWriter{full}}},
		{"jsonl", replay.Options{JSONL: brokenWriter{full}}},
		{"table", replay.Options{Table: brokenWriter{full}}},
	} {
		src := storageSource()
		for i := range 3 {
			src.add(trace.OpFinishWrite, float64(i*1000), trace.Args{})
		}
		dir := t.TempDir()
		opt := tt.opt
		opt.Source, opt.Manager, opt.Clock, opt.OutputDir, opt.CSV = src, &manager{}, clock.NewVirtual(0), dir, true
		res, err := replay.Run(t.Context(), opt)
		if !errors.Is(err, full) {
			t.Errorf("%s: err = %v; want %v", tt.name, err, full)
		}
		if res == nil || res.Records.Replayed != 3 {
			t.Errorf("%s: %+v; want 3 replayed", tt.name, res)
		}
		if _, err := os.Stat(filepath.Join(dir, replay.CSVName)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestUnwritableSummaries(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, replay.CSVName), 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := replay.Run(t.Context(), replay.Options{
		Source: storageSource(), Manager: &manager{}, Clock: clock.NewVirtual(0), OutputDir: dir, CSV: true, JSON: true,
	})
	if err == nil || !strings.Contains(err.Error(), replay.CSVName) {
		t.Errorf("err = %v; want one that names %s", err, replay.CSVName)
	}
	if _, err := os.Stat(filepath.Join(dir, replay.JSONName)); err != nil {
		t.Errorf("the JSON summary was not written: %v", err)
	}
}
