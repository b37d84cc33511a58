package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

var (
	// ErrInterrupted is returned when the context ended before the trace did.
	// The summaries were written, over the records up to there.
	ErrInterrupted = errors.New("replay interrupted")
	// ErrLevel is wrapped by the refusal of a trace that holds no storage calls.
	ErrLevel = errors.New("not a storage trace")
)

// Options says what Run replays, against what, and what it writes.
type Options struct {
	Source  trace.Source // required; read to its end, not closed
	Path    string       // of the trace, as the user gave it
	Total   int64        // records in it; the N of [n/N]
	Manager Manager      // required; not closed

	// Clock paces the records; the machine's if nil. On a virtual clock what
	// becomes due between two records runs there, too.
	Clock clock.Clock
	// LatencyNS is the monotonic clock, in ns, that times the calls; the
	// machine's if nil, also on a virtual Clock, where calls take no time.
	LatencyNS func() int64
	// DrainTimeout is how long to wait, after the last record, for the results
	// of prefetches; 5 s if zero, no wait if negative.
	DrainTimeout time.Duration

	Bus      *event.Bus // gets every call as an event; nil for none
	Progress *Progress  // kept current if not nil

	Log       *slog.Logger // discarded if nil
	RecordLog *slog.Logger // gets the line a record of the log; Log if nil
	Verbose   io.Writer    // gets a line a record if not nil
	JSONL     io.Writer    // gets a JSON object a record if not nil

	Table     io.Writer // gets the table; nil for none (--quiet)
	OutputDir string    // of the files; the working directory if empty. It must exist, see PrepareOutput
	CSV       bool      // write CSVName
	JSON      bool      // write JSONName and ResultName

	// DigestRow is the value of the table's row "Config digest": match (…) or
	// MISMATCH (…); no row if empty. Differences has a line for every setting
	// that differs from the recording's; they go to the result file and to Log.
	DigestRow   string
	Differences []string
	ConfigJSON  string // of the replay's storage manager
	// ConfigDigest is the digest of ConfigJSON.
	ConfigDigest string
}

const (
	defaultDrainTimeout = 5 * time.Second
	// pollsPerRecord bounds the results asked for between two records. More
	// than one a record, or the list of those that wait could only grow.
	pollsPerRecord = 4
	// flushGapNS is the idle time before a record from which on the lines of
	// earlier ones are written out before it. A busy replay writes full
	// buffers instead.
	flushGapNS  = int64(2 * time.Millisecond)
	bufferBytes = 64 << 10
)

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.LatencyNS == nil {
		o.LatencyNS = clock.Real{}.Now
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = defaultDrainTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.RecordLog == nil {
		o.RecordLog = o.Log
	}
	return o
}

// CheckLevel returns an error that wraps ErrLevel if the trace holds no storage
// calls. Run checks it, too; a command can do so before it builds a storage
// manager.
//
// Source: reference lct-v1.md, section 5.4.
func CheckLevel(path string, h *trace.Header) error {
	if h.Level == trace.LevelStorage {
		return nil
	}
	return &levelError{path, h.Level}
}

type levelError struct {
	path  string
	level trace.Level
}

func (e *levelError) Error() string {
	s := fmt.Sprintf("trace %s is level %s; StorageReplayDriver replays 'storage' traces only.",
		pyfmt.Repr(e.path), pyfmt.Repr(string(e.level)))
	if e.level == trace.LevelEvents {
		s += " An 'events' trace holds the cache-event stream for a coordinator."
	}
	return s
}

func (e *levelError) Unwrap() error { return ErrLevel }

// driver is a running replay. It belongs to one goroutine.
type driver struct {
	Options
	ctx     context.Context
	log     *slog.Logger
	manager Manager
	report  report

	// The present record.
	args    trace.Args
	results results
	outcome Outcome // the counts of its operation; others are stale

	reads    readQueue
	pending  pendingPrefetches
	recorded recordedOutcomes

	ops     []opStats // by Op
	lag     distribution
	total   Outcome
	records Records
}

