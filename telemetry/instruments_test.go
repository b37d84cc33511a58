package telemetry_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/lmcache/lmcache-go/telemetry"
)

// TestInstruments compares what a collector gets with the instruments of release
// 0.5.6: scope, name, kind, unit and buckets of each that was seen there.
func TestInstruments(t *testing.T) {
	table, err := os.ReadFile("testdata/instruments-0.5.6.tsv")
	if err != nil {
		t.Fatal(err)
	}
	c, address := startCollector(t)
	tel, clk := start(t, telemetry.Options{Metrics: true, Endpoint: address})
	tel.Watch(state)
	tel.WatchServer(func() telemetry.ServerState { return telemetry.ServerState{} })
	everything(t, tel, clk)
	served(t, tel, clk)
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	defaults := []float64{0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000}
	n := 0
	for line := range strings.Lines(string(table)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		scope, name, kind, unit, buckets := f[0], f[1], f[2], strings.Trim(f[3], "-"), f[6]
		if seen := f[7]; seen == "-" || seen == "observed_in" {
			continue
		}
		n++
		got := c.byScope[scope][name]
		if got == nil {
			t.Errorf("%s of %s did not arrive", name, scope)
			continue
		}
		if got.Unit != unit {
			t.Errorf("%s has the unit %q, want %q", name, got.Unit, unit)
		}
		switch data := got.Data.(type) {
		case *metricspb.Metric_Sum:
			if !strings.HasPrefix(kind, "counter") || !data.Sum.IsMonotonic || data.Sum.AggregationTemporality != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
				t.Errorf("%s is a sum, want a %s: %v", name, kind, data)
			}
		case *metricspb.Metric_Gauge:
			if !strings.HasPrefix(kind, "gauge") {
				t.Errorf("%s is a gauge, want a %s", name, kind)
			}
		case *metricspb.Metric_Histogram:
			want := defaults
			if buckets != "default" {
				want = nil
				for text := range strings.SplitSeq(buckets, ",") {
					bound, err := strconv.ParseFloat(text, 64)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					want = append(want, bound)
				}
			}
			for _, bound := range want {
				if !slices.Contains(data.Histogram.DataPoints[0].ExplicitBounds, bound) {
					t.Errorf("%s has no bound at %v", name, bound)
				}
			}
			if kind != "histogram" {
				t.Errorf("%s is a histogram, want a %s", name, kind)
			}
		default:
			t.Errorf("%s is a %T", name, data)
		}
	}
	if n < 50 {
		t.Errorf("only %d instruments in the table", n)
	}
}
