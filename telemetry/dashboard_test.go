package telemetry_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/telemetry"
)

// failing is a subscriber that fails.
type failing struct{}

func (failing) Name() string              { return "failing" }
func (failing) Events() event.Set         { return event.SetOf(event.L1ReadFinished) }
func (failing) Handle(*event.Event) error { return errors.New("no luck") }

// whole returns an exposition that has every family that there is.
func whole(t *testing.T) string {
	t.Helper()
	tel, c := start(t, telemetry.Options{Metrics: true, RunName: "blue"})
	tel.Watch(state)
	tel.WatchProgress(func() telemetry.Progress { return telemetry.Progress{Total: 4, Done: 3, Failed: 1, Skipped: 1} })
	tel.Bus().Subscribe(failing{})
	everything(t, tel, c)
	tel.WatchServer(func() telemetry.ServerState { return telemetry.ServerState{} })
	served(t, tel, c)
	tel.Bus().Publish(&event.Event{Type: event.LookupEnd, Served: &event.Served{Model: "m", EarlyExit: "empty_chunk_hashes"}})
	tel.Bus().Publish(&event.Event{Type: event.CallDispatched, Text: "finish_write", Duration: 5, Lag: 5})
	tel.Bus().Publish(&event.Event{Type: event.TimeoutRaised, Reason: "LMCacheTimeoutError"})
	tel.Bus().Flush()
	body, _ := scrape(t, tel, "/metrics")
	return body
}

var (
	inBraces   = regexp.MustCompile(`\{[^}]*\}`)
	ofByClause = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)`)
	metricName = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*_[a-zA-Z0-9_:]*\b`)
	ours       = regexp.MustCompile(`^lmcache_(replay|storage|server|bench)_`)
	functions  = []string{"histogram_quantile", "label_values", "label_replace"}
)

// withBench returns every family that there is, those of a benchmark too.
func withBench(t *testing.T) map[string]*family {
	t.Helper()
	got := families(whole(t))
	bench, _ := start(t, telemetry.Options{Metrics: true, Command: "bench"})
	bench.WatchBench(func() telemetry.Bench { return telemetry.Bench{Started: 2, Done: 1} })
	bench.Bus().Publish(&event.Event{Type: event.CallDispatched, Text: "finish_write", Duration: 5, Lag: 5})
	bench.Bus().Flush()
	ofBench, _ := scrape(t, bench, "/metrics")
	maps.Copy(got, families(ofBench))
	return got
}

// TestDashboard holds the dashboard against the exposition: every metric that an
// expression names is there, with the labels that it names.
func TestDashboard(t *testing.T) {
	got := withBench(t)
	paths, err := filepath.Glob("../deploy/grafana/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Title, UID string
			Panels     []struct {
				ID          int
				Type, Title string
				GridPos     struct{ X, Y, W, H int }
				Targets     []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		ids, named := map[int]bool{}, map[string]bool{}
		for _, p := range board.Panels {
			if ids[p.ID] || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("panel %q: id %d is there twice, or its place %+v is none", p.Title, p.ID, p.GridPos)
			}
			ids[p.ID] = true
			if (p.Type == "row") != (len(p.Targets) == 0) {
				t.Errorf("panel %q of type %s has %d expressions", p.Title, p.Type, len(p.Targets))
			}
			for _, target := range p.Targets {
				bare := strings.NewReplacer("$__rate_interval", "1m").Replace(ofByClause.ReplaceAllString(inBraces.ReplaceAllString(target.Expr, ""), ""))
				for _, name := range metricName.FindAllString(bare, -1) {
					if slices.Contains(functions, name) {
						continue
					}
					base := name
					for _, suffix := range []string{"_bucket", "_count", "_sum"} {
						if f := got[strings.TrimSuffix(name, suffix)]; f != nil && f.kind == "histogram" {
							base = strings.TrimSuffix(name, suffix)
						}
					}
					if got[base] == nil {
						t.Errorf("panel %q asks for %s, which is not exposed", p.Title, name)
					}
					named[base] = true
				}
			}
		}
		if len(named) < 30 {
			t.Errorf("%s names %d metrics: %v", path, len(named), slices.Sorted(maps.Keys(named)))
		}
		for name := range got {
			if ours.MatchString(name) && !named[name] {
				t.Errorf("%s shows nothing of %s", path, name)
			}
		}
	}
}

// TestDocumented: docs/metrics.md names every family of ours, and no other.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	got := withBench(t)
	for name := range got {
		if strings.HasPrefix(name, "lmcache_") && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/metrics.md does not name %s", name)
		}
	}
	for _, name := range regexp.MustCompile("`(lmcache_[a-zA-Z0-9_]+)`").FindAllStringSubmatch(string(text), -1) {
		if got[name[1]] == nil {
			t.Errorf("docs/metrics.md names %s, which is not exposed", name[1])
		}
	}
}
