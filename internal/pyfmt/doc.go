// Package pyfmt writes numbers, strings and JSON exactly as Python does, for
// the texts that LMCache defines by what its interpreter prints: the recorded
// configuration, whose digest is over its bytes, and the summaries of a replay.
package pyfmt
