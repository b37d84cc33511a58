package mq

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/lmcache/lmcache-go/server/wire"
	"github.com/lmcache/lmcache-go/server/zmtp"
)

// Options configures Listen. The zero value is good.
type Options struct {
	// Workers and AffinityWorkers bound the requests of the normal and of the
	// affinity class that run at a time; GOMAXPROCS, but at least 2, if 0.
	Workers         int
	AffinityWorkers int
	// ClientRequests and ClientBytes bound what a client has waiting and running in
	// each class; 1024 and 64 MiB if 0. Nothing more is read from a client that is
	// at its bound.
	ClientRequests int
	ClientBytes    int
	// ClientWaits bounds the status polls of a client that wait; 256 if 0.
	ClientWaits int
	Log         *slog.Logger // discarded if nil
	Transport   zmtp.Options // its Gone and Log are set by Listen
}

func (o Options) withDefaults() Options {
	for _, n := range []*int{&o.Workers, &o.AffinityWorkers} {
		if *n <= 0 {
			*n = max(2, runtime.GOMAXPROCS(0))
		}
	}
	if o.ClientRequests <= 0 {
		o.ClientRequests = 1024
	}
	if o.ClientBytes <= 0 {
		o.ClientBytes = 64 << 20
	}
	if o.ClientWaits <= 0 {
		o.ClientWaits = 256
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server is the front-end: a ROUTER socket before a Service. It is safe for
// concurrent use.
type Server struct {
	o        Options
	service  Service // set by Serve, before anything calls it
	router   *zmtp.Router
	normal   *pool
	affinity *pool
	refused  *refusals

	ctx     context.Context // ends with stop, and with it the status polls that wait
	stop    context.CancelFunc
	waitsMu sync.Mutex // guards that none begins when Close waits for them
	waits   sync.WaitGroup
	waiting atomic.Int64

	serving atomic.Bool
	closing atomic.Bool
	once    sync.Once

	requests [wire.MaxOp + 1]atomic.Uint64
	answered atomic.Uint64
	controls atomic.Uint64
}

// Stats counts since Listen.
type Stats struct {
	Requests  map[wire.Op]uint64 // well-formed requests that came
	Answered  uint64
	Refused   map[Reason]uint64 // requests that were not answered
	Controls  uint64            // control messages of streams, which there are none of
	InFlight  int               // requests that wait for a worker, or run on one
	Waiting   int               // status polls that wait
	Transport zmtp.RouterStats
}

// Listen opens the socket at an address such as tcp://localhost:5555. Clients may
// connect; they are served once Serve is called. The caller must Close the
// Server.
func Listen(endpoint string, o Options) (*Server, error) {
	o = o.withDefaults()
	s := &Server{o: o, refused: newRefusals(o.Log)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.normal = newPool(o.Workers, s.run)
	s.affinity = newPool(o.AffinityWorkers, s.run)
	o.Transport.Log = o.Log
	o.Transport.Gone = s.gone
	router, err := zmtp.Listen(endpoint, o.Transport)
	if err != nil {
		s.stop()
		return nil, err
	}
	s.router = router
	return s, nil
}

// Addr returns host:port of the socket.
func (s *Server) Addr() string { return s.router.Addr() }

// Serve takes requests for the service until Close, and then returns nil. It may
// be called once.
func (s *Server) Serve(service Service) error {
	if !s.serving.CompareAndSwap(false, true) {
		return zmtp.ErrClosed
	}
	s.service = service
	return s.router.Serve(s.handle)
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st := Stats{
		Requests:  map[wire.Op]uint64{},
		Answered:  s.answered.Load(),
		Refused:   map[Reason]uint64{},
		Controls:  s.controls.Load(),
		InFlight:  s.normal.depth() + s.affinity.depth(),
		Waiting:   int(s.waiting.Load()),
		Transport: s.router.Stats(),
	}
	for op := range s.requests {
		if n := s.requests[op].Load(); n > 0 {
			st.Requests[wire.Op(op)] = n
		}
	}
	for r := range s.refused.counts {
		if n := s.refused.counts[r].Load(); n > 0 {
			st.Refused[Reason(r)] = n
		}
	}
	return st
}

// Close takes no more requests, answers those that are in flight, and
// disconnects everybody. Status polls that wait are answered at once, with null.
// It returns when nothing calls the Service any more, so it takes as long as the
// longest call. Calling it again waits for the first.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		s.closing.Store(true)
		s.normal.close() // a poll that waits for its lookup begins to wait here
		s.affinity.close()
		s.waitsMu.Lock()
		s.stop()
		s.waitsMu.Unlock()
		s.waits.Wait()
		err = s.router.Close()
		s.refused.close()
	})
	return err
}

// client is a connection's state, owned by its reader.
type client struct {
	normal   backlog
	affinity backlog
	waits    chan struct{} // a token for each status poll that may wait
	req      wire.Request  // the request in hand
	result   []byte        // scratch for results of requests on the reader
	ctx      context.Context
	leave    context.CancelFunc
}

func (s *Server) client(p *zmtp.Peer) *client {
	if c, ok := p.State.(*client); ok {
		return c
	}
	c := &client{
		normal:   backlog{maxTasks: s.o.ClientRequests, maxBytes: s.o.ClientBytes, submitter: p.Flush},
		affinity: backlog{maxTasks: s.o.ClientRequests, maxBytes: s.o.ClientBytes, submitter: p.Flush, serial: true},
		waits:    make(chan struct{}, s.o.ClientWaits),
	}
	c.ctx, c.leave = context.WithCancel(s.ctx)
	p.State = c
	return c
}

// gone ends what waits for the sake of a client. Requests that it sent run all
// the same: clients do not wait for the reply to an end_session, and leave.
func (s *Server) gone(p *zmtp.Peer) {
	if c, ok := p.State.(*client); ok {
		c.leave()
	}
}
