// Package lct reads the trace files of the Python LMCache, of every release
// that wrote one, into the internal form of package trace.
//
// A file is a sequence of frames, each a 4-byte big-endian length and one
// msgpack map; the first is the header. Upstream changed the shapes of the
// arguments six times (eras E1 to E6, and S2) without a version that tells them
// apart, so a record is read by the keys that its payload has.
//
// Reading is as lenient as upstream's reader, and says the same words: a frame
// that does not decode is skipped with a warning, a cut-off tail ends the file.
//
// Source: reference lct-v1.md.
package lct
