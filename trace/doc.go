// Package trace records the public calls of a storage manager and reads such
// recordings back. It knows names and arguments of calls, not what they do.
//
// The schema table (schema.go) is the one list of operations. [Recorder] writes
// calls into a lock-free ring in shared memory, from which one goroutine moves
// them into a mapped file of the native format, which FORMAT.md specifies.
// [Source] is what both formats are read through; package trace/lct reads
// upstream's.
package trace
