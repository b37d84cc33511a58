// Package zmq measures what else a ROUTER could be made of. It is a module of its
// own, so that the program does not depend on the others.
package zmq

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"

	"github.com/lmcache/lmcache-go/server/zmtp"
)

// BenchmarkRouter has one and the same DEALER before an echo by our ROUTER, by
// that of go-zeromq, and by that of libzmq under Python (Debian's python3-zmq).
// cpu-µs/op is the processor time of DEALER and ROUTER; libzmq's runs elsewhere.
//
//	cd bench/peers/zmq && go test -run '^$' -bench . -count 6
func BenchmarkRouter(b *testing.B) {
	for _, r := range []struct {
		name  string
		start func(*testing.B) string
	}{{"ours", ours}, {"go-zeromq", goZeroMQ}, {"libzmq", libzmq}} {
		for _, c := range []struct{ inFlight, bytes int }{{1, 1}, {64, 1}, {1, 24 << 10}, {64, 24 << 10}} {
			b.Run(fmt.Sprintf("router=%s/inflight=%d/bytes=%d", r.name, c.inFlight, c.bytes), func(b *testing.B) {
				d, err := zmtp.Dial(b.Context(), r.start(b), zmtp.Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				ctx, uid, body := context.Background(), []byte{1}, make([]byte, c.bytes)
				for range c.inFlight {
					if err := d.Post(uid, body); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportAllocs()
				before := cpuTime(b)
				for b.Loop() {
					if _, err := d.Recv(ctx); err != nil {
						b.Fatal(err)
					}
					if err := d.Post(uid, body); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
				b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func ours(b *testing.B) string {
	r, err := zmtp.Listen("tcp://127.0.0.1:0", zmtp.Options{})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = r.Serve(func(p *zmtp.Peer, frames [][]byte) { _ = p.Answer(frames...) }) }()
	b.Cleanup(func() { _ = r.Close() })
	return r.Addr()
}

func goZeroMQ(b *testing.B) string {
	ctx, cancel := context.WithCancel(context.Background())
	r := zmq4.NewRouter(ctx)
	if err := r.Listen("tcp://127.0.0.1:0"); err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			m, err := r.Recv()
			if err != nil || r.Send(m) != nil {
				return
			}
		}
	}()
	b.Cleanup(func() { cancel(); _ = r.Close() })
	return r.Addr().String()
}

func libzmq(b *testing.B) string {
	cmd := exec.Command("/usr/bin/python3", "../../../server/zmtp/testdata/router.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	endpoint, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Skip("no libzmq: install Debian's python3-zmq")
	}
	return strings.TrimSpace(endpoint)
}

// cpuTime returns the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
