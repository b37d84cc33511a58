package main

import (
	"fmt"
	"strconv"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
	"github.com/lmcache/lmcache-go/trace"
)

// appendOutcomeText appends an outcome as one line.
func appendOutcomeText(b []byte, o *trace.OutcomeRecord) []byte {
	b = fmt.Appendf(b, "         %14.6f  outcome of call %d  %s  duration=%.3fus", float64(o.MonoNS)/1e9, o.Seq, shortOp(o.Qualname), float64(o.DurationNS)/1e3)
	if o.Failed {
		b = append(b, "  failed"...)
	}
	for i, name := range o.Names {
		b = fmt.Appendf(b, "  %s=%d", name, o.Counts[i])
	}
	return b
}

// appendOutcomeJSON appends an outcome as one JSON object: the number of its
// call among the calls that were made, its place in the file, its times, the
// counts by name, and for some of them which keys they counted, one character a
// key in the order of the arguments.
func appendOutcomeJSON(b []byte, o *trace.OutcomeRecord) []byte {
	b = fmt.Appendf(b, `{"outcome_of_seq": %d, "offset_bytes": %d, "t_mono_ns": %d, "t_wall_ns": %d, "duration_ns": %d, "qualname": `,
		o.Seq, o.Offset, o.MonoNS, o.WallNS, o.DurationNS)
	b = pyfmt.AppendJSONString(b, o.Qualname)
	b = fmt.Appendf(b, `, "failed": %t, "counts": {`, o.Failed)
	for i, name := range o.Names {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(pyfmt.AppendJSONString(b, name), ": "...)
		b = strconv.AppendInt(b, o.Counts[i], 10)
	}
	b = append(b, `}, "bits": {`...)
	for i := range min(len(o.Bits), len(o.Names)) {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(pyfmt.AppendJSONString(b, o.Names[i]), ": "...)
		b = pyfmt.AppendJSONString(b, o.Bits[i].String())
	}
	return append(b, "}}"...)
}
