package tracefile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

// ConvertOptions say what to make of a trace.
type ConvertOptions struct {
	// Release names the release of LMCache whose shapes are written; native if
	// empty.
	Release string
	Force   bool         // replace what is at the destination
	Warn    func(string) // told what is wrong with the source and ends nothing; may be nil
}

// Conversion says what became of a trace.
type Conversion struct {
	From, To string // "native", or "lmcache" and a release
	Records  int64  // in the destination
	Failed   int64  // of the source, and not in the destination
	Bytes    int64  // of the destination

	Failures []Failure // by operation, in the order of the first of each
	Losses   []Lost    // what records in the destination do not have any more, and those left out for what they are
	Notes    []string  // what the destination does not say of the recording as a whole
}

// Failure says why records of one operation could not be converted.
type Failure struct {
	Qualname string
	Records  int64
	First    error // of the first of them
}

// Lost says what records lost, in words that follow their number ("lose their
// cache salt"), and by name.
type Lost struct {
	Records int64
	What    string
	Name    string
}

// ErrExists says that there is something at the destination.
var ErrExists = errors.New("exists already")

// sink is the file that is being made.
type sink interface {
	// Write appends a record. Its error concerns that record, unless Err has one.
	Write(*trace.Record, *trace.Args) error
	Err() error
	Close() error
	Discard() error
}

// Convert writes the trace at src, of either format, to dst. dst appears when it
// is whole and on the disk: on an error, and when ctx is done, it is as it was.
// Records that cannot be converted do not end it; they are in the result.
func Convert(ctx context.Context, src, dst string, opt ConvertOptions) (_ *Conversion, err error) {
	if err := checkDestination(src, dst, opt.Force); err != nil {
		return nil, err
	}
	from, err := OpenExact(src, opt.Warn)
	if err != nil {
		return nil, about(src, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	c := &converter{src: from, done: &Conversion{From: describe(from.Header()), To: "native"}}
	temp := filepath.Join(filepath.Dir(dst), fmt.Sprintf(".%s.%08x", filepath.Base(dst), rand.Uint32()))
	if opt.Release == "" {
		w, err := trace.CreateNative(temp, from.Header())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dst, err)
		}
		c.dst, c.native = w, w
	} else {
		era, ok := lct.EraOf(opt.Release)
		if !ok {
			return nil, fmt.Errorf("LMCache %s: not a release that writes traces", opt.Release)
		}
		w, err := lct.Create(temp, from.Header(), era)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dst, err)
		}
		c.dst, c.lmcache = w, w
		c.done.To = "lmcache " + opt.Release
		c.verbatim = era.Release() == from.Header().Release
	}
	if err := c.run(ctx); err != nil {
		return nil, errors.Join(err, c.dst.Discard())
	}
	c.finish()
	if err := c.dst.Close(); err != nil {
		os.Remove(temp)
		return nil, fmt.Errorf("%s: %w", dst, err)
	}
	if info, err := os.Stat(temp); err == nil {
		c.done.Bytes = info.Size()
	}
	if err := publish(temp, dst, opt.Force); err != nil {
		os.Remove(temp)
		return nil, err
	}
	return c.done, nil
}

// OpenExact is Open for who needs all that the file says: of upstream's format
// also what the internal form does not hold ([lct.Reader.Exact]).
func OpenExact(path string, warn func(string)) (trace.Source, error) {
	src, err := Open(path, warn)
	if r, ok := src.(*lct.Reader); ok && err == nil {
		if err := r.Exact(); err != nil {
			r.Close()
			return nil, err
		}
	}
	return src, err
}

func describe(h *trace.Header) string {
	if h.Native {
		return "native"
	}
	return "lmcache " + h.Release
}

// checkDestination refuses what must not be replaced.
func checkDestination(src, dst string, force bool) error {
	out, err := os.Lstat(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	target, err := os.Stat(dst)
	if err != nil {
		target = out // a symbolic link to nothing
	}
	if in, err := os.Stat(src); err == nil && os.SameFile(in, target) {
		return fmt.Errorf("%s: is the input", dst)
	}
	if target.IsDir() || !target.Mode().IsRegular() && out.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s: not a regular file", dst)
	}
	if !force {
		return fmt.Errorf("%s: %w", dst, ErrExists)
	}
	return nil
}

// publish gives temp its name. Without force it does so only if there is nothing
// yet: a link, unlike a renaming, fails then.
func publish(temp, dst string, force bool) error {
	var err error
	if !force {
		switch err = os.Link(temp, dst); {
		case err == nil:
			err = os.Remove(temp)
		case errors.Is(err, fs.ErrExist):
			return fmt.Errorf("%s: %w", dst, ErrExists)
		default:
			force = true // a file system without links
		}
	}
	if force {
		err = os.Rename(temp, dst)
	}
	if err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(dst)); err == nil {
		_ = dir.Sync() // the name, too, should outlive a power cut; not every file system can
		dir.Close()
	}
	return nil
}

// converter copies records.
type converter struct {
	src trace.Source
	dst sink

	native   *trace.NativeWriter // dst, if that is what it is
	lmcache  *lct.Writer         // likewise
	verbatim bool                // source and destination have the same shapes

	nextSeq uint64 // largest sequence number + 1

	ours       int64 // calls that LMCache does not trace, and its file has not
	outcomes   int64 // of the source that are not in the destination
	outcomeErr error // of the first of them
	done       *Conversion
}

