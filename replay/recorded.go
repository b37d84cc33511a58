package replay

import (
	"maps"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/trace"
)

// Recorded says what came of an operation's calls when they were recorded, and
// in the replay.
type Recorded struct {
	Qualname string  `json:"qualname"`
	Outcomes int64   `json:"outcomes"` // calls whose outcome was recorded
	Failed   int64   `json:"failed_calls"`
	MeanUS   float64 `json:"mean_us"` // from entry to end; for a prefetch until its result was there
	// Counts has the recorded counts, Replayed those of them that a replay
	// has as well. They are comparable where Outcomes is the operation's
	// number of calls.
	Counts   map[string]int64 `json:"counts"`
	Replayed map[string]int64 `json:"replayed_counts,omitempty"`
}

// recordedOutcomes adds up the outcomes that the source passes.
type recordedOutcomes struct {
	totals map[string]*trace.OutcomeTotal // by qualified name
}

// collect makes src, if it has outcomes, hand them to r.
func (r *recordedOutcomes) collect(src trace.Source) {
	s, ok := src.(trace.OutcomeSource)
	if !ok {
		return
	}
	r.totals = map[string]*trace.OutcomeTotal{}
	s.OnOutcome(func(o *trace.OutcomeRecord) {
		t := r.totals[o.Qualname]
		if t == nil {
			t = &trace.OutcomeTotal{Qualname: o.Qualname}
			r.totals[o.Qualname] = t
		}
		t.Add(o)
	})
}

// compare sets the totals beside those of the replay, sorted by name.
func (r *recordedOutcomes) compare(replayed *Outcome) []Recorded {
	var list []Recorded
	for _, name := range slices.Sorted(maps.Keys(r.totals)) {
		t := r.totals[name]
		rec := Recorded{
			Qualname: name, Outcomes: t.Outcomes, Failed: t.Failed, MeanUS: t.MeanNS() / 1e3,
			Counts: map[string]int64{},
		}
		now := replayed.of(countsOf(trace.ParseOp(name)))
		for _, c := range t.Counts {
			rec.Counts[c.Name] = c.Keys
			if n, ok := now[c.Name]; ok {
				if rec.Replayed == nil {
					rec.Replayed = map[string]int64{}
				}
				rec.Replayed[c.Name] = n
			}
		}
		list = append(list, rec)
	}
	return list
}

// appendRecorded appends the section that compares the recording with the
// replay, if the trace has outcomes. Rows are in the order of the replay's
// counts.
func (r *Result) appendRecorded(t *table) {
	if len(r.Recorded) == 0 {
		return
	}
	t.title("Recorded Outcome (keys)", "-")
	for c := range numCounts {
		i := slices.IndexFunc(r.Recorded, func(rec Recorded) bool { return rec.Qualname == countTable[c].op.String() })
		if i < 0 {
			continue
		}
		was, ok := r.Recorded[i].Counts[c.String()]
		if !ok {
			continue
		}
		label := shortName(r.Recorded[i].Qualname) + " " + strings.ReplaceAll(strings.TrimSuffix(c.String(), "_keys"), "_", " ")
		t.row(label, "then "+count(was)+", now "+count(r.Outcome[c]))
	}
}
