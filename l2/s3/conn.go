package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/l2"
)

const (
	minRate      = 1 << 20                 // bytes a second that a slow but working store is granted
	firstPause   = 50 * time.Millisecond   // before a repetition; doubles
	longestPause = 2 * time.Second         // between two repetitions
	dialTimeout  = 5 * time.Second         // of one connection
	startTimeout = 5 * time.Second         // of the question that New asks
	startTries   = 3                       // of the same
	deleteBatch  = 1000                    // keys in one DeleteObjects, the protocol's limit
	ioBuffer     = 64 << 10                // of a connection, each way
	readStep     = 256 << 10               // bytes between two looks at a body's checksum
	crcHeader    = "x-amz-checksum-crc32c" // sent with a PUT, so that the store checks it; comes back with a GET
)

var (
	errAbsent   = errors.New("no such object")
	errStalled  = errors.New("no byte moved for too long")
	errChecksum = errors.New("the bytes do not have their checksum")
	errCut      = errors.New("the request is over")
)

// errOpen is what requests fail with while the breaker is open, which the log says.
var errOpen openError

type openError struct{}

func (openError) Error() string {
	return "the store does not answer; it is asked again from time to time"
}
func (openError) Is(target error) bool { return target == l2.ErrReported }

// sizeError reports an object of another size than is wanted; -1 if the store
// does not say which.
type sizeError struct{ have, want int64 }

func (e *sizeError) Error() string {
	return fmt.Sprintf("object of %d bytes, want %d", e.have, e.want)
}

// conn makes requests of one bucket. Its time is the machine's, also where the
// storage manager runs on virtual time: the network does not know of that.
type conn struct {
	cfg       Config
	core      *minio.Core
	transport *http.Transport
	log       *slog.Logger
	clock     clock.Real
	breaker   breaker
	oneByOne  atomic.Bool // the store does not know DeleteObjects
}

// dialContext opens a connection; a test may lead it elsewhere.
var dialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext

func dial(cfg Config, log *slog.Logger) (*conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &conn{cfg: cfg, log: log, breaker: breaker{min: cfg.MinCooldown, max: cfg.MaxCooldown}}
	c.transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialContext,
		MaxIdleConnsPerHost: cfg.Threads,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: dialTimeout,
		DisableCompression:  true,
		ForceAttemptHTTP2:   cfg.HTTP2,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		WriteBufferSize:     ioBuffer,
		ReadBufferSize:      ioBuffer,
	}
	if !cfg.HTTP2 {
		c.transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	if cfg.CABundle != "" {
		pem, err := os.ReadFile(cfg.CABundle)
		if err != nil {
			return nil, fmt.Errorf("s3_ca_bundle: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3_ca_bundle: %s has no PEM certificate", cfg.CABundle)
		}
		c.transport.TLSClientConfig.RootCAs = pool
	}
	creds := credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
	if cfg.Explicit {
		creds = credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, "") // two empty ones: anonymous
	}
	lookup := minio.BucketLookupDNS
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(cfg.Host, &minio.Options{
		Creds: creds, Secure: cfg.TLS, Region: cfg.Region, BucketLookup: lookup, Transport: c.transport,
		MaxRetries: 1, // repetitions are ours: they have a deadline and a breaker
	})
	if err != nil {
		return nil, err
	}
	c.core = core
	return c, nil
}

// check asks for an object that is hardly there: unlike a HEAD, the answer says
// what is wrong. A store that refuses to tell whether an object exists passes:
// the keys may be those of a user who must not list the bucket.
func (c *conn) check(ctx context.Context) error {
	err := c.try(ctx, startTimeout, startTries, func(ctx context.Context, _ *atomic.Int64) error {
		body, _, _, err := c.core.GetObject(ctx, c.cfg.Bucket, ".lmcache", minio.GetObjectOptions{})
		if err == nil {
			err = body.Close()
		}
		return err
	})
	switch code := reply(err).Code; {
	case err == nil, code == minio.NoSuchKey:
		return nil
	case code == minio.AccessDenied:
		c.log.Warn(c.name() + " denies access to an object that it does not have: these keys may not list it, or may not read it")
		return nil
	}
	return fmt.Errorf("bucket '%s' at %s: %w", c.cfg.Bucket, c.cfg.Host, err)
}

