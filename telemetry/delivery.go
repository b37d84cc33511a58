package telemetry

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
)

// delivery passes spans on to an exporter and counts those that arrive. After a
// failure it lets what comes within a while go at once: who waits for room in the
// queue of spans would otherwise wait for a collector that is not there, once a
// batch.
type delivery struct {
	trace.SpanExporter
	arrived  atomic.Int64
	restsTil time.Time // owned by the processor, which makes one call at a time
}

// restFor is how long a collector that failed is left alone.
const restFor = 5 * time.Second

func (d *delivery) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	if time.Now().Before(d.restsTil) {
		return nil // they are counted as lost, and have been complained of
	}
	if err := d.SpanExporter.ExportSpans(ctx, spans); err != nil {
		d.restsTil = time.Now().Add(restFor)
		return err
	}
	d.arrived.Add(int64(len(spans)))
	return nil
}

// spanQueue bounds the spans that wait for export: what a replay makes in the
// time of a slow export, some 30 MB of them.
const spanQueue = 1 << 15

// processor returns what hands spans to d in batches. Publishers that wait for
// the bus (simulated time) have it wait for the queue in turn, so that no span is
// lost; else a span that finds the queue full is, and Close says how many.
func (d *delivery) processor(lossless bool) trace.TracerProviderOption {
	options := []trace.BatchSpanProcessorOption{trace.WithMaxQueueSize(spanQueue)}
	if lossless {
		options = append(options, trace.WithBlocking())
	}
	return trace.WithBatcher(d, options...)
}