// maxFailures bounds the operations that failures are told of one by one.
const maxFailures = 32

func (c *converter) run(ctx context.Context) error {
	var args trace.Args
	var told uint64
	dropper, _ := c.src.(interface{ Dropped() uint64 })
	if src, ok := c.src.(trace.OutcomeSource); ok {
		src.OnOutcome(c.outcome)
	}
	for n := 0; c.src.Next(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		rec := c.src.Record()
		if c.native != nil && dropper != nil && dropper.Dropped() > told {
			told = dropper.Dropped()
			if err := c.native.Drops(told); err != nil {
				return err
			}
		}
		if c.lmcache != nil && rec.Op.Row().Ours {
			c.nextSeq = max(c.nextSeq, rec.Seq+1)
			c.ours++
			continue
		}
		err := c.src.Args(&args)
		if err == nil {
			err = c.dst.Write(&rec, &args)
		} else if r, ok := c.src.(*lct.Reader); ok && c.verbatim && c.src.Err() == nil {
			err = c.lmcache.WriteFrame(r.Frame()) // nobody needs to understand it
		}
		if broken := errors.Join(c.src.Err(), c.dst.Err()); broken != nil {
			return broken
		}
		c.nextSeq = max(c.nextSeq, rec.Seq+1)
		if err != nil {
			c.failed(rec.Qualname, err)
			continue
		}
		c.done.Records++
	}
	if err := c.src.Err(); err != nil {
		return err
	}
	if c.native != nil && dropper != nil && dropper.Dropped() > told {
		return c.native.Drops(dropper.Dropped())
	}
	return nil
}

// outcome takes what came of a call.
func (c *converter) outcome(o *trace.OutcomeRecord) {
	if c.native != nil {
		err := c.native.Outcome(o)
		if err == nil {
			return
		}
		if c.outcomeErr == nil {
			c.outcomeErr = err
		}
	}
	c.outcomes++
}

func (c *converter) failed(qualname string, err error) {
	c.done.Failed++
	list := c.done.Failures
	if len(list) >= maxFailures {
		qualname = "other operations"
	}
	i := slices.IndexFunc(list, func(f Failure) bool { return f.Qualname == qualname })
	if i < 0 {
		i = len(list)
		list = append(list, Failure{Qualname: qualname, First: err})
	}
	list[i].Records++
	c.done.Failures = list
}

// finish says what was lost.
func (c *converter) finish() {
	reader, _ := c.src.(*trace.NativeReader)
	if reader != nil && !reader.Sealed() {
		c.done.Notes = append(c.done.Notes, "the recording is not sealed: calls that are still in its recorder's ring are not converted")
	}
	if c.ours > 0 {
		c.done.Losses = append(c.done.Losses, Lost{c.ours, "of calls that LMCache does not trace: left out", "untraced_calls"})
	}
	if c.outcomes > 0 {
		c.done.Losses = append(c.done.Losses, Lost{c.outcomes, "lose their outcome", "outcome"})
	}
	if c.outcomeErr != nil {
		c.done.Notes = append(c.done.Notes, c.outcomeErr.Error())
	}
	if c.native != nil && reader != nil {
		if s, err := reader.Summarize(); err == nil {
			c.native.LostOutcomes(uint64(s.LostOutcomes + c.outcomes))
		}
	}
	if c.lmcache == nil {
		return
	}
	losses := c.lmcache.Losses()
	losses.Each(func(records int64, phrase, name string) {
		c.done.Losses = append(c.done.Losses, Lost{records, phrase, name})
	})
	slices.SortStableFunc(c.done.Losses, func(a, b Lost) int { return -cmp.Compare(a.Records, b.Records) })
	if reader == nil {
		return
	}
	h := reader.Header()
	missing := int64(c.nextSeq) - c.done.Records - c.done.Failed - c.ours
	if lost := max(missing, int64(reader.Dropped())); lost > 0 {
		c.done.Notes = append(c.done.Notes, fmt.Sprintf("that %d calls of the recording were lost is not in the file", lost))
	}
	if h.Build != "" || h.PID != 0 || h.Host != "" {
		c.done.Notes = append(c.done.Notes, "the recorder's name, process id and host are not in the file")
	}
}

// JSON returns the result for encoding/json.
func (c *Conversion) JSON(src, dst string) any {
	out := conversionJSON{
		Source: src, Destination: dst, From: c.From, To: c.To, Records: c.Records, Failed: c.Failed, Bytes: c.Bytes,
		Lost: map[string]int64{}, Failures: []failureJSON{}, Notes: append([]string{}, c.Notes...),
	}
	for _, l := range c.Losses {
		out.Lost[l.Name] = l.Records
	}
	for _, f := range c.Failures {
		out.Failures = append(out.Failures, failureJSON{f.Qualname, f.Records, f.First.Error()})
	}
	return out
}

type conversionJSON struct {
	Source      string           `json:"source"`
	Destination string           `json:"destination"`
	From        string           `json:"from"`
	To          string           `json:"to"`
	Records     int64            `json:"records"`
	Failed      int64            `json:"failed_records"`
	Bytes       int64            `json:"size_bytes"`
	Lost        map[string]int64 `json:"lost"` // records, by what they lost
	Failures    []failureJSON    `json:"failures"`
	Notes       []string         `json:"notes"`
}

type failureJSON struct {
	Qualname string `json:"qualname"`
	Records  int64  `json:"records"`
	First    string `json:"first_error"`
}
