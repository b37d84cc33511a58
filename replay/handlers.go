package replay

import (
	"fmt"
	"log/slog"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l1"
	"github.com/lmcache/lmcache-go/sm"
	"github.com/lmcache/lmcache-go/trace"
)

// A handler reissues the calls of one operation, in three parts, of which only
// the second is timed.
type handler struct {
	// prepare does what the replay itself needs before the call; nil for
	// nothing. It runs before the record is due.
	prepare func(*driver)
	// call makes the call with the arguments d.args, and leaves its results
	// in d.results.
	call func(*driver) error
	// account counts the results of a call that returned no error into o;
	// nil for an operation without an outcome.
	account func(d *driver, o *Outcome)
}

// handlers has a row for every operation of trace.Schema, at the index of its
// Op. A test holds that.
var handlers = [...]handler{
	trace.OpReserveWrite: {
		call: func(d *driver) (err error) {
			d.results.writes, err = d.manager.ReserveWrite(d.args.Keys, d.args.Layout, d.args.Mode)
			return err
		},
		account: accountReservation,
	},
	trace.OpFinishWrite: {
		call: func(d *driver) error {
			d.results.codes = d.manager.FinishWrite(d.args.Keys)
			return nil
		},
		account: func(d *driver, o *Outcome) {
			o[WrittenKeys], o[WriteFailedKeys] = split(d.results.codes)
		},
	},
	trace.OpSubmitPrefetchTask: {
		call: func(d *driver) (err error) {
			d.results.handle, err = d.manager.SubmitPrefetchTask(d.args.Spec, d.args.Text, d.args.Flag)
			return err
		},
		account: accountPrefetch,
	},
	trace.OpFinishReadPrefetched: {
		call: func(d *driver) error {
			d.results.codes = d.manager.FinishReadPrefetched(d.args.Keys, int(d.args.Count))
			return nil
		},
		account: func(d *driver, o *Outcome) {
			o[ReleasedKeys], o[ReleaseFailedKeys] = split(d.results.codes)
		},
	},
	trace.OpReadPrefetchedEnter: {
		prepare: func(d *driver) { d.results.keysHash = d.reads.hash(d.args.Keys) },
		call: func(d *driver) error {
			d.results.read = d.manager.ReadPrefetched(d.args.Keys)
			return nil
		},
		account: func(d *driver, o *Outcome) {
			o[ReadKeys], o[ReadRefusedKeys] = split(d.results.read.Codes())
			d.reads.push(d.results.keysHash, d.args.Keys, d.results.read)
		},
	},
	trace.OpReadPrefetchedExit: {
		prepare: func(d *driver) { d.results.leaving = d.reads.pop(d.reads.hash(d.args.Keys), d.args.Keys) },
		call: func(d *driver) error {
			if d.results.leaving != nil {
				d.results.leaving.Exit(nil)
			}
			return nil
		},
		account: func(d *driver, _ *Outcome) {
			if d.results.leaving == nil && d.log.Enabled(d.ctx, slog.LevelWarn) {
				d.log.Warn(fmt.Sprintf("trace replay: read_prefetched_results.__exit__ with no matching __enter__ (keys=%d); ignoring",
					len(d.args.Keys)))
			}
			d.results.leaving = nil
		},
	},
	trace.OpClear: {
		call: func(d *driver) error {
			d.manager.Clear(d.args.Flag)
			return nil
		},
	},
	trace.OpTouch: {
		call: func(d *driver) error {
			d.manager.Touch(d.args.Keys)
			return nil
		},
	},
	trace.OpDelete: {
		call: func(d *driver) error {
			d.manager.DeleteL1(d.args.Keys, d.args.Flag)
			return nil
		},
	},
}

// results are what the present record's call returned; a handler sets its own.
type results struct {
	writes   []l1.WriteResult
	codes    []l1.Code
	handle   sm.PrefetchHandle
	read     Read
	keysHash uint64
	leaving  Read // taken from the queue by an exit that was not yet made
}

// handlerOf returns the handler of op, nil if there is none.
func handlerOf(op trace.Op) *handler {
	if int(op) >= len(handlers) || handlers[op].call == nil {
		return nil
	}
	return &handlers[op]
}

func accountReservation(d *driver, o *Outcome) {
	for i := range d.results.writes {
		switch d.results.writes[i].Code {
		case l1.Success:
			o[ReservedKeys]++
		case l1.OutOfMemory:
			o[OOMKeys]++
		default:
			o[RefusedKeys]++
		}
	}
	keyBytes := d.args.Layout.Bytes()
	o[ReservedBytes], o[OOMBytes] = o[ReservedKeys]*keyBytes, o[OOMKeys]*keyBytes
}

// accountPrefetch counts the request, and the result if it is there already.
func accountPrefetch(d *driver, o *Outcome) {
	o[Prefetches] = 1
	for i := range d.args.Spec.Groups {
		g := &d.args.Spec.Groups[i]
		o[RequestedKeys] += int64(len(g.Keys))
		o[RequestedBytes] += int64(len(g.Keys)) * g.Layout.Bytes()
	}
	d.pending.add(d.results.handle, d.args.Spec, o)
	d.pending.ask(d.manager, len(d.pending.list)-1, o)
}

// split counts the keys that succeeded and those that did not.
func split(codes []l1.Code) (good, bad int64) {
	for _, c := range codes {
		if c == l1.Success {
			good++
		} else {
			bad++
		}
	}
	return good, bad
}

// keyCount returns the number of keys that a call names.
func keyCount(a *trace.Args, op trace.Op) int {
	for _, arg := range op.Row().Args {
		switch arg.Type {
		case trace.ArgKeys:
			return len(a.Keys)
		case trace.ArgSpec:
			return specKeys(a.Spec)
		}
	}
	return 0
}

func specKeys(s *kv.PrefetchSpec) int {
	n := 0
	if s != nil {
		for i := range s.Groups {
			n += len(s.Groups[i].Keys)
		}
	}
	return n
}
