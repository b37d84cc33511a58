package sm

import (
	"sync/atomic"

	"github.com/lmcache/lmcache-go/trace"
)

// tracer is the recorder of the public calls. It may be set while calls run.
type tracer struct {
	recorder atomic.Pointer[trace.Recorder]
}

// tracedCall is a call that was recorded, with who did: its outcome belongs into
// the same recording, also when another has begun meanwhile. The zero tracedCall
// is one that nobody recorded.
type tracedCall struct {
	trace.CallToken
	recorder *trace.Recorder
}

// On reports whether calls are being recorded.
func (t *tracer) On() bool { return t.recorder.Load().On() }

// Call records a call. A recorder that went since On was asked is none.
func (t *tracer) Call(op trace.Op, a *trace.Args) tracedCall {
	r := t.recorder.Load()
	return tracedCall{r.Call(op, a), r}
}

// Outcome records what came of a call.
func (t *tracer) Outcome(c tracedCall, o *trace.Outcome) { c.recorder.Outcome(c.CallToken, o) }

// SetTracer records the calls from now on with r, or not at all if r is nil, and
// returns who recorded until now; closing that is its owner's. A call that runs
// meanwhile may be in neither recording.
func (m *Manager) SetTracer(r *trace.Recorder) (before *trace.Recorder) {
	return m.tracer.recorder.Swap(r)
}
