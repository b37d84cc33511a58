package serving

import (
	"crypto/md5"
	"encoding/binary"
	"math/rand/v2"
)

// paged stands for the device memory of one rank: a tensor [KV, blocks, block
// size, hidden] for each layer. Chunk i of a request lies in the i-th run of
// blocks.
type paged struct {
	shape  Shape
	chunk  int // tokens
	layers [][]byte
}

func newPaged(shape Shape, chunkTokens int) *paged {
	p := &paged{shape: shape, chunk: chunkTokens, layers: make([][]byte, shape.Layers)}
	for i := range p.layers {
		p.layers[i] = make([]byte, shape.KV*shape.Blocks*shape.BlockSize*shape.tokenBytes())
	}
	return p
}

// runs calls f with each piece of a chunk's memory and where in the chunk's
// object it goes: the object is [KV, layers, tokens, hidden].
func (p *paged) runs(chunk int, f func(at int, piece []byte)) {
	n := p.chunk * p.shape.tokenBytes()                               // of one of K or V of a layer
	half := p.shape.Blocks * p.shape.BlockSize * p.shape.tokenBytes() // K's part of a tensor
	for kv := range p.shape.KV {
		for layer, tensor := range p.layers {
			// The blocks of a chunk are neighbours here, so that a run is one piece.
			from := kv*half + chunk*n
			f((kv*p.shape.Layers+layer)*n, tensor[from:from+n])
		}
	}
}

// gather writes a chunk's object to dst.
func (p *paged) gather(chunk int, dst []byte) {
	p.runs(chunk, func(at int, piece []byte) { copy(dst[at:], piece) })
}

// scatter reads a chunk from its object.
func (p *paged) scatter(chunk int, src []byte) {
	p.runs(chunk, func(at int, piece []byte) { copy(piece, src[at:]) })
}

// fill gives the first chunks a content that depends on seq and rank.
func (p *paged) fill(chunks int, seq int64, rank int) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(seq))
	binary.LittleEndian.PutUint64(seed[8:], uint64(rank))
	random := rand.NewChaCha8(seed)
	for chunk := range chunks {
		p.runs(chunk, func(_ int, piece []byte) { _, _ = random.Read(piece) })
	}
}

// zero clears the first chunks.
func (p *paged) zero(chunks int) {
	for chunk := range chunks {
		p.runs(chunk, func(_ int, piece []byte) { clear(piece) })
	}
}

// appendSums appends an MD5 for each of the first chunks.
func (p *paged) appendSums(dst []byte, chunks int) []byte {
	for chunk := range chunks {
		h := md5.New()
		p.runs(chunk, func(_ int, piece []byte) { h.Write(piece) })
		dst = h.Sum(dst)
	}
	return dst
}
