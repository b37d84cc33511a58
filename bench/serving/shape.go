package serving

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// ErrShape is wrapped by the errors of ParseShape.
var ErrShape = errors.New("invalid KV shape")

// Shape is the paged device memory of layers of one kind: a tensor [KV, Blocks,
// BlockSize, Heads, HeadSize] for each.
type Shape struct {
	KV        int // 2, or 1 for MLA
	Blocks    int
	BlockSize int // tokens
	Heads     int
	HeadSize  int // elements
	DType     kv.DType
	Layers    int
}

// shapeTypes are the element types that LMCache's benchmark takes.
var shapeTypes = []string{"float16", "float32", "bfloat16", "uint8", "int8"}

// maxShape bounds each number of a shape, and maxShapeBytes the memory of one:
// what they guard against is a slip of the keyboard.
const (
	maxShape      = 1 << 24
	maxShapeBytes = 1 << 40
)

// ParseShape reads LMCache's form, (kv_size,blocks,block
// size,heads,head size):dtype:layers, of several groups joined by semicolons.
func ParseShape(spec string) ([]Shape, error) {
	var groups []Shape
	for text := range strings.SplitSeq(spec, ";") {
		g, err := parseGroup(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrShape, text, err)
		}
		if len(groups) > 0 && (g.Blocks != groups[0].Blocks || g.BlockSize != groups[0].BlockSize) {
			return nil, fmt.Errorf("%w %q: all groups must have the same blocks and block size", ErrShape, spec)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

func parseGroup(text string) (Shape, error) {
	var g Shape
	rest, opened := strings.CutPrefix(text, "(")
	list, rest, closed := strings.Cut(rest, ")")
	dtype, layers, typed := strings.Cut(strings.TrimPrefix(rest, ":"), ":")
	if !opened || !closed || !typed || !strings.HasPrefix(rest, ":") {
		return g, errors.New("want (kv_size,blocks,block_size,heads,head_size):dtype:layers")
	}
	fields := []*int{&g.KV, &g.Blocks, &g.BlockSize, &g.Heads, &g.HeadSize}
	numbers := strings.Split(list, ",")
	if len(numbers) != len(fields) {
		return g, fmt.Errorf("%d numbers in the parentheses, not %d", len(numbers), len(fields))
	}
	for i, text := range append(numbers, layers) {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > maxShape {
			return g, fmt.Errorf("%q is no number from 1 to %d", strings.TrimSpace(text), maxShape)
		}
		if i < len(fields) {
			*fields[i] = n
		} else {
			g.Layers = n
		}
	}
	if g.KV > 2 {
		return g, fmt.Errorf("kv_size %d, must be 2, or 1 for MLA", g.KV)
	}
	dtype = strings.TrimSpace(dtype)
	if !slices.Contains(shapeTypes, dtype) {
		return g, fmt.Errorf("no dtype %q (%s)", dtype, strings.Join(shapeTypes, ", "))
	}
	g.DType, _ = kv.ParseDType(dtype)
	size := uint64(1)
	for _, n := range []int{g.KV, g.Blocks, g.BlockSize, g.Heads, g.HeadSize, g.Layers, g.DType.Size()} {
		high, low := bits.Mul64(size, uint64(n))
		if size = low; high > 0 || size > maxShapeBytes {
			return g, fmt.Errorf("more than %d GiB", maxShapeBytes>>30)
		}
	}
	return g, nil
}

// String gives the form that ParseShape reads.
func (g Shape) String() string {
	return fmt.Sprintf("(%d,%d,%d,%d,%d):%s:%d", g.KV, g.Blocks, g.BlockSize, g.Heads, g.HeadSize, g.typeName(), g.Layers)
}

func (g Shape) typeName() string { return strings.TrimPrefix(g.DType.String(), "torch.") }

// Hidden returns the elements of a token in one layer, of one of K or V.
func (g Shape) Hidden() int { return g.Heads * g.HeadSize }

// tokenBytes is what a token takes in one of K or V of a layer.
func (g Shape) tokenBytes() int { return g.Hidden() * g.DType.Size() }

// ChunkBytes returns the size of the object of that many tokens.
func (g Shape) ChunkBytes(tokens int) int { return g.KV * g.Layers * tokens * g.tokenBytes() }
