package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/server/httpapi"
	"github.com/lmcache/lmcache-go/server/mq"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/telemetry"
)

// Options are what a Server needs beside its configuration.
type Options struct {
	// Storage has the clock and the kinds of adapter for the storage manager;
	// tracer, bus, memory and log are the server's.
	Storage sm.Options
	// Telemetry starts telemetry once the ports are bound; nil runs without. The
	// server closes it.
	Telemetry func() (*telemetry.Telemetry, error)
	// Watch returns what gauges show of the storage manager; required with Telemetry.
	Watch     func(*sm.Manager) func() telemetry.State
	Recording RecordingOptions

	Observability any            // what GET /config shows of it
	Level         *slog.LevelVar // of Log; nil if it cannot be changed
	Version       string
	Commit        string
	Log           *slog.Logger // discarded if nil

	make makers // the real ones unless a test sets others
}

// service is what both front-ends serve.
type service interface {
	mq.Service
	httpapi.Engine
	// Close ends what runs in the background, and takes back what clients left half
	// done.
	Close()
}

// front is a bound front-end for requests.
type front interface {
	Addr() string
	// Serve takes requests until Close.
	Serve(mq.Service) error
	// Close takes no more requests, and returns when none runs any more.
	Close() error
	Stats() mq.Stats
}

// Server is a running server. It is safe for concurrent use.
type Server struct {
	cfg Config
	opt Options
	log *slog.Logger

	// Immutable after New; in the order in which they were made.
	requests   front
	listener   net.Listener // of HTTP; its server's once that runs
	pool       *l1.Pool     // nil without one; the manager's once there is one
	live       *telemetry.Telemetry
	recordings recordings
	manager    *sm.Manager
	service    service
	http       *httpFront

	served chan error // what ended the request loop, once

	mu      sync.Mutex
	dead    error // why the request loop ended; nil while it runs
	closing sync.Once
	closed  error
}

// PortError reports a port that cannot be bound.
type PortError struct {
	What string // "request socket", "HTTP"
	Addr string
	Flag string // that chooses another one
	Err  error
}

func (e *PortError) Error() string {
	reason := e.Err
	var errno syscall.Errno
	if errors.As(e.Err, &errno) {
		reason = errno
	}
	return fmt.Sprintf("%s: %s: %v (--%s chooses another port)", e.What, e.Addr, reason, e.Flag)
}

func (e *PortError) Unwrap() error { return e.Err }

