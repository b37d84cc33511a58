package s3_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/s3"
)

const accessKey, secretKey, region = "tester", "testersecret", "eu-test-1"

// gateway is a versitygw process: a real S3 server over a folder.
type gateway struct {
	dir, addr string
	cmd       *exec.Cmd
}

// gatewayProgram finds versitygw in build/tools or the path; "" if there is none.
func gatewayProgram() string {
	if p, err := filepath.Abs("../../build/tools/versitygw"); err == nil {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	p, _ := exec.LookPath("versitygw")
	return p
}

// newGateway starts a server of its own for a test, or skips it.
func newGateway(t testing.TB) *gateway {
	t.Helper()
	if gatewayProgram() == "" {
		t.Skip("no versitygw in build/tools or in the path; make tools builds it")
	}
	g := &gateway{dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = l.Addr().String()
	l.Close()
	g.start(t)
	t.Cleanup(g.kill)
	return g
}

// start starts the server, again after a kill, and returns when it listens.
func (g *gateway) start(t testing.TB) {
	t.Helper()
	g.cmd = exec.Command(gatewayProgram(), "--access", accessKey, "--secret", secretKey, "--region", region,
		"--port", g.addr, "--keep-alive", "--quiet", "--virtual-domain", "s3.test", "posix", g.dir)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var c clock.Real
	for end := c.Now() + int64(20*time.Second); ; {
		conn, err := net.Dial("tcp", g.addr)
		if err == nil {
			conn.Close()
			return
		}
		if c.Now() > end {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("versitygw does not listen: %v\n%s", err, text)
		}
		_ = c.SleepUntil(context.Background(), c.Now()+int64(5*time.Millisecond))
	}
}

func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

func (g *gateway) client(t testing.TB) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(g.addr, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: region})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var buckets atomic.Int64

// bucket makes an empty bucket.
func (g *gateway) bucket(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", buckets.Add(1))
	if err := g.client(t).MakeBucket(t.Context(), name, minio.MakeBucketOptions{Region: region}); err != nil {
		t.Fatal(err)
	}
	return name
}

// config returns an adapter's JSON object; more replaces or adds fields.
func (g *gateway) config(bucket string, more map[string]any) []byte {
	return configOf(g.addr, bucket, more)
}

func configOf(addr, bucket string, more map[string]any) []byte {
	fields := map[string]any{
		"type": "s3", "s3_endpoint": addr, "s3_region": region, "disable_tls": true,
		"s3_addressing_style": "path", "s3_bucket": bucket,
		"aws_access_key_id": accessKey, "aws_secret_access_key": secretKey,
	}
	for k, v := range more {
		fields[k] = v
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return raw
}

// open opens a bucket as the conformance suite wants it.
func (g *gateway) open(bucket string, more map[string]any) func(l2.Env) (l2.Adapter, error) {
	return func(env l2.Env) (l2.Adapter, error) { return s3.New(g.config(bucket, more), env) }
}

// objects returns the names that the bucket has.
func (g *gateway) objects(t testing.TB, bucket string) (names []string) {
	t.Helper()
	for o := range g.client(t).ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") {
			names = append(names, o.Key)
		}
	}
	return names
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}
