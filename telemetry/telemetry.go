package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
)

// Options configures Start.
type Options struct {
	Clock    clock.Clock  // required; stamps events
	Log      *slog.Logger // required; the trail of events goes there at DEBUG
	Lossless bool         // publishers wait for room in the queue: simulated time

	QueueSize int  // bound of the event bus
	Disabled  bool // no bus, hence nothing else
	Metrics   bool
	Logging   bool // the trail of events
	Spans     bool // needs Endpoint

	SampleRate float64 // share of chunks that the lifecycle histograms follow, in (0, 1]
	Host       string  // address that the Prometheus endpoint binds
	Port       int     // 0 is any free one; negative is no endpoint of its own
	// Listener is the endpoint's, bound beforehand with Listen; then Host and
	// Port do not matter. Start takes it over.
	Listener net.Listener
	Endpoint string // OTLP collector over gRPC, URL or host:port; replaces the Prometheus endpoint
	Dump     string // file that WriteDump writes; empty for none
	Handler  bool   // Handler will be asked for: it shows the metrics also when there is a collector

	// Command is replay or bench: the families of its calls are called
	// lmcache_replay_… and lmcache_bench_…; replay if empty.
	Command    string
	Service    string // service.name, unless OTEL_SERVICE_NAME says otherwise
	InstanceID string // service.instance.id
	RunName    string // lmcache.run.name; empty leaves it out

	Patience time.Duration // of Close with a collector that does not answer; 5 s if zero
}

// Telemetry is a running event bus with its subscribers. A nil *Telemetry is
// one that is off. The caller must Close it after what publishes.
type Telemetry struct {
	opt      Options
	bus      *event.Bus
	registry *prometheus.Registry
	meters   *metric.MeterProvider
	spans    *trace.TracerProvider
	made     *spans    // what makes them
	delivery *delivery // where they go
	server   *http.Server
	listener net.Listener
	served   chan error
	state    atomic.Pointer[func() State]
	progress atomic.Pointer[func() Progress]
	bench    atomic.Pointer[func() Bench]

	serverState atomic.Pointer[func() ServerState]
}

// shutdownTimeout bounds the last export to a collector that does not answer.
const shutdownTimeout = 5 * time.Second

// Start binds the endpoint, then starts the bus. An error that concerns the
// endpoint names its address.
func Start(opt Options) (_ *Telemetry, err error) {
	if opt.Disabled {
		return nil, nil
	}
	t := &Telemetry{opt: opt}
	res, err := opt.resource()
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { opt.Log.Warn("telemetry: " + err.Error()) }))
	if opt.Metrics {
		if err := t.startMetrics(res); err != nil {
			return nil, err
		}
	}
	if opt.Spans {
		exporter, err := otlptracegrpc.New(context.Background(), traceEndpoint(opt.Endpoint)...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("OTLP endpoint %s: %w", opt.Endpoint, err), t.Close())
		}
		t.delivery = &delivery{SpanExporter: exporter}
		t.spans = trace.NewTracerProvider(t.delivery.processor(opt.Lossless), trace.WithResource(res), trace.WithIDGenerator(idGenerator{}))
		opt.Log.Info(fmt.Sprintf("OTel TracerProvider initialised with OTLP exporter (%s), resource=%s", opt.Endpoint, describe(res)))
	}
	t.bus = event.New(event.Options{Clock: opt.Clock, Log: opt.Log, QueueSize: opt.QueueSize, Lossless: opt.Lossless})
	if t.meters != nil {
		subscribers, err := t.instruments()
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		for _, s := range subscribers {
			t.bus.Subscribe(s)
		}
	}
	if opt.Logging && opt.Log.Enabled(context.Background(), slog.LevelDebug) {
		t.bus.Subscribe(&trail{opt.Log})
	}
	if t.spans != nil {
		t.made = newSpans(t.spans)
		t.bus.Subscribe(t.made)
	}
	return t, nil
}

// resource says who measures.
func (opt *Options) resource() (*resource.Resource, error) {
	own := []attribute.KeyValue{attribute.String("service.instance.id", opt.InstanceID)}
	if os.Getenv("OTEL_SERVICE_NAME") == "" && !strings.Contains(os.Getenv("OTEL_RESOURCE_ATTRIBUTES"), "service.name=") {
		own = append(own, attribute.String("service.name", opt.Service))
	}
	if opt.RunName != "" {
		own = append(own, attribute.String("lmcache.run.name", opt.RunName))
	}
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(own...))
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return res, nil
}

func describe(res *resource.Resource) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, a := range res.Attributes() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "'%s': '%s'", a.Key, a.Value.String())
	}
	b.WriteByte('}')
	return b.String()
}

