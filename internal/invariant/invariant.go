// Package invariant switches the costly self-checks of the other packages. They
// are compiled in by the build tag "invariant" and cost nothing without it:
//
//	if invariant.Enabled {
//		invariant.Check(a.used <= a.heap, "arena: %d bytes used of %d", a.used, a.heap)
//	}
//
// The condition around the call is what removes it: [Enabled] is a constant, so
// the compiler drops the block together with the arguments' evaluation.
package invariant

import "fmt"

// Check panics with the formatted message when cond is false: a broken
// invariant is our own bug.
func Check(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}

// CheckErr panics when a self-check returned an error.
func CheckErr(err error) {
	if err != nil {
		panic("invariant: " + err.Error())
	}
}
