// Package mmapio maps files and memory: read-only views that survive a file
// that shrinks, an output file that grows under a moving window, a shared
// mapping that outlives its process, and address space for terabytes.
//
// It is the only package that says unsafe. What it gives out are byte slices
// and atomic words in them; the slices are valid as long as their owner says,
// and an access after that is a bug of the caller's. Linux only.
package mmapio
