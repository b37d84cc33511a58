// Package tokenhash turns tokens into the hashes of their chunks, as LMCache
// does: each chunk's hash is made of the one before it and its own tokens, so
// that a hash stands for the whole prefix. Model, rank and salt are not in it.
//
// Source: reference server-protocol.md, section 3.3.
package tokenhash

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/zeebo/blake3"
)

// Bytes is the length of a hash.
const Bytes = 32

// Hash is the hash of a chunk, and of all before it.
type Hash = [Bytes]byte

// Blake3 is the one algorithm that can be had outside of Python.
const Blake3 = "blake3"

// why says of the algorithms of LMCache that cannot be had here why not.
var why = map[string]string{
	"builtin":     "it is the hash of Python's tuples, which differs between processes",
	"sha256_cbor": "it hashes vLLM's own encoding, from a start that is random in each process",
}

// AlgorithmError says that an algorithm is not to be had.
type AlgorithmError struct{ Name string }

func (e *AlgorithmError) Error() string {
	if reason, ok := why[e.Name]; ok {
		return fmt.Sprintf("hash algorithm %s is not supported in this build: %s (allowed: %s)", e.Name, reason, Blake3)
	}
	return fmt.Sprintf("unknown hash algorithm %q (allowed: %s)", e.Name, Blake3)
}

// Hasher hashes chunks of one size. It is safe for concurrent use.
type Hasher struct {
	chunk   int
	start   Hash
	scratch sync.Pool // of *scratch
	seed    maphash.Seed
}

// scratch is what one caller needs meanwhile: the hash before, then the tokens.
type scratch struct {
	buf []byte
	b3  *blake3.Hasher
}

// New returns a Hasher of chunks of that many tokens. It fails with an
// *AlgorithmError for every algorithm but Blake3.
func New(algorithm string, chunkSize int) (*Hasher, error) {
	if algorithm != Blake3 {
		return nil, &AlgorithmError{algorithm}
	}
	if chunkSize < 1 {
		return nil, fmt.Errorf("chunk size %d: must be at least 1", chunkSize)
	}
	h := &Hasher{chunk: chunkSize, seed: maphash.MakeSeed()}
	h.start = blake3.Sum256(make([]byte, 12)) // a signed 64-bit 0, and token 0
	h.scratch.New = func() any { return &scratch{make([]byte, Bytes+4*chunkSize), blake3.New()} }
	return h, nil
}

// ChunkSize returns the tokens of a chunk.
func (h *Hasher) ChunkSize() int { return h.chunk }

// Start returns what the first chunk has as the hash before it.
func (h *Hasher) Start() Hash { return h.start }

// Append appends the hashes of all full chunks of tokens, which begin at
// position 0, to dst. The rest is not hashed.
func (h *Hasher) Append(dst []Hash, tokens []uint32) []Hash {
	s := h.scratch.Get().(*scratch)
	defer h.scratch.Put(s)
	prev := h.start
	for ; len(tokens) >= h.chunk; tokens = tokens[h.chunk:] {
		s.put(tokens[:h.chunk])
		s.hash(&prev)
		dst = append(dst, prev)
	}
	return dst
}

// put encodes a chunk.
func (s *scratch) put(tokens []uint32) {
	b := s.buf[Bytes : Bytes+4*len(tokens)]
	for i, t := range tokens {
		binary.BigEndian.PutUint32(b[4*i:4*i+4], t)
	}
}

// hash replaces the hash before the chunk by the chunk's.
func (s *scratch) hash(h *Hash) {
	copy(s.buf, h[:])
	s.b3.Reset()
	_, _ = s.b3.Write(s.buf)
	s.b3.Sum(h[:0])
}

// Chain remembers the hashes of one sequence of tokens, so that the requests
// that follow a lookup do not make them again. It does not keep the tokens: a
// checksum a chunk, seeded anew in every process, tells whether they are the
// same. The zero Chain is empty; it belongs to one goroutine at a time.
type Chain struct {
	hashes []Hash
	checks []uint64
}

// Hashes returns what the chain has, which is the caller's until the next
// Extend.
func (c *Chain) Hashes() []Hash { return c.hashes }

// Extend returns the hashes of the full chunks of tokens. The chain grows if they
// go on where it ends, and begins anew where they differ. The result is valid
// after a later Extend too.
func (h *Hasher) Extend(c *Chain, tokens []uint32) []Hash {
	s := h.scratch.Get().(*scratch)
	defer h.scratch.Put(s)
	n := len(tokens) / h.chunk
	check := uint64(0)
	for i := range n {
		s.put(tokens[i*h.chunk : (i+1)*h.chunk])
		binary.BigEndian.PutUint64(s.buf[Bytes-8:], check)
		check = maphash.Bytes(h.seed, s.buf[Bytes-8:])
		if i < len(c.checks) && c.checks[i] == check {
			continue
		}
		if i < len(c.checks) { // another sequence: what was given out stays as it is
			c.hashes, c.checks = append([]Hash(nil), c.hashes[:i]...), c.checks[:i]
		}
		prev := h.start
		if i > 0 {
			prev = c.hashes[i-1]
		}
		s.hash(&prev)
		c.hashes, c.checks = append(c.hashes, prev), append(c.checks, check)
	}
	return c.hashes[:n:n]
}
