package bench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/bench/workload"
	"github.com/lmcache/lmcache-go/trace"
)

// program is the command line, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lmcache-bench-*")
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "lmcache")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "../cmd/lmcache")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

var programDir string // of program, once it was asked for

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// run runs the program and returns what it used.
func run(b *testing.B, args ...string) *syscall.Rusage {
	b.Helper()
	path, err := program()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		b.Fatalf("lmcache %q: %v\n%s", args, err, stderr.Bytes())
	}
	return cmd.ProcessState.SysUsage().(*syscall.Rusage)
}

// BenchmarkInfo runs trace info on sealed files, against a process that only
// starts. Runs of the three take turns.
//
//	go test ./bench -run '^$' -bench '^BenchmarkInfo$' -benchtime 50x
func BenchmarkInfo(b *testing.B) {
	sealed := func(calls int) string {
		path := filepath.Join(b.TempDir(), "t.lct")
		r, err := trace.Create(path, trace.Options{Overflow: trace.OverflowBlock})
		if err != nil {
			b.Fatal(err)
		}
		a := trace.Args{Keys: keyList(1, 0)}
		for range calls {
			r.Call(trace.OpFinishWrite, &a)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		return path
	}
	small, large := sealed(1000), sealed(5_000_000)
	b.ReportMetric(float64(fileSize(b, large))/1e6, "large-MB")
	ways := []struct {
		name string
		args []string
		took time.Duration
	}{
		{"start-ms", []string{"version"}, 0},
		{"small-ms", []string{"trace", "info", small}, 0},
		{"large-ms", []string{"trace", "info", large}, 0},
	}
	run(b, "version") // built and in memory
	for b.Loop() {
		for i := range ways {
			start := time.Now()
			run(b, ways[i].args...)
			ways[i].took += time.Since(start)
		}
	}
	for _, w := range ways {
		b.ReportMetric(w.took.Seconds()*1e3/float64(b.N), w.name)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReplayMemory replays the conversation workload into an L1 of 1 TiB
// and reports the process's peak of resident memory.
//
//	go test ./bench -run '^$' -bench '^BenchmarkReplayMemory$' -benchtime 1x
func BenchmarkReplayMemory(b *testing.B) {
	path := record(b, conversation, workload.Options{}, true)
	out := b.TempDir()
	var peak int64
	for b.Loop() {
		use := run(b, "trace", "replay", path, "--l1-size-gb", "1024", "--eviction-policy", "LRU",
			"--virtual-time", "--quiet", "--output-dir", out)
		peak = max(peak, use.Maxrss)
	}
	b.ReportMetric(float64(peak)/1024, "peak-MiB")
}
