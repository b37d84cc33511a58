package bench

import (
	"bufio"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/bench/serving"
	"github.com/lmcache/lmcache-go/server/client"
)

// BenchmarkServerRecording drives a server, which is the program itself, with
// recording on between two times with it off, in each iteration. The loads are
// lookups of 512 tokens with 64 in flight, and sequences of LMCache's benchmark
// by four engines. Times are medians of all rounds; off-off-% is how far the
// two times of a round without recording are apart.
//
//	go test ./bench -run '^$' -bench '^BenchmarkServerRecording$' -benchtime 10x
func BenchmarkServerRecording(b *testing.B) {
	shapes, err := serving.ParseShape("(2,64,16,1,8):float16:2")
	if err != nil {
		b.Fatal(err)
	}
	opt := serving.Options{Shape: shapes[0]}
	for _, load := range []struct {
		name string
		run  func(number int) (requests int64, took time.Duration, err error)
	}{
		{"lookup", func(int) (int64, time.Duration, error) {
			r, err := serving.Rate(b.Context(), opt, "lookup", 64, 10_000)
			if err != nil {
				return 0, 0, err
			}
			return r.Requests.Load(), r.Duration, r.Err()
		}},
		{"sequence", func(number int) (int64, time.Duration, error) {
			o := opt
			o.Clients, o.Start, o.End = 4, int64(number)*10_000, int64(number)*10_000+1_500
			r, err := serving.Run(b.Context(), o)
			if err != nil {
				return 0, 0, err
			}
			return r.Requests.Load(), r.Duration, r.Err()
		}},
	} {
		b.Run("load="+load.name, func(b *testing.B) {
			s := startServer(b)
			opt.Endpoint = s.endpoint
			number := 0
			once := func() float64 {
				if err := client.NewAdmin(s.url).Clear(b.Context()); err != nil {
					b.Fatal(err)
				}
				number++
				requests, took, err := load.run(number)
				if err != nil {
					b.Fatal(err)
				}
				return float64(took.Nanoseconds()) / float64(requests)
			}
			once() // warm
			var off, on, apart []float64
			for b.Loop() {
				before := once()
				s.post(b, "/trace/start")
				recorded := once()
				s.post(b, "/trace/stop")
				after := once()
				off, on = append(off, (before+after)/2), append(on, recorded)
				apart = append(apart, 100*math.Abs(before-after)/before)
			}
			b.ReportMetric(median(off), "ns/off")
			b.ReportMetric(median(on), "ns/on")
			b.ReportMetric(median(apart), "off-off-%")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// server is a server that a benchmark started.
type server struct{ endpoint, url string }

// startServer starts the program as a server on loopback, for as long as the
// benchmark runs.
func startServer(b *testing.B) *server {
	b.Helper()
	path, err := program()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path, "server", "--port", "0", "--http-port", "0", "--l1-size-gb", "0.25", "--eviction-policy", "LRU", "--disable-metrics")
	cmd.Env = append(os.Environ(), "TMPDIR="+b.TempDir()) // for the recordings
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	s := &server{}
	lines := bufio.NewScanner(stderr)
	for s.url == "" && lines.Scan() {
		if m := regexp.MustCompile(`zmq cache server is running on (\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			s.endpoint = "tcp://" + m[1]
		}
		if m := regexp.MustCompile(`HTTP server is running on (\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
		}
	}
	if s.url == "" {
		b.Fatal("the server does not run")
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	return s
}

func (s *server) post(b *testing.B, path string) {
	b.Helper()
	response, err := http.Post(s.url+path, "application/json", strings.NewReader("{}"))
	if err != nil {
		b.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s %s", path, response.Status, text)
	}
}
