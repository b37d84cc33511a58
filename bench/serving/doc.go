// Package serving drives an MP server over its wire as inference engines do:
// the sequence of LMCache's own `bench server --mode cpu`, by any number of
// clients at once, and the requests of a workload. What it stores is real and
// different for every chunk, and what it retrieves is compared.
//
// Source: reference server-protocol.md, sections 6.2, 8 and 9.2.
package serving
