package telemetry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// ErrEndpoint is wrapped by the error of Start when the Prometheus endpoint
// cannot be bound.
var ErrEndpoint = errors.New("metrics endpoint")

// Listen binds a Prometheus endpoint, so that a command can tell that it cannot
// before it does anything. Nobody is answered before Start.
func Listen(host string, port int) (net.Listener, error) {
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrEndpoint, addr, bindReason(err))
	}
	return l, nil
}

// bindReason is what went wrong, without the address, which net says twice.
func bindReason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// serve binds the Prometheus endpoint and answers on it until Close.
func (t *Telemetry) serve() (err error) {
	if t.listener = t.opt.Listener; t.listener == nil {
		if t.listener, err = Listen(t.opt.Host, t.opt.Port); err != nil {
			return err
		}
	}
	t.server = &http.Server{Handler: t.Handler(), ReadHeaderTimeout: 10 * time.Second}
	t.served = make(chan error, 1)
	go func() { t.served <- t.server.Serve(t.listener) }()
	return nil
}

// Handler answers a scrape at any path, as LMCache's endpoint does: OpenMetrics
// if asked for, compressed if accepted, with the parameter name[] only the
// families that it names. Without metrics there are those of the runtime.
func (t *Telemetry) Handler() http.Handler {
	registry := t.shown()
	answer := func(g prometheus.Gatherer) http.Handler {
		return promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true})
	}
	all := answer(registry)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodOptions:
			w.Header().Set("Allow", "OPTIONS,GET")
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", "OPTIONS,GET")
			w.WriteHeader(http.StatusMethodNotAllowed)
		case r.URL.Path == "/favicon.ico":
		case r.URL.Query().Has("name[]"):
			answer(named{registry, r.URL.Query()["name[]"]}).ServeHTTP(w, r)
		default:
			all.ServeHTTP(w, r)
		}
	})
}

// shown returns what a scrape shows: as LMCache's server does when it pushes its
// metrics or has none, the runtime's own families.
func (t *Telemetry) shown() *prometheus.Registry {
	if t != nil && t.registry != nil {
		return t.registry
	}
	return newRegistry()
}

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// named gathers the families that have samples of certain names.
type named struct {
	prometheus.Gatherer
	names []string
}

func (n named) Gather() ([]*dto.MetricFamily, error) {
	families, err := n.Gatherer.Gather()
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
		for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
			if slices.Contains(n.names, f.GetName()+suffix) {
				return false
			}
		}
		return true
	}), err
}
