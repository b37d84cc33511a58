package replay

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const tableWidth = 64

// AppendTable appends the terminal table: LMCache's sections, then ours.
//
// Source: reference lct-v1.md, section 5.5.
func (r *Result) AppendTable(dst []byte) []byte {
	t := table(dst)
	t.title("Trace Replay Result", "=")
	t.title("Overall", "-")
	t.row("Trace level", string(r.Trace.Level))
	t.row("Records replayed", count(r.Records.Replayed))
	t.row("Records skipped", count(r.Records.Skipped))
	t.row("Records failed", count(r.Records.Failed))
	t.row("Replay duration (s)", twoDigits(r.DurationS))
	if r.DigestRow != "" {
		t.row("Config digest", r.DigestRow)
	}
	if len(r.Ops) > 0 {
		t.title("Per-Op Latency (ms)", "-")
		for _, op := range r.Ops {
			name := shortName(op.Qualname)
			t.row(name+" count", count(op.Count))
			t.row(name+" mean", twoDigits(op.MeanMS))
			t.row(name+" p50", twoDigits(op.P50MS))
			t.row(name+" p99", twoDigits(op.P99MS))
		}
		r.appendOutcome(&t)
		r.appendRecorded(&t)
		t.title("Dispatch Lag (ms)", "-")
		t.row("p50", lagDigits(r.Lag.P50MS))
		t.row("p99", lagDigits(r.Lag.P99MS))
		t.row("max", lagDigits(r.Lag.MaxMS))
	}
	t = append(t, strings.Repeat("=", tableWidth)...)
	return append(t, '\n')
}

// appendOutcome appends our section on what came of the calls.
func (r *Result) appendOutcome(t *table) {
	o, s := &r.Outcome, &r.Storage
	t.title("Outcome", "-")
	t.row("Writes reserved", amount(o[ReservedKeys], o[ReservedBytes]))
	t.row("Writes refused", keys(o[RefusedKeys]))
	t.row("Writes out of memory", amount(o[OOMKeys], o[OOMBytes]))
	t.row("Writes finished", amount(o[WrittenKeys], s.WrittenBytes))
	t.row("Writes not finished", keys(o[WriteFailedKeys]))
	t.row("Prefetch requested", amount(o[RequestedKeys], o[RequestedBytes]))
	t.row("Prefetch L1 hits", share(o[L1HitKeys], o[RequestedKeys])+amount(o[L1HitKeys], o[L1HitBytes]))
	t.row("Prefetch L2 hits", share(o[L2HitKeys], o[RequestedKeys])+amount(o[L2HitKeys], o[L2HitBytes]))
	t.row("Prefetch misses", share(o[MissedKeys], o[RequestedKeys])+amount(o[MissedKeys], o[MissedBytes]))
	if o[UnfinishedPrefetches] > 0 {
		t.row("Prefetch without result", keys(o[UnfinishedKeys]))
	}
	t.row("Reads", keys(o[ReadKeys]))
	t.row("Reads refused", keys(o[ReadRefusedKeys]))
	t.row("Releases", keys(o[ReleasedKeys]))
	t.row("Releases refused", keys(o[ReleaseFailedKeys]))
	t.row("L1 evictions", amount(s.EvictedKeys, s.EvictedBytes))
	t.row("L1 temporary freed", keys(s.TemporaryFreedKeys))
	t.row("L1 used at the end", share(s.L1UsedBytes, s.L1CapacityBytes)+amount(s.L1ResidentKeys, s.L1UsedBytes))
	t.row("L2 stored", amount(s.L2StoredKeys, s.L2StoredBytes))
	t.row("L2 loaded", amount(s.L2LoadedKeys, s.L2LoadedBytes))
	if s.L2EvictionPasses > 0 {
		t.row("L2 evictions", amount(s.L2EvictedKeys, s.L2EvictedBytes))
	}
}

// table is a text table in the making.
type table []byte

// title appends text with a space at each side, centred in a line of fill. An
// odd character more goes to the right, the line being of even width.
func (t *table) title(text, fill string) {
	free := max(tableWidth-utf8.RuneCountInString(text)-2, 0)
	*t = append(*t, strings.Repeat(fill, free/2)...)
	*t = append(*t, ' ')
	*t = append(*t, text...)
	*t = append(*t, ' ')
	*t = append(*t, strings.Repeat(fill, free-free/2)...)
	*t = append(*t, '\n')
}

// row appends label and value, at the two ends of the line, at least a space
// apart.
func (t *table) row(label, value string) {
	*t = append(*t, label...)
	*t = append(*t, ':')
	free := tableWidth - utf8.RuneCountInString(label) - 1 - utf8.RuneCountInString(value)
	*t = append(*t, strings.Repeat(" ", max(free, 1))...)
	*t = append(*t, value...)
	*t = append(*t, '\n')
}

// shortName returns the last component of a qualified name; of the two ends of
// a context the one before it, too.
func shortName(qualname string) string {
	dot := strings.LastIndexByte(qualname, '.')
	last := qualname[dot+1:]
	if dot > 0 {
		switch last {
		case "__enter__":
			return shortName(qualname[:dot]) + ".enter"
		case "__exit__":
			return shortName(qualname[:dot]) + ".exit"
		}
	}
	return last
}

// twoDigits prints v rounded to three decimals, then to two: LMCache rounds
// twice, so that 0.1349 is 0.14.
func twoDigits(v float64) string {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', 3, 64), 64)
	if err != nil {
		rounded = v // infinite
	}
	return strconv.FormatFloat(rounded, 'f', 2, 64)
}

// lagDigits prints a lag, which is microseconds when all is well.
func lagDigits(ms float64) string { return strconv.FormatFloat(ms, 'f', 3, 64) }

func count(n int64) string { return strconv.FormatInt(n, 10) }

func keys(n int64) string {
	if n == 1 {
		return "1 key"
	}
	return count(n) + " keys"
}

func amount(n, size int64) string { return keys(n) + ", " + byteSize(size) }

// share prints part of whole with a trailing space, nothing without a whole.
func share(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f%% ", 100*float64(part)/float64(whole))
}

// byteSize prints a size with a binary unit and two decimals.
func byteSize(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return count(n) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.995 && unit < len(units)-1 { // what would print as 1024.00
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.2f %ciB", v, units[unit])
}
