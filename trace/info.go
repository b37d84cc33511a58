package trace

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Widths of the label column of `trace info`: upstream's up to release 0.5.5,
// and that of later releases, which is needed for the keys of level_meta.
const (
	labelWidth     = 22
	wideLabelWidth = 28
)

// WriteText writes the summary as `trace info` prints it; path is shown as
// given. The lines are upstream's, byte for byte: those of release 0.5.6 for a
// header with level_meta, those of earlier releases otherwise. A native file has
// a block of its own behind them.
//
// Source: reference lct-v1.md, section 5.2.
func (s *Summary) WriteText(w io.Writer, path string) error {
	var b strings.Builder
	h := &s.Header
	width := labelWidth
	if len(h.LevelMeta) > 0 {
		width = wideLabelWidth
	}
	line := func(label string, value any) { fmt.Fprintf(&b, "  %-*s%v\n", width, label+":", value) }

	fmt.Fprintf(&b, "Trace file: %s\n", path)
	line("level", h.Level)
	line("format_version", h.FormatVersion)
	line("trace_schema_version", h.SchemaVersion)
	if math.IsInf(s.DurationS, 1) {
		line("duration", "infs") // as Python prints it
	} else {
		line("duration", fmt.Sprintf("%.3fs", s.DurationS))
	}
	if h.ConfigDigest == "" {
		line("sm_config_digest", "(none)")
	} else {
		line("sm_config_digest", h.ConfigDigest)
	}
	for _, m := range h.LevelMeta {
		line(m.Key, m.Value)
	}
	line("total_records", s.Records)
	if len(s.Ops) == 0 {
		b.WriteString("  ops: (none)\n")
	} else {
		b.WriteString("  ops:\n")
		writeCounts(&b, "    ", s.Ops)
	}
	if s.Events != nil {
		s.Events.writeText(&b)
	}
	if h.Native {
		s.writeRecording(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeRecording says what a native file knows of how it was recorded, and
// whether anything is missing.
func (s *Summary) writeRecording(b *strings.Builder) {
	h := &s.Header
	line := func(label, format string, args ...any) {
		fmt.Fprintf(b, "    %-*s%s\n", labelWidth-2, label+":", fmt.Sprintf(format, args...))
	}
	b.WriteString("  recording:\n")
	if h.Release != "" {
		line("converted from", "LMCache %s", h.Release)
	}
	if h.Release == "" || h.Build != "" {
		line("recorder", "%s, pid %d on %s", h.Build, h.PID, h.Host)
	}
	line("started", "%s", time.Unix(0, h.WallStartNS).UTC().Format(time.RFC3339))
	switch {
	case s.ClockDriftKnown:
		line("clock", "%s, at most %v off the system's, which was found; given up beyond %v", h.Clock, s.ClockDrift, h.ClockBound)
	case h.ClockBound > 0:
		line("clock", "%s, given up beyond %v off the system's", h.Clock, h.ClockBound)
	case h.Clock != "":
		line("clock", "%s", h.Clock)
	}
	line("bytes", "%d", s.Bytes)
	if s.Sealed {
		line("sealed", "yes")
	} else {
		line("sealed", "no (still being written, or the recorder did not end)")
	}
	line("completeness", "%s", s.Completeness())
	if s.Outcomes > 0 || s.LostOutcomes > 0 {
		line("outcomes", "%d, %d lost", s.Outcomes, s.LostOutcomes)
		for i := range s.OutcomeTotals {
			fmt.Fprintf(b, "      %s\n", s.OutcomeTotals[i].text())
		}
	}
	if s.Damage != nil {
		line("damage", "%v", s.Damage)
	}
}

// text says what the outcomes of an operation add up to.
func (t *OutcomeTotal) text() string {
	s := t.Qualname + ":"
	for _, c := range t.Counts {
		s += fmt.Sprintf(" %s %d,", c.Name, c.Keys)
	}
	if t.Failed > 0 {
		s += fmt.Sprintf(" failed calls %d,", t.Failed)
	}
	return s + fmt.Sprintf(" mean %.1f us", t.MeanNS()/1e3)
}

// MeanNS returns the mean duration of the calls in ns.
func (t *OutcomeTotal) MeanNS() float64 { return float64(t.DurationNS) / float64(max(t.Outcomes, 1)) }

// Completeness says in one line whether the recording holds every call that was
// made: "72003 records, 0 lost".
func (s *Summary) Completeness() string {
	text := fmt.Sprintf("%d records, %d lost", s.Records, max(s.Lost, s.Dropped))
	for i, d := range s.DropRanges {
		if i == 3 {
			return fmt.Sprintf("%s, and %d more places", text, len(s.DropRanges)-i)
		}
		text += fmt.Sprintf("; %d before call %d, after %.3fs", d.Count, d.NextSeq+uint64(d.Count), float64(d.MonoNS)/1e9)
	}
	return text
}

func writeCounts(b *strings.Builder, indent string, counts []OpCount) {
	for _, c := range counts {
		fmt.Fprintf(b, "%s%s: %d\n", indent, c.Qualname, c.Count)
	}
}

func (e *EventsSummary) writeText(b *strings.Builder) {
	line := func(label string, value any) { fmt.Fprintf(b, "    %-*s%v\n", wideLabelWidth, label+":", value) }

	b.WriteString("  events:\n")
	line("instances", len(e.Instances))
	for _, i := range e.Instances {
		fmt.Fprintf(b, "      %s: incarnations=[", i.ID)
		for n, v := range i.Incarnations {
			if n > 0 {
				b.WriteString(", ")
			}
			fmt.Fprint(b, v)
		}
		fmt.Fprintf(b, "] restarts=%d\n", i.Restarts())
	}
	b.WriteString("    batches (type/tier/backend/shared):\n")
	for _, k := range e.Batches {
		backend, sharing := k.Backend, "local"
		if backend == "" {
			backend = "-"
		}
		if k.Shared {
			sharing = "shared"
		}
		fmt.Fprintf(b, "      %s/%s/%s/%s: %d\n", k.Type, k.Tier, backend, sharing, k.Count)
	}
	b.WriteString("    entries:\n")
	writeCounts(b, "      ", e.Entries)
	line("store_bytes", e.StoreBytes)
	line("entries_with_tokens", e.EntriesWithTokens)
	if len(e.Lifecycle) > 0 {
		phases := make([]string, len(e.Lifecycle))
		for i, p := range e.Lifecycle {
			phases[i] = fmt.Sprintf("%s=%d", p.Qualname, p.Count)
		}
		line("lifecycle", strings.Join(phases, ", "))
	}
}

// Restarts returns how often the instance was started anew.
func (i *EventInstance) Restarts() int { return max(0, len(i.Incarnations)-1) }

// JSON returns the summary for encoding/json: stable snake_case keys, units in
// the names. The digest is empty where the file has none, the duration null
// where a record has an infinite time.
func (s *Summary) JSON() any {
	h := &s.Header
	out := summaryJSON{
		Level: h.Level, FormatVersion: h.FormatVersion, SchemaVersion: h.SchemaVersion, Native: h.Native,
		Digest: h.ConfigDigest, Records: s.Records, Ops: countMap(s.Ops),
		MonoStartNS: h.MonoStartNS, WallStartNS: h.WallStartNS,
	}
	if !math.IsInf(s.DurationS, 1) {
		out.DurationS = &s.DurationS
	}
	if len(h.LevelMeta) > 0 {
		out.LevelMeta = map[string]string{}
		for _, m := range h.LevelMeta {
			out.LevelMeta[m.Key] = m.Value
		}
	}
	if h.Native {
		j := &recordingJSON{
			Release: h.Release, Recorder: h.Build, PID: h.PID, Host: h.Host, Bytes: s.Bytes, Blocks: s.Blocks, Sealed: s.Sealed,
			Clock: h.Clock, ClockBoundNS: int64(h.ClockBound),
			Lost: max(s.Lost, s.Dropped), DropRanges: []dropRangeJSON{},
		}
		if s.ClockDriftKnown {
			j.ClockDriftNS = (*int64)(&s.ClockDrift)
		}
		for _, d := range s.DropRanges {
			j.DropRanges = append(j.DropRanges, dropRangeJSON(d))
		}
		if s.Damage != nil {
			j.Damage = s.Damage.Error()
		}
		j.Outcomes, j.LostOutcomes = s.Outcomes, s.LostOutcomes
		if len(s.OutcomeTotals) > 0 {
			j.OutcomeTotals = map[string]outcomeTotalJSON{}
			for i := range s.OutcomeTotals {
				t := &s.OutcomeTotals[i]
				counts := map[string]int64{}
				for _, c := range t.Counts {
					counts[c.Name] = c.Keys
				}
				j.OutcomeTotals[t.Qualname] = outcomeTotalJSON{t.Outcomes, t.Failed, t.MeanNS() / 1e3, counts}
			}
		}
		out.Recording = j
	}
	if e := s.Events; e != nil {
		j := &eventsJSON{
			Instances: []instanceJSON{}, Batches: []batchJSON{},
			Entries: countMap(e.Entries), StoreBytes: e.StoreBytes,
			EntriesWithTokens: e.EntriesWithTokens, Lifecycle: countMap(e.Lifecycle),
		}
		for _, i := range e.Instances {
			j.Instances = append(j.Instances, instanceJSON{i.ID, i.Incarnations, i.Restarts()})
		}
		for _, b := range e.Batches {
			j.Batches = append(j.Batches, batchJSON(b))
		}
		out.Events = j
	}
	return out
}

func countMap(counts []OpCount) map[string]int64 {
	m := make(map[string]int64, len(counts))
	for _, c := range counts {
		m[c.Qualname] = c.Count
	}
	return m
}

type summaryJSON struct {
	Level         Level             `json:"level"`
	Native        bool              `json:"native"`
	FormatVersion int               `json:"format_version"`
	SchemaVersion int               `json:"trace_schema_version"`
	DurationS     *float64          `json:"duration_s"`
	MonoStartNS   int64             `json:"t_mono_start_ns"`
	WallStartNS   int64             `json:"t_wall_start_ns"`
	Digest        string            `json:"sm_config_digest"`
	LevelMeta     map[string]string `json:"level_meta,omitempty"`
	Records       int64             `json:"total_records"`
	Ops           map[string]int64  `json:"ops"`
	Events        *eventsJSON       `json:"events,omitempty"`
	Recording     *recordingJSON    `json:"recording,omitempty"`
}

// recordingJSON is what only a native file knows.
type recordingJSON struct {
	Release       string                      `json:"converted_from,omitempty"` // release of LMCache
	Recorder      string                      `json:"recorder"`
	PID           int                         `json:"pid"`
	Host          string                      `json:"host"`
	Clock         string                      `json:"clock,omitempty"`
	ClockBoundNS  int64                       `json:"clock_bound_ns,omitempty"`
	ClockDriftNS  *int64                      `json:"clock_drift_ns,omitempty"` // largest that was found
	Bytes         int64                       `json:"size_bytes"`
	Blocks        int64                       `json:"blocks"`
	Sealed        bool                        `json:"sealed"`
	Lost          int64                       `json:"lost_records"`
	DropRanges    []dropRangeJSON             `json:"drop_ranges"`
	Damage        string                      `json:"damage,omitempty"`
	Outcomes      int64                       `json:"outcomes"`
	LostOutcomes  int64                       `json:"lost_outcomes"`
	OutcomeTotals map[string]outcomeTotalJSON `json:"outcome_totals,omitempty"` // by operation
}

type outcomeTotalJSON struct {
	Outcomes int64            `json:"outcomes"`
	Failed   int64            `json:"failed_calls"`
	MeanUS   float64          `json:"mean_us"`
	Counts   map[string]int64 `json:"counts"`
}

type dropRangeJSON struct {
	NextSeq uint64 `json:"after_calls"`
	Count   int64  `json:"lost_records"`
	MonoNS  int64  `json:"t_mono_ns"`
}

type eventsJSON struct {
	Instances         []instanceJSON   `json:"instances"`
	Batches           []batchJSON      `json:"batches"`
	Entries           map[string]int64 `json:"entries"`
	StoreBytes        int64            `json:"store_bytes"`
	EntriesWithTokens int64            `json:"entries_with_tokens"`
	Lifecycle         map[string]int64 `json:"lifecycle"`
}

type instanceJSON struct {
	ID           string  `json:"instance_id"`
	Incarnations []int64 `json:"incarnations"`
	Restarts     int     `json:"restarts"`
}

type batchJSON struct {
	Type    string `json:"event_type"`
	Tier    string `json:"tier"`
	Backend string `json:"backend"`
	Shared  bool   `json:"shared"`
	Count   int64  `json:"batches"`
}
