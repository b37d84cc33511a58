package trace_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
)

// TestInfoText has what the recorded files do not show; those are compared in
// package lct.
func TestInfoText(t *testing.T) {
	s := trace.Summary{
		Header:    trace.Header{FormatVersion: 1, SchemaVersion: 2, Level: trace.LevelEvents, LevelMeta: []trace.LevelMeta{{Key: "a", Value: "1"}}},
		Records:   2,
		DurationS: math.Inf(1),
		Ops:       []trace.OpCount{{Qualname: "events.batch", Count: 2}},
		Events: &trace.EventsSummary{
			Instances: []trace.EventInstance{{ID: "?"}, {ID: "n", Incarnations: []int64{3, 17}}},
			Batches:   []trace.EventBatches{{Type: "store", Tier: "l2", Shared: true, Count: 2}},
		},
	}
	const want = `Trace file: some where.lct
  level:                      events
  format_version:             1
  trace_schema_version:       2
  duration:                   infs
  sm_config_digest:           (none)
  a:                          1
  total_records:              2
  ops:
    events.batch: 2
  events:
    instances:                  2
      ?: incarnations=[] restarts=0
      n: incarnations=[3, 17] restarts=1
    batches (type/tier/backend/shared):
      store/l2/-/shared: 2
    entries:
    store_bytes:                0
    entries_with_tokens:        0
`
	var b strings.Builder
	if err := s.WriteText(&b, "some where.lct"); err != nil || b.String() != want {
		t.Errorf("got\n%s, %v\nwant\n%s", b.String(), err, want)
	}
	if j, err := json.Marshal(s.JSON()); err != nil || !strings.Contains(string(j), `"duration_s":null`) {
		t.Errorf("JSON: got %s, %v; want a duration of null", j, err)
	}
}
