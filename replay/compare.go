package replay

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Comparison is one row of a comparison: a figure of every replay, as text. A
// section opens with a row that has no values.
type Comparison struct {
	Label  string
	Values []string
}

// Compare sets the figures of replays side by side: what came of the calls and
// how long they took. Hits and misses are shares of the requested keys, so
// that they can be compared between traces of different length; everything
// else wants replays of one recording, and the first row says if they are not.
func Compare(results []*Result) []Comparison {
	var rows []Comparison
	row := func(label string, value func(r *Result) string) {
		values := make([]string, len(results))
		for i, r := range results {
			values[i] = value(r)
		}
		rows = append(rows, Comparison{label, values})
	}
	section := func(title string) { rows = append(rows, Comparison{Label: title}) }
	keyShare := func(c Count) func(r *Result) string {
		return func(r *Result) string {
			return orNone(strings.TrimSuffix(share(r.Outcome[c], r.Outcome[RequestedKeys]), " "))
		}
	}
	counted := func(c Count) func(r *Result) string {
		return func(r *Result) string { return count(r.Outcome[c]) }
	}
	sized := func(c Count) func(r *Result) string {
		return func(r *Result) string { return byteSize(r.Outcome[c]) }
	}

	if slices.ContainsFunc(results, func(r *Result) bool { return !r.Trace.sameRecording(&results[0].Trace) }) {
		row("Trace (not one recording)", func(r *Result) string { return r.Trace.Path })
	}
	section("Replay")
	row("L1 capacity", func(r *Result) string { return byteSize(r.Storage.L1CapacityBytes) })
	row("Records replayed", func(r *Result) string { return count(r.Records.Replayed) })
	row("Records skipped", func(r *Result) string { return count(r.Records.Skipped) })
	row("Records failed", func(r *Result) string { return count(r.Records.Failed) })
	row("Duration (s)", func(r *Result) string { return twoDigits(r.DurationS) })
	row("Dispatch lag p99 (ms)", func(r *Result) string { return lagDigits(r.Lag.P99MS) })

	section("Prefetch")
	row("Requested keys", counted(RequestedKeys))
	row("L1 hits", keyShare(L1HitKeys))
	row("L2 hits", keyShare(L2HitKeys))
	row("Misses", keyShare(MissedKeys))
	row("L1 hit bytes", sized(L1HitBytes))
	row("L2 hit bytes", sized(L2HitBytes))
	row("Missed bytes", sized(MissedBytes))

	section("Writes and memory")
	row("Reserved keys", counted(ReservedKeys))
	row("Refused keys", counted(RefusedKeys))
	row("Out-of-memory keys", counted(OOMKeys))
	row("Evicted keys", func(r *Result) string { return count(r.Storage.EvictedKeys) })
	row("Evicted bytes", func(r *Result) string { return byteSize(r.Storage.EvictedBytes) })
	row("L2 stored bytes", func(r *Result) string { return byteSize(r.Storage.L2StoredBytes) })
	row("L2 loaded bytes", func(r *Result) string { return byteSize(r.Storage.L2LoadedBytes) })
	row("L2 evicted bytes", func(r *Result) string { return byteSize(r.Storage.L2EvictedBytes) })
	row("Refused reads (keys)", counted(ReadRefusedKeys))

	section("Latency p50 / p99 (us)")
	var names []string
	for _, r := range results {
		for _, op := range r.Ops {
			names = append(names, op.Qualname)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		row(shortName(name), func(r *Result) string {
			for _, op := range r.Ops {
				if op.Qualname == name && op.Count > 0 {
					return fmt.Sprintf("%.1f / %.1f", op.P50MS*1000, op.P99MS*1000)
				}
			}
			return notAvailable
		})
	}
	return rows
}

// notAvailable is LMCache's word for a missing value.
const notAvailable = "N/A"

func orNone(s string) string {
	if s == "" {
		return notAvailable
	}
	return s
}

// WriteComparison writes Compare's rows as a table with a column a replay,
// headed by names.
func WriteComparison(w io.Writer, names []string, results []*Result) error {
	rows := Compare(results)
	widths := make([]int, len(results)+1)
	widen := func(i int, s string) { widths[i] = max(widths[i], utf8.RuneCountInString(s)) }
	for i, name := range names {
		widen(i+1, name)
	}
	for _, r := range rows {
		if len(r.Values) > 0 {
			widen(0, "  "+r.Label)
		}
		for i, v := range r.Values {
			widen(i+1, v)
		}
	}
	var b strings.Builder
	line := func(label string, values []string) {
		b.WriteString(label)
		pad := widths[0] - utf8.RuneCountInString(label)
		for i, v := range values {
			b.WriteString(strings.Repeat(" ", max(pad, 0)+2+widths[i+1]-utf8.RuneCountInString(v)))
			b.WriteString(v)
			pad = 0
		}
		b.WriteByte('\n')
	}
	line("", names)
	for _, r := range rows {
		if len(r.Values) == 0 {
			line(r.Label, nil)
		} else {
			line("  "+r.Label, r.Values)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
