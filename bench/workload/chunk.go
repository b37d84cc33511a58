package workload

import (
	"crypto/sha256"
	"fmt"
	"strconv"
)

// maxTokens bounds the input of one request, so that a damaged number in a file
// cannot ask for memory: 16 Mi tokens.
const maxTokens = 16 << 20

// ChunkHash returns the hash that stands for a chunk of tokens: the SHA-256 of
// the text SPACE:BLOCK:PART. Files name blocks by prefix: equal ids mean equal
// tokens from the start of the prompt to the end of the block. So the id of the
// block that holds a chunk's last token already names the chunk's whole prefix,
// and no chaining is needed.
//
// Space says within what the id means something, such as mooncake or
// agentic:trace_0001. Part counts the chunks that end in the same block, from
// 0; it is always 0 when a chunk is as long as a block or longer.
func ChunkHash(space string, block uint64, part int) [32]byte {
	b := append(make([]byte, 0, 96), space...)
	b = append(b, ':')
	b = strconv.AppendUint(b, block, 10)
	b = append(b, ':')
	return sha256.Sum256(strconv.AppendInt(b, int64(part), 10))
}

// grid is the geometry of a file's blocks and the cache's chunks, in tokens.
// One of the two divides the other.
type grid struct{ block, chunk int }

func newGrid(block, chunk int) (grid, error) {
	if block%chunk != 0 && chunk%block != 0 {
		return grid{}, fmt.Errorf("chunks of %d tokens do not fit blocks of %d: one must divide the other", chunk, block)
	}
	return grid{block, chunk}, nil
}

// appendHashes appends the hashes of the full chunks of a prompt of that many
// tokens. The ids must cover them.
func (g grid) appendHashes(dst [][32]byte, space string, tokens int, ids *blockIDs) [][32]byte {
	perBlock := max(g.block/g.chunk, 1)
	at := ids.cursor()
	for c := range tokens / g.chunk {
		last := ((c+1)*g.chunk - 1) / g.block
		dst = append(dst, ChunkHash(space, at.id(last), c%perBlock))
	}
	return dst
}

// run is count consecutive block ids.
type run struct {
	first uint64
	count int
}

// blockIDs is the list of a prompt's block ids as maximal runs: a prompt of
// thousands of blocks takes a few dozen bytes.
type blockIDs struct {
	runs []run
	n    int // ids in all runs
}

// truncate keeps the first n ids; n is at most the length.
func (b *blockIDs) truncate(n int) {
	b.n = n
	for i := range b.runs {
		if n == 0 {
			b.runs = b.runs[:i]
			return
		}
		b.runs[i].count = min(b.runs[i].count, n)
		n -= b.runs[i].count
	}
}

// append adds a run.
func (b *blockIDs) append(r run) {
	if r.count == 0 {
		return
	}
	b.n += r.count
	if k := len(b.runs); k > 0 && b.runs[k-1].first+uint64(b.runs[k-1].count) == r.first {
		b.runs[k-1].count += r.count
		return
	}
	b.runs = append(b.runs, r)
}

// idCursor reads a list of ids from front to back.
type idCursor struct {
	runs   []run
	before int // ids in the runs already left behind
}

func (b *blockIDs) cursor() idCursor { return idCursor{runs: b.runs} }

// id returns the id at index i, which must not go down from call to call.
func (c *idCursor) id(i int) uint64 {
	for i-c.before >= c.runs[0].count {
		c.before += c.runs[0].count
		c.runs = c.runs[1:]
	}
	return c.runs[0].first + uint64(i-c.before)
}
