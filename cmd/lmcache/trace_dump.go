package main

import (
	"bufio"
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/tracefile"
)

// dumpOptions say which records to print, and how.
type dumpOptions struct {
	jsonl    bool
	brief    bool     // one line a record
	outcomes bool     // always with the text form
	limit    int64    // records to print; all if zero
	ops      []string // names, short or qualified; all if empty
	from, to float64  // t_mono in seconds, both inclusive
}

func newTraceDump(a *app) *cobra.Command {
	o := dumpOptions{to: math.Inf(1)}
	cmd := &cobra.Command{
		Use:   "dump FILE [flags]",
		Short: "Print the records of a trace",
		Long: `Print a trace in file order: the header, then each record with its times, its
operation and a line for each argument, and what came of the calls, where it stands
in the file: behind its call. Nothing is left out, so that the text can be read
back (FORMAT.md, section 9). With --brief one line a record: its number, time,
operation and arguments, key lists as a count with the first and last key. With
--jsonl one JSON object a record, complete. These two print outcomes with
--outcomes only.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := oneFile(args)
			if err == nil {
				err = o.check()
			}
			if err != nil {
				return err
			}
			return a.traceDump(cmd.Context(), path, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.brief, "brief", false, "one line a record, with long hashes and key lists cut short")
	flags.BoolVar(&o.jsonl, "jsonl", false, "one JSON object a record, with all arguments")
	flags.BoolVar(&o.outcomes, "outcomes", false, "also print what came of the calls, where the file has it")
	flags.Var(opValue{&o.ops}, "op", "only records of this operation, such as reserve_write; may be repeated")
	flags.Var(floatValue{&o.from}, "from", "only records from this time on, in seconds since the start")
	flags.Var(floatValue{&o.to}, "to", "only records up to this time, in seconds since the start (default the end)")
	flags.Lookup("to").DefValue = "" // not "inf"
	flags.Var(countValue[int64]{&o.limit}, "limit", "print at most so many records (default all)")
	return cmd
}

// opValue is a repeatable flag that names an operation.
type opValue struct{ p *[]string }

func (v opValue) Type() string   { return "NAME" }
func (v opValue) String() string { return strings.Join(*v.p, " ") }

// Set takes a short name of an operation that this build knows, or a qualified
// name, which may be another build's.
func (v opValue) Set(s string) error {
	var short []string
	for _, row := range trace.Schema() {
		short = append(short, shortOp(row.Qualname))
	}
	if !slices.Contains(short, s) && strings.Count(s, ".") < 2 {
		return invalidChoice(s, short)
	}
	*v.p = append(*v.p, s)
	return nil
}

// shortOp returns what follows the class in a qualified name.
func shortOp(qualname string) string {
	const class = ".StorageManager."
	if i := strings.LastIndex(qualname, class); i >= 0 {
		return qualname[i+len(class):]
	}
	return qualname
}

func (o *dumpOptions) check() error {
	switch {
	case o.brief && o.jsonl:
		return usagef("argument --jsonl: not allowed with argument --brief")
	case math.IsNaN(o.from):
		return usagef("argument --from: invalid value: nan (allowed: a time in seconds)")
	case math.IsNaN(o.to):
		return usagef("argument --to: invalid value: nan (allowed: a time in seconds)")
	case o.to < o.from:
		return usagef("argument --to: invalid value: %v (allowed: %v, which --from is, or more)", o.to, o.from)
	}
	return nil
}

// wants reports whether rec is to be printed.
func (o *dumpOptions) wants(rec *trace.Record) bool {
	if len(o.ops) > 0 && !slices.Contains(o.ops, rec.Qualname) && !slices.Contains(o.ops, shortOp(rec.Qualname)) {
		return false
	}
	t := float64(rec.MonoNS) / 1e9
	return o.from <= t && t <= o.to
}

// seek passes over what is earlier or later than what is wanted, where src knows
// the times of its blocks, and returns how many records came before.
func (o *dumpOptions) seek(src trace.Source) (records int64, err error) {
	s, ok := src.(interface {
		SeekTime(fromNS, toNS int64) (int64, error)
	})
	if !ok || o.from <= 0 && math.IsInf(o.to, 1) {
		return 0, nil
	}
	// The nearest float64 to a time may be a little off.
	const slack = 1000
	ns := func(s float64) int64 { return int64(min(max(s*1e9, -1<<62), 1<<62)) }
	to := ns(o.to) + slack
	if o.outcomes {
		to = math.MaxInt64 // the outcome of a call may be in any block behind it
	}
	return s.SeekTime(ns(o.from)-slack, to)
}

// wantsOutcome reports whether the call of out is to be printed.
func (o *dumpOptions) wantsOutcome(out *trace.OutcomeRecord) bool {
	return o.wants(&trace.Record{Qualname: out.Qualname, MonoNS: out.MonoNS - out.DurationNS})
}

func (a *app) traceDump(ctx context.Context, path string, o dumpOptions) error {
	open := tracefile.OpenExact
	if o.brief || o.jsonl {
		open = tracefile.Open
	}
	src, err := open(path, a.warn)
	if err != nil {
		return about(path, err)
	}
	err = a.dump(ctx, src, o)
	if src.Err() != nil {
		err = about(path, err) // else it is about the output
	}
	return errors.Join(err, src.Close())
}

// dump prints the records of src.
func (a *app) dump(ctx context.Context, src trace.Source, o dumpOptions) error {
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	if err := dumpRecords(ctx, w, src, o); err != nil {
		return errors.Join(err, w.Flush())
	}
	return w.Flush()
}

func dumpRecords(ctx context.Context, w *bufio.Writer, src trace.Source, o dumpOptions) error {
	var (
		args    trace.Args
		line    []byte
		printed int64
	)
	text := !o.brief && !o.jsonl
	drops := dropLines{text: text}
	drops.src, _ = src.(interface{ Dropped() uint64 })
	if text {
		line = trace.AppendTextHeader(line, src.Header())
	}
	if native, ok := src.(trace.OutcomeSource); ok && (o.outcomes || text) {
		native.OnOutcome(func(out *trace.OutcomeRecord) {
			if !o.wantsOutcome(out) {
				return
			}
			switch {
			case o.jsonl:
				line = append(appendOutcomeJSON(line, out), '\n')
			case o.brief:
				line = append(appendOutcomeText(line, out), '\n')
			default:
				line = trace.AppendTextOutcome(line, out)
			}
		})
	}
	passed, err := o.seek(src)
	if err != nil {
		return err
	}
	for n := passed + 1; src.Next(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		rec := src.Record()
		line = drops.append(line)
		wanted := o.wants(&rec)
		if wanted {
			argsErr := src.Args(&args)
			switch {
			case o.jsonl:
				line = append(appendRecordJSON(line, n, &rec, &args, argsErr), '\n')
			case o.brief:
				line = append(appendRecordBrief(line, n, &rec, &args, argsErr), '\n')
			default:
				line = trace.AppendText(line, &rec, &args, argsErr)
			}
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
		line = line[:0]
		if wanted {
			if printed++; printed == o.limit {
				return nil
			}
		}
	}
	if _, err := w.Write(drops.append(line)); err != nil {
		return err
	}
	return src.Err()
}

// dropLines prints where calls were lost, in the text form.
type dropLines struct {
	src   interface{ Dropped() uint64 } // nil if it does not say
	text  bool
	total uint64
}

func (d *dropLines) append(b []byte) []byte {
	if !d.text || d.src == nil || d.src.Dropped() == d.total {
		return b
	}
	d.total = d.src.Dropped()
	return trace.AppendTextDrops(b, d.total)
}
