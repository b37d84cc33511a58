package replay

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"strconv"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/trace"
)

// recordLine is what became of one record.
type recordLine struct {
	rec       trace.Record
	lagNS     int64 // dispatch after its due time
	latencyNS int64 // of the call, until it failed if it did; 0 for a skipped record
	ok        bool
	skipped   bool
	err       error // why it was skipped or failed

	outcome *Outcome // nil if the call has none
	counts  countRange
}

// report writes the lines of the single records: to the log, with --verbose
// and as JSONL. The two writers are buffered; a write error is kept, ends the
// writing there and is returned by flush.
type report struct {
	log     *slog.Logger
	ctx     context.Context
	verbose *bufio.Writer // nil without --verbose
	jsonl   *bufio.Writer // nil without --jsonl-out
	total   int64
	n       int64  // records reported
	line    []byte // reused
}

// record reports the next record. a holds the decoded arguments, nil if there
// are none. Without a reader for its lines it costs a few ns.
//
// Source: reference lct-v1.md, section 5.4, "Per-record report".
func (r *report) record(l *recordLine, a *trace.Args) {
	r.n++
	if r.log.Enabled(r.ctx, slog.LevelInfo) {
		b := r.appendNumber(r.line[:0])
		b = append(b, ' ')
		b = append(b, l.word()...)
		b = append(b, ' ')
		b = append(b, l.rec.Qualname...)
		b = append(b, " ("...)
		b = strconv.AppendFloat(b, milliseconds(l.latencyNS), 'f', 3, 64)
		r.line = append(b, "ms)"...)
		r.log.Info(string(r.line))
	}
	if r.verbose != nil {
		b := r.appendNumber(append(r.line[:0], "  "...))
		b = append(b, "  "...)
		b = padRight(append(b, l.word()...), len(b)+4)
		b = append(b, "  "...)
		var ms [24]byte
		digits := strconv.AppendFloat(ms[:0], milliseconds(l.latencyNS), 'f', 3, 64)
		b = padRight(b, len(b)+8-len(digits))
		b = append(b, digits...)
		b = append(b, "ms  "...)
		b = append(b, l.rec.Qualname...)
		r.line = append(b, '\n')
		_, _ = r.verbose.Write(r.line)
	}
	if r.jsonl != nil {
		r.line = r.appendJSON(r.line[:0], l, a)
		_, _ = r.jsonl.Write(r.line)
	}
}

// flush writes out what is buffered, and returns the first error of a writer.
func (r *report) flush() error {
	var errs []error
	if r.verbose != nil {
		errs = append(errs, r.verbose.Flush())
	}
	if r.jsonl != nil {
		errs = append(errs, r.jsonl.Flush())
	}
	return errors.Join(errs...)
}

func (l *recordLine) word() string {
	if l.ok {
		return "OK"
	}
	return "FAIL"
}

// appendNumber appends [n/total].
func (r *report) appendNumber(b []byte) []byte {
	b = append(b, '[')
	b = strconv.AppendInt(b, r.n, 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, r.total, 10)
	return append(b, ']')
}

// appendJSON appends the JSONL object: LMCache's three keys in its order and
// float format, then ours.
func (r *report) appendJSON(b []byte, l *recordLine, a *trace.Args) []byte {
	b = append(b, `{"qualname": `...)
	b = pyfmt.AppendJSONString(b, l.rec.Qualname)
	b = append(b, `, "latency_ms": `...)
	b = pyfmt.AppendFloat(b, milliseconds(l.latencyNS))
	b = append(b, `, "failed": `...)
	b = strconv.AppendBool(b, !l.ok)
	b = append(b, `, "n": `...)
	b = strconv.AppendInt(b, r.n, 10)
	b = append(b, `, "t_mono": `...)
	b = pyfmt.AppendFloat(b, float64(l.rec.MonoNS)/1e9)
	b = append(b, `, "lag_ms": `...)
	b = pyfmt.AppendFloat(b, milliseconds(l.lagNS))
	if l.skipped {
		b = append(b, `, "skipped": true`...)
	} else {
		b = append(b, `, "keys": `...)
		b = strconv.AppendInt(b, int64(keyCount(a, l.rec.Op)), 10)
	}
	if l.err != nil {
		b = append(b, `, "error": `...)
		b = pyfmt.AppendJSONString(b, l.err.Error())
	}
	if l.outcome != nil && l.counts.end > l.counts.first {
		b = append(b, `, "outcome": {`...)
		b = l.outcome.append(b, l.counts, ", ")
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}

// padRight appends spaces until b has n bytes.
func padRight(b []byte, n int) []byte {
	for len(b) < n {
		b = append(b, ' ')
	}
	return b
}