// New binds the ports and builds the server; it does not serve yet. Nothing is
// created before both ports are bound, and no trace before the shared memory. The caller must Close it.
func New(cfg Config, opt Options) (*Server, error) {
	s := &Server{cfg: cfg, opt: opt, log: opt.Log, served: make(chan error, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.recordings.opt = opt.Recording
	s.opt.make = opt.make.orReal()
	if err := s.build(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) build() (err error) {
	if err := s.bind(); err != nil {
		return err
	}
	if s.pool, err = newPool(s.cfg, s.log); err != nil {
		return err
	}
	if s.opt.Telemetry != nil {
		if s.live, err = s.opt.Telemetry(); err != nil {
			return err
		}
	}
	if err := s.recordings.open(); err != nil {
		return err
	}
	opt := s.opt.Storage
	opt.Tracer, opt.Bus, opt.Pool, opt.Log = s.recordings.recorder, s.live.Bus(), s.pool, s.log
	if s.manager, err = sm.New(s.cfg.Storage, opt); err != nil {
		return err
	}
	if s.service, err = s.opt.make.service(s.cfg, s.manager, opt); err != nil {
		return err
	}
	s.recordings.install = s.manager.SetTracer
	if s.live != nil {
		s.live.Watch(s.watch(s.opt.Watch(s.manager)))
		s.live.WatchServer(func() telemetry.ServerState {
			return telemetry.ServerState{PrefetchJobs: int64(s.service.Report().Jobs)}
		})
	}
	return nil
}

// bind takes both ports.
func (s *Server) bind() (err error) {
	at := address(s.cfg.Host, s.cfg.Port)
	if s.requests, err = s.opt.make.front(at, s.cfg, s.log); err != nil {
		return &PortError{"request socket", at, "port", err}
	}
	at = address(s.cfg.HTTPHost, s.cfg.HTTPPort)
	if s.listener, err = net.Listen("tcp", at); err != nil {
		return &PortError{"HTTP", at, "http-port", err}
	}
	return nil
}

// RequestAddr returns host:port of the request socket.
func (s *Server) RequestAddr() string { return s.requests.Addr() }

// HTTPAddr returns host:port of the HTTP front-end.
func (s *Server) HTTPAddr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, which is no error, or a front-end fails. It may be
// called once, and leaves Close to the caller.
func (s *Server) Run(ctx context.Context) error {
	go func() {
		err := s.requests.Serve(s.service)
		s.mu.Lock()
		if s.dead = err; err == nil {
			s.dead = errors.New("request loop ended")
		}
		s.mu.Unlock()
		s.served <- err
	}()
	s.log.Info("LMCache zmq cache server is running on " + s.RequestAddr())
	s.http = serveHTTP(s.listener, s.handler(), s.log)
	s.log.Info("LMCache cache server is running...")
	s.warnExposed()
	s.log.Info(fmt.Sprintf("LMCache HTTP server is running on http://%s", s.HTTPAddr()))
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.served:
		return fmt.Errorf("request loop: %w", err)
	case err := <-s.http.served:
		return fmt.Errorf("HTTP: %w", err)
	}
}

// Healthy returns what is wrong with the server, nil if nothing is.
func (s *Server) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

func (s *Server) handler() http.Handler {
	return httpapi.New(httpapi.Options{
		Engine: s.service, Storage: s.manager, Healthy: s.Healthy,
		Settings: s.cfg.settings(portOf(s.RequestAddr()), portOf(s.HTTPAddr()), s.shmName(), s.opt.Observability), Recordings: s.recorder(), Metrics: s.live.Handler(),
		Level: s.opt.Level, Reconfigure: s.cfg.Reconfigure, Version: s.opt.Version, Commit: s.opt.Commit, Log: s.log,
	})
}

// recorder returns the recordings if there can be any.
func (s *Server) recorder() httpapi.Recordings {
	if s.opt.Recording.Create == nil {
		return nil
	}
	return &s.recordings
}

// Close takes no more requests, waits for those that run, closes the trace, and
// then all else: what hangs below L1 does not keep the trace from its end. It may
// be called twice.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Server) close() error {
	var errs []error
	// Both front-ends at once: each gives its clients a while, and the sum of both
	// would be too long.
	httpClosed := make(chan error, 1)
	go func() { httpClosed <- s.closeHTTP() }()
	if s.requests != nil {
		errs = append(errs, s.requests.Close())
	}
	errs = append(errs, <-httpClosed)
	if s.service != nil {
		s.service.Close()
	}
	errs = append(errs, s.recordings.close())
	if s.manager != nil {
		errs = append(errs, s.manager.Close())
		s.log.Info("MPCacheServer closed")
	} else if s.pool != nil {
		errs = append(errs, s.pool.Close())
	}
	errs = append(errs, s.live.WriteDump(), s.live.Close())
	if s.http != nil {
		s.log.Info("LMCache HTTP server stopped")
	}
	return errors.Join(errs...)
}

func (s *Server) closeHTTP() error {
	switch {
	case s.http != nil:
		s.log.Info("Shutting down LMCache HTTP server...")
		return s.http.close()
	case s.listener != nil:
		return s.listener.Close()
	}
	return nil
}

// warnExposed says which front-ends others than this machine reach.
func (s *Server) warnExposed() {
	for _, f := range []struct{ what, addr, flag string }{
		{"request socket", s.RequestAddr(), "host"}, {"HTTP", s.HTTPAddr(), "http-host"},
	} {
		at, err := netip.ParseAddrPort(f.addr)
		if err == nil && !at.Addr().Unmap().IsLoopback() {
			s.log.Warn(fmt.Sprintf("%s: %s is no loopback address, and nobody is authenticated: whoever reaches it can read, write and clear the cache (--%s)", f.what, f.addr, f.flag))
		}
	}
}

// shmName returns the name of the pool, empty without one.
func (s *Server) shmName() string {
	if s.pool == nil {
		return ""
	}
	return s.pool.Name()
}

// portOf returns the port of host:port, 0 if there is none.
func portOf(addr string) int {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	port, _ := strconv.Atoi(text)
	return port
}