// opStats are the figures of one operation.
type opStats struct {
	latency distribution // of the calls that returned no error
	errors  int64
	counts  countRange
}

// Run replays the trace and writes the summaries. The result is nil only when
// no record was dispatched because the trace is of the wrong level. Other
// errors come with the result so far: ErrInterrupted, what ended the reading
// of the trace too early, an output that could not be written. Calls that
// failed are no error of Run; Result.Records counts them.
func Run(ctx context.Context, opt Options) (*Result, error) {
	opt = opt.withDefaults()
	if err := CheckLevel(opt.Path, opt.Source.Header()); err != nil {
		return nil, err
	}
	d := &driver{Options: opt, ctx: ctx, log: opt.Log, manager: opt.Manager, ops: make([]opStats, len(handlers))}
	for op := range d.ops {
		d.ops[op].counts = countsOf(trace.Op(op))
	}
	d.report = report{log: opt.RecordLog, ctx: ctx, total: opt.Total}
	if opt.Verbose != nil {
		d.report.verbose = bufio.NewWriterSize(opt.Verbose, bufferBytes)
	}
	if opt.JSONL != nil {
		d.report.jsonl = bufio.NewWriterSize(opt.JSONL, bufferBytes)
	}
	for _, line := range opt.Differences {
		d.log.Info("trace replay: configuration differs: " + line) // often what the user intended
	}

	// The sleeps between records are precise on a thread that waits for
	// nothing else.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	d.recorded.collect(d.Source)
	before := d.manager.Stats()
	start := d.Clock.Now()
	err := d.replay(start)
	d.leaveReads()
	duration := d.Clock.Now() - start
	if err == nil {
		err = d.drain()
	}
	res := d.result(before, duration)
	res.Interrupted = errors.Is(err, ErrInterrupted)
	if werr := d.report.flush(); werr != nil {
		err = errors.Join(err, werr)
	}
	return res, errors.Join(err, d.writeSummaries(res))
}

