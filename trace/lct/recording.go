package lct

import (
	"fmt"
	"log/slog"

	"github.com/lmcache/lmcache-go/trace"
)

// Recording makes a trace.Recorder write upstream's format, as the releases of
// era do: for trace.Options.NewFile. What calls lose by it is told to log, once,
// when the file is closed; log may be nil.
func Recording(era Era, log *slog.Logger) func(path string, h *trace.Header) (trace.FrameWriter, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return func(path string, h *trace.Header) (trace.FrameWriter, error) {
		w, err := Create(path, h, era)
		if err != nil {
			return nil, err
		}
		return &recording{w: w, log: log}, nil
	}
}

// recording is the file of a recorder.
type recording struct {
	w      *Writer
	log    *slog.Logger
	record trace.Record
	ours   int64 // calls of operations that LMCache does not trace
	closed bool
}

// Call appends a call. Upstream numbers none. What it does not trace is left out.
func (r *recording) Call(op trace.Op, seq uint64, monoNS, wallNS int64, a *trace.Args) error {
	if op.Row().Ours {
		r.ours++
		return nil
	}
	r.record = trace.Record{Op: op, Qualname: op.String(), MonoNS: monoNS, WallNS: wallNS, Seq: seq}
	return r.w.Write(&r.record, a)
}

// Outcome does nothing: the format has no place for what came of a call.
func (r *recording) Outcome(trace.Op, uint64, int64, int64, int64, *trace.Outcome) error { return nil }

// LostOutcomes does nothing.
func (r *recording) LostOutcomes(uint64) {}

// Drops does nothing: the format has no place for it. The recorder logs the
// count when it is closed.
func (r *recording) Drops(uint64) error { return nil }

// Flush does nothing: there are no counts.
func (r *recording) Flush() {}

// Deleted reports whether the file has no name any more.
func (r *recording) Deleted() bool { return r.w.f != nil && r.w.f.Deleted() }

// Left returns how many calls the file at path still has, after Close.
func (r *recording) Left(path string) uint64 {
	if s, err := Summarize(path, nil); err == nil {
		return uint64(s.Records)
	}
	return 0
}

// Sync waits until what was written before is on the disk. It may be called
// beside other methods, from another goroutine, until Close.
func (r *recording) Sync() error { return r.w.f.Sync() }

func (r *recording) Close() error {
	if !r.closed {
		r.closed = true
		if r.ours > 0 {
			r.log.Warn(fmt.Sprintf("trace recorder: %d call(s) are left out: LMCache %s does not trace them", r.ours, r.w.era.Release()))
		}
		losses := r.w.Losses()
		losses.Each(func(records int64, phrase, name string) {
			if name != LossTime.String() { // the format's times are float64s, nobody expects else
				r.log.Warn(fmt.Sprintf("trace recorder: %d record(s) %s: not in the format of LMCache %s", records, phrase, r.w.era.Release()))
			}
		})
	}
	return r.w.Close()
}
