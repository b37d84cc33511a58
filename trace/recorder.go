package trace

// Recorder writes calls to a trace file. A nil Recorder records nothing.
type Recorder struct{}

// On reports whether calls are being recorded.
func (r *Recorder) On() bool { return false }

// Call records one call of op with the arguments a, which it copies. It never
// waits and allocates nothing.
func (r *Recorder) Call(op Op, a *Args) {}