// replay goes through the records. start is the time of t_mono 0.
func (d *driver) replay(start int64) error {
	for d.Source.Next() {
		rec := d.Source.Record()
		h := handlerOf(rec.Op)
		var argsErr error
		if h != nil {
			// Before the record is due: decoding then costs no lag.
			if argsErr = d.Source.Args(&d.args); argsErr == nil && h.prepare != nil {
				h.prepare(d)
			}
		}
		d.pending.poll(d.manager, pollsPerRecord, &d.total)

		due := addClamped(start, rec.MonoNS)
		now := d.Clock.Now()
		if due-now >= flushGapNS {
			_ = d.report.flush() // kept and returned by the last flush
		}
		// Also when it is late: that runs what is due on a virtual clock, and
		// sees an interruption.
		if d.Clock.SleepUntil(d.ctx, max(due, now)) != nil {
			return ErrInterrupted
		}
		now = d.Clock.Now()
		line := recordLine{rec: rec, lagNS: max(now-due, 0)}
		d.lag.add(line.lagNS)
		switch {
		case h == nil:
			d.skip(&line, nil)
		case argsErr != nil:
			d.skip(&line, argsErr)
		default:
			d.dispatch(h, &line)
		}
		d.Progress.show(&d.records, line.lagNS)
	}
	if err := d.Source.Err(); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// dispatch makes the call of the present record and accounts for it.
func (d *driver) dispatch(h *handler, line *recordLine) {
	op := line.rec.Op
	st := &d.ops[op]

	begin := d.LatencyNS()
	err := h.call(d)
	line.latencyNS = max(d.LatencyNS()-begin, 0)

	if err != nil {
		st.errors++
		d.records.Failed++
		line.err = err
		d.log.Warn(fmt.Sprintf("trace replay: handler for %s raised", line.rec.Qualname), slog.Any("error", err))
	} else {
		st.latency.add(line.latencyNS)
		d.records.Replayed++
		line.ok = true
		if h.account != nil {
			clear(d.outcome[st.counts.first:st.counts.end])
			h.account(d, &d.outcome)
			for c := st.counts.first; c < st.counts.end; c++ {
				d.total[c] += d.outcome[c]
			}
			line.counts, line.outcome = st.counts, &d.outcome
		}
	}
	d.report.record(line, &d.args)
	if d.Bus.Wants(event.CallDispatched) {
		d.publish(line)
	}
}

// publish tells the bus of the present record's call.
func (d *driver) publish(line *recordLine) {
	e := event.Event{
		Type: event.CallDispatched, Text: shortName(line.rec.Qualname), Keys: d.args.Keys,
		Duration: line.latencyNS, Lag: line.lagNS,
	}
	if line.rec.Op == trace.OpSubmitPrefetchTask {
		e.Session, e.RequestID = d.args.Text, d.results.handle.ID
		if len(d.args.Spec.Groups) > 0 {
			e.Keys = d.args.Spec.Groups[0].Keys
		}
	}
	if line.err != nil {
		e.Lost, e.Reason = 1, line.err.Error()
	}
	d.Bus.Publish(&e)
}

// skip accounts for a record that cannot be called: its operation has no
// handler (argsErr nil), or its arguments do not decode.
func (d *driver) skip(line *recordLine, argsErr error) {
	d.records.Skipped++
	line.skipped = true
	if argsErr != nil {
		d.log.Warn(fmt.Sprintf("trace replay: failed to decode args for %s; skipping", line.rec.Qualname), slog.Any("error", argsErr))
		line.err = argsErr
	} else {
		d.log.Warn(fmt.Sprintf("trace replay: no handler for qualname %s; skipping", pyfmt.Repr(line.rec.Qualname)))
		line.err = errNoHandler
	}
	d.report.record(line, nil)
}

var errNoHandler = errors.New("no handler")

// leaveReads leaves the reads that the trace left open, or an interruption.
func (d *driver) leaveReads() {
	if d.results.leaving != nil {
		d.results.leaving.Exit(nil)
	}
	d.reads.drain(func(_ []kv.ObjectKey, r Read) { r.Exit(nil) })
}

// drain waits for the results of prefetches. Interrupting it interrupts the
// replay: the counts are not complete then.
func (d *driver) drain() error {
	const interval = int64(time.Millisecond)
	deadline := d.Clock.Now() + int64(d.DrainTimeout)
	for {
		d.pending.poll(d.manager, len(d.pending.list), &d.total)
		now := d.Clock.Now()
		if len(d.pending.list) == 0 || now >= deadline {
			return nil
		}
		if d.Clock.SleepUntil(d.ctx, min(now+interval, deadline)) != nil {
			return ErrInterrupted
		}
	}
}

// addClamped returns a+b, or the largest time if that overflows.
func addClamped(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func (d *driver) result(before sm.Stats, durationNS int64) *Result {
	header := d.Source.Header()
	d.records.Total = d.Total
	res := &Result{
		ResultVersion: ResultVersion,
		Trace: TraceIdentity{
			Path: d.Path, Native: header.Native, Level: header.Level,
			ConfigDigest: header.ConfigDigest, WallStartNS: header.WallStartNS, MonoStartNS: header.MonoStartNS,
		},
		ConfigDigest: d.ConfigDigest, DigestRow: d.DigestRow, Differences: d.Differences,
		Records: d.records, DurationS: float64(durationNS) / 1e9,
		Outcome: d.total, Storage: storageBetween(before, d.manager.Stats()), Lag: d.lag.summary(),
	}
	if json.Valid([]byte(d.ConfigJSON)) {
		res.Config = json.RawMessage(d.ConfigJSON)
	}
	res.Recorded = d.recorded.compare(&d.total)
	for _, row := range trace.Schema() {
		st := &d.ops[row.Op]
		if st.latency.count == 0 && st.errors == 0 {
			continue
		}
		res.Ops = append(res.Ops, OpResult{
			Qualname: row.Qualname, Latency: st.latency.summary(), Errors: st.errors, Outcome: d.total.of(st.counts),
		})
	}
	slices.SortFunc(res.Ops, func(a, b OpResult) int { return strings.Compare(a.Qualname, b.Qualname) })
	return res
}
