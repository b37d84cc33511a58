// Package workload reads and generates request streams of real kinds, and
// drives a storage manager with them in process, the way an inference engine
// does.
//
// A [Spec] names a workload, [Spec.Open] gives its requests in order of arrival
// as a [Workload], and [Run] is the engine: it turns each request into the calls
// that an engine's scheduler and workers make, at the times at which they make
// them, and returns a [Result]. The engine is one goroutine over a queue of
// timed events, so that the same code runs against the machine's clock and,
// with a clock.Virtual, an hour of traffic in seconds, the same each time.
//
// What the chunk hashes are, so that another program can compute them, and the
// distributions of the synthetic chat are in docs/workloads.md.
package workload
