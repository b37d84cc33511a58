// Package kv holds the nouns that every other package shares: object keys,
// ranks, memory layouts, bitmaps and the arguments of a prefetch. It imports
// nothing of ours.
//
// Two values are interned, because they repeat in every call and a key must
// stay free of pointers: a [Scope] is a model name with its cache salt, a
// [Layout] is a list of shapes with their element types. Both are small
// integers, valid within the process that made them; what leaves the process
// (a trace, a wire message) carries what they stand for. An interned value is
// never forgotten: it costs its text and about 100 bytes, and a server sees as
// many as it has models × tenants, and models × layouts.
package kv
