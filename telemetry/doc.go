// Package telemetry makes metrics, spans and log lines of the events of a
// storage manager, as release 0.5.6 of LMCache does, and adds what an operator
// of a replay misses there. Metrics and spans go through the OpenTelemetry SDK,
// either to a Prometheus endpoint or to an OTLP collector.
//
// Source: reference observability.md.
package telemetry
