package mmapio

import _ "unsafe" // for go:linkname

// Pin keeps the calling goroutine on its processor, which nothing else runs on,
// until Unpin, and returns the processor's number, from 0: below GOMAXPROCS. In
// between the caller must not block, nor wait for a system call. Stopping the
// world waits for it.
//
// Safe because: the runtime keeps both functions for packages outside of it (see
// docs/adr/0007-a-shard-for-each-processor.md), and they do to the scheduler what
// they do for sync.Pool.
func Pin() int { return procPin() }

// Unpin ends what Pin began.
func Unpin() { procUnpin() }

//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()