// name says in the log what it is about.
func (c *conn) name() string { return "L2 adapter s3: bucket '" + c.cfg.Bucket + "' at " + c.cfg.Host }

// deadline is how long an object of size bytes may take, with all repetitions.
func (c *conn) deadline(size int) time.Duration {
	return c.cfg.Timeout + time.Duration(size/minRate)*time.Second
}

// try makes a request until it succeeds, fails for good, or the time (and where
// tries is not 0, that many tries) are over. f adds to moved what it has moved;
// a request that moves nothing for a third of the timeout is given up.
func (c *conn) try(ctx context.Context, limit time.Duration, tries int, f func(ctx context.Context, moved *atomic.Int64) error) error {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for n := 1; ; n++ {
		if parent.Err() != nil {
			return parent.Err()
		}
		if !c.breaker.allow(c.clock.Now()) {
			return errOpen
		}
		err := c.once(ctx, f)
		a, again := judge(err)
		if parent.Err() != nil {
			a = unknown // we hung up ourselves
		}
		switch began, ended := c.breaker.report(c.clock.Now(), a); {
		case began:
			c.log.Warn(c.name()+" does not answer; lookups miss and stores fail until it does", "error", err)
		case ended:
			c.log.Info(c.name() + " answers again")
		}
		if !again || n == tries {
			return err
		}
		if c.breaker.refuses(c.clock.Now()) {
			return fmt.Errorf("%w: %w", errOpen, err)
		}
		pause := min(firstPause<<min(n-1, 10), longestPause)
		pause = pause/2 + rand.N(pause/2) // spread, so that many workers do not come back at once
		if !c.pause(ctx, pause) {
			return fmt.Errorf("given up after %d tries: %w", n, err)
		}
	}
}

// once makes one request under the watch for stalls.
func (c *conn) once(ctx context.Context, f func(ctx context.Context, moved *atomic.Int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := watchdog{clock: c.clock, patience: c.cfg.Timeout / 3, stalled: func() { cancel(errStalled) }}
	w.arm()
	err := f(ctx, &w.moved)
	w.stop()
	if err != nil && context.Cause(ctx) == errStalled {
		return errStalled
	}
	return err
}

// watchdog calls stalled when moved has not changed for its patience.
type watchdog struct {
	clock    clock.Real
	patience time.Duration
	stalled  func()
	moved    atomic.Int64

	mu     sync.Mutex
	last   int64
	cancel func() bool // of the next look
	over   bool
}

func (w *watchdog) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.cancel = w.clock.AfterFunc(w.patience, func() {
		if now := w.moved.Load(); now != w.last {
			w.last = now // only looks touch it, and they follow each other
			w.arm()
		} else {
			w.stalled()
		}
	})
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.cancel()
}

// pause waits for d; false if ctx ended before.
func (c *conn) pause(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	defer c.clock.AfterFunc(d, func() { close(over) })()
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}

// judge says what an error means for the store's health, and whether the same
// request may succeed later.
func judge(err error) (a answer, again bool) {
	var size *sizeError
	var authority x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil, errors.Is(err, errAbsent), errors.Is(err, errChecksum), errors.As(err, &size):
		return answered, false
	case reply(err).Code != "":
		response := reply(err)
		switch response.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return answered, true
		}
		return answered, slices.Contains([]string{"RequestTimeout", "InternalError", "SlowDown", "Throttling",
			"ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"}, response.Code)
	case errors.As(err, &authority), errors.As(err, &certificate), errors.Is(err, http.ErrSchemeMismatch):
		return silent, false
	}
	return silent, true
}

// reply returns the store's answer that err is about; the zero value if there
// was none.
func reply(err error) (r minio.ErrorResponse) {
	errors.As(err, &r)
	return r
}