// startMetrics binds the endpoint or connects to the collector. A dial to the
// collector happens in the background: one that is down fails no run.
func (t *Telemetry) startMetrics(res *resource.Resource) (err error) {
	options := []metric.Option{metric.WithResource(res), metric.WithCardinalityLimit(cardinality)}
	for _, v := range views() {
		options = append(options, metric.WithView(v))
	}
	if t.opt.Endpoint == "" || t.opt.Dump != "" || t.opt.Handler {
		t.registry = newRegistry()
		reader, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithoutScopeInfo())
		if err != nil {
			return fmt.Errorf("metrics exporter: %w", err)
		}
		options = append(options, metric.WithReader(reader))
	}
	switch {
	case t.opt.Endpoint != "":
		exporter, err := otlpmetricgrpc.New(context.Background(), metricEndpoint(t.opt.Endpoint)...)
		if err != nil {
			return fmt.Errorf("OTLP endpoint %s: %w", t.opt.Endpoint, err)
		}
		options = append(options, metric.WithReader(metric.NewPeriodicReader(exporter, metric.WithInterval(exportEvery))))
		t.opt.Log.Info(fmt.Sprintf("OTel MeterProvider initialised with OTLP exporter (%s), resource=%s", t.opt.Endpoint, describe(res)))
	case t.opt.Port >= 0 || t.opt.Listener != nil:
		if err := t.serve(); err != nil {
			return err
		}
		t.opt.Log.Info(fmt.Sprintf("OTel MeterProvider initialised with Prometheus fallback (http://%s/metrics), resource=%s", t.listener.Addr(), describe(res)))
	}
	t.meters = metric.NewMeterProvider(options...)
	return nil
}

const (
	exportEvery = 10 * time.Second // LMCache's
	cardinality = 10000            // label sets an instrument: tenants × models
)

// hostOf splits an endpoint as LMCache's exporter does: only host and port of a
// URL count, and https alone asks for TLS.
func hostOf(endpoint string) (host string, tls bool) {
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" && strings.Contains(endpoint, "://") {
		return u.Host, u.Scheme == "https"
	}
	return endpoint, false
}

// A call to the collector is given up before the last flush is, so that Close
// leaves nothing behind.
const (
	exportTimeout = 2 * time.Second
	retryFor      = 3 * time.Second
	retryFirst    = 200 * time.Millisecond
)

func metricEndpoint(endpoint string) []otlpmetricgrpc.Option {
	host, tls := hostOf(endpoint)
	list := []otlpmetricgrpc.Option{otlpmetricgrpc.WithEndpoint(host), otlpmetricgrpc.WithTimeout(exportTimeout),
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: true, InitialInterval: retryFirst, MaxInterval: time.Second, MaxElapsedTime: retryFor})}
	if !tls {
		list = append(list, otlpmetricgrpc.WithInsecure())
	}
	return list
}

func traceEndpoint(endpoint string) []otlptracegrpc.Option {
	host, tls := hostOf(endpoint)
	list := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(host), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: retryFirst, MaxInterval: time.Second, MaxElapsedTime: retryFor})}
	if !tls {
		list = append(list, otlptracegrpc.WithInsecure())
	}
	return list
}

// Bus returns what to publish to; nil if t is off.
func (t *Telemetry) Bus() *event.Bus {
	if t == nil {
		return nil
	}
	return t.bus
}

// Addr returns the address of the Prometheus endpoint, nil if there is none.
func (t *Telemetry) Addr() net.Addr {
	if t == nil || t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// WriteDump writes what /metrics would show to the file of Options.Dump, after
// all events that were published before have been handled. It does nothing if
// there is no such file.
func (t *Telemetry) WriteDump() (err error) {
	if t == nil || t.opt.Dump == "" || t.registry == nil {
		return nil
	}
	t.bus.Flush()
	families, err := t.registry.Gather()
	if err != nil {
		return fmt.Errorf("metrics dump: %w", err)
	}
	f, err := os.Create(t.opt.Dump)
	if err != nil {
		return fmt.Errorf("metrics dump: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	enc := expfmt.NewEncoder(f, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if err := enc.Encode(family); err != nil {
			return fmt.Errorf("metrics dump: %w", err)
		}
	}
	if c, ok := enc.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Close handles the events that are queued, exports what is due, and ends the
// endpoint. It takes Options.Patience at most beyond the subscribers' time.
func (t *Telemetry) Close() error {
	if t == nil {
		return nil
	}
	errs := []error{t.bus.Close()}
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(t.opt.Patience, shutdownTimeout))
	defer cancel()
	if t.spans != nil {
		if err := t.spans.Shutdown(ctx); err != nil {
			t.opt.Log.Warn(fmt.Sprintf("telemetry: spans were not exported to %s: %v", t.opt.Endpoint, err))
		}
		if made, arrived := t.made.ended.Load(), t.delivery.arrived.Load(); arrived < made {
			t.opt.Log.Warn(fmt.Sprintf("telemetry: %d of %d spans did not arrive at %s", made-arrived, made, t.opt.Endpoint))
		}
		t.spans = nil
	}
	if t.meters != nil {
		if err := t.meters.Shutdown(ctx); err != nil {
			t.opt.Log.Warn(fmt.Sprintf("telemetry: metrics were not exported to %s: %v", t.opt.Endpoint, err))
		}
		t.meters = nil
	}
	if t.server != nil {
		errs = append(errs, t.server.Close())
		if err := <-t.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
		t.server = nil
	}
	return errors.Join(errs...)
}
