package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of an HTTP connection. The front-end is for administrators: an answer is
// quick, but for a download, which extends the time for itself.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10

	// httpGrace is how long answers that are being written may take at the end.
	httpGrace = 500 * time.Millisecond
)

// httpFront serves a handler on a listener.
type httpFront struct {
	server *http.Server
	served chan error // what ended it, once

	mu      sync.Mutex // guards that no handler begins once close waits for them
	over    bool
	running sync.WaitGroup // handlers
}

func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) *httpFront {
	f := &httpFront{served: make(chan error, 1)}
	f.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !f.enter() {
				panic(http.ErrAbortHandler)
			}
			defer f.running.Done()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		err := f.server.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		f.served <- err
	}()
	return f
}

// enter reports false when no handler may begin any more.
func (f *httpFront) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		f.running.Add(1)
	}
	return !f.over
}

// close lets answers come to their end for a while, and cuts off what is left. It
// returns when no handler runs: they read L1's memory, which goes next.
func (f *httpFront) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), httpGrace)
	defer cancel()
	var err error
	if f.server.Shutdown(ctx) != nil {
		err = f.server.Close()
	}
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.running.Wait()
	return err
}