// asAbsent turns the store's words for a missing object into errAbsent.
func asAbsent(err error) error {
	if reply(err).Code == minio.NoSuchKey {
		return errAbsent
	}
	return err
}

// forbidden reports an answer that a user gets who may not list the bucket.
func forbidden(err error) bool {
	return err != nil && reply(err).StatusCode == http.StatusForbidden
}

// head returns the size of an object.
func (c *conn) head(ctx context.Context, name string) (size int64, err error) {
	err = c.try(ctx, c.deadline(0), 0, func(ctx context.Context, _ *atomic.Int64) error {
		info, err := c.core.StatObject(ctx, c.cfg.Bucket, name, minio.StatObjectOptions{})
		size = info.Size
		return asAbsent(err)
	})
	return size, err
}

// put writes an object. When it returns, nothing reads b any more.
func (c *conn) put(ctx context.Context, name string, b payload) error {
	opts := minio.PutObjectOptions{
		DisableContentSha256: true, // the checksum below costs a tenth of the time, and the store keeps it
		UserMetadata:         map[string]string{crcHeader: b.checksum()},
	}
	return c.try(ctx, c.deadline(b.size), 0, func(ctx context.Context, moved *atomic.Int64) error {
		r := &upload{payload: b, moved: moved}
		defer r.Close()
		_, err := c.core.PutObject(ctx, c.cfg.Bucket, name, r, int64(b.size), "", "", opts)
		return err
	})
}

// get reads an object of exactly b's size into b.
func (c *conn) get(ctx context.Context, name string, b payload) error {
	return c.try(ctx, c.deadline(b.size), 0, func(ctx context.Context, moved *atomic.Int64) error {
		var opts minio.GetObjectOptions
		opts.Set("x-amz-checksum-mode", "ENABLED")
		body, info, header, err := c.core.GetObject(ctx, c.cfg.Bucket, name, opts)
		if err != nil {
			return asAbsent(err)
		}
		defer body.Close()
		if info.Size >= 0 && info.Size != int64(b.size) {
			return &sizeError{info.Size, int64(b.size)}
		}
		return b.fill(body, header.Get(crcHeader), moved)
	})
}

// remove deletes objects, at most deleteBatch, and calls gone for every name
// that the store then does not have, whether or not it had it before.
func (c *conn) remove(ctx context.Context, names []string, gone func(name string)) error {
	left := map[string]bool{}
	for _, name := range names {
		left[name] = true
	}
	return c.try(ctx, c.deadline(0), 0, func(ctx context.Context, moved *atomic.Int64) error {
		if c.oneByOne.Load() {
			return c.removeEach(ctx, left, gone, moved)
		}
		results, err := c.core.RemoveObjectsWithIter(ctx, c.cfg.Bucket, func(yield func(minio.ObjectInfo) bool) {
			for name := range left {
				if !yield(minio.ObjectInfo{Key: name}) {
					return
				}
			}
		}, minio.RemoveObjectsOptions{})
		if err != nil {
			return err
		}
		var done []string
		for r := range results {
			moved.Add(1)
			if r.Err == nil {
				done = append(done, r.ObjectName)
			} else if err == nil {
				err = r.Err
			}
		}
		for _, name := range done {
			if left[name] {
				delete(left, name)
				gone(name)
			}
		}
		if code := reply(err).Code; code == minio.MethodNotAllowed || code == minio.NotImplemented {
			c.oneByOne.Store(true)
			return c.removeEach(ctx, left, gone, moved)
		}
		return err
	})
}

func (c *conn) removeEach(ctx context.Context, left map[string]bool, gone func(name string), moved *atomic.Int64) error {
	for name := range left {
		if err := asAbsent(c.core.RemoveObject(ctx, c.cfg.Bucket, name, minio.RemoveObjectOptions{})); err != nil && err != errAbsent {
			return err
		}
		moved.Add(1)
		delete(left, name)
		gone(name)
	}
	return nil
}

func (c *conn) close() { c.transport.CloseIdleConnections() }
