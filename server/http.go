package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
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
}

func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) *httpFront {
	f := &httpFront{served: make(chan error, 1), server: &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	go func() {
		err := f.server.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		f.served <- err
	}()
	return f
}

// close lets answers come to their end for a while, and cuts off what is left.
func (f *httpFront) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), httpGrace)
	defer cancel()
	if f.server.Shutdown(ctx) == nil {
		return nil
	}
	return f.server.Close()
}
