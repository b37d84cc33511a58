package kv

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// ErrLayout is wrapped by every error about a layout that cannot be.
var ErrLayout = errors.New("invalid layout")

// Layout is an interned LayoutDesc. The zero Layout has no shapes and no bytes.
type Layout uint32

// LayoutDesc describes the memory of one object: one contiguous slot with the
// parts laid out in list order, without padding between them.
//
// Source: reference storage-manager.md, sections 1.3 and 4.4.
type LayoutDesc struct {
	Shapes [][]int64 // dimensions of each part, in elements
	DTypes []DType   // element type of each part
}

type layoutValue struct {
	desc  LayoutDesc
	bytes int64
}

var layouts interner[layoutValue]

// InternLayout returns the layout of d. It fails, wrapping ErrLayout, if there
// are not as many shapes as types, a dimension is negative, or the size
// overflows an int64. The layout keeps no reference into d.
func InternLayout(d LayoutDesc) (Layout, error) {
	if len(d.Shapes) != len(d.DTypes) {
		return 0, fmt.Errorf("%w: %d shapes and %d dtypes, must have the same length", ErrLayout, len(d.Shapes), len(d.DTypes))
	}
	size, err := d.bytes()
	if err != nil {
		return 0, err
	}
	if len(d.Shapes) == 0 {
		return 0, nil
	}
	id := layouts.intern(d.String(), func() *layoutValue {
		v := &layoutValue{bytes: size, desc: LayoutDesc{DTypes: slices.Clone(d.DTypes)}}
		for _, s := range d.Shapes {
			v.desc.Shapes = append(v.desc.Shapes, slices.Clone(s))
		}
		return v
	})
	return Layout(id), nil
}

// Desc returns what l stands for. The slices must not be changed.
func (l Layout) Desc() LayoutDesc {
	if v := layouts.lookup(uint32(l)); v != nil {
		return v.desc
	}
	return LayoutDesc{}
}

// Bytes returns the logical size of one object: the sum over the parts of the
// product of the dimensions times the element size. An empty shape has one
// element.
func (l Layout) Bytes() int64 {
	if v := layouts.lookup(uint32(l)); v != nil {
		return v.bytes
	}
	return 0
}

func (d LayoutDesc) bytes() (int64, error) {
	var total int64
	for i, shape := range d.Shapes {
		part := uint64(d.DTypes[i].Size())
		if part == 0 {
			return 0, fmt.Errorf("%w: part %d has no dtype", ErrLayout, i)
		}
		for _, n := range shape {
			if n < 0 {
				return 0, fmt.Errorf("%w: part %d has dimension %d", ErrLayout, i, n)
			}
			hi, lo := bits.Mul64(part, uint64(n))
			if hi != 0 || lo > math.MaxInt64 {
				return 0, fmt.Errorf("%w: size of part %d overflows", ErrLayout, i)
			}
			part = lo
		}
		if total += int64(part); total < 0 {
			return 0, fmt.Errorf("%w: size overflows", ErrLayout)
		}
	}
	return total, nil
}

// String gives one line, such as [2,32,256,1024]:bfloat16; parts are joined by +.
func (d LayoutDesc) String() string {
	var b strings.Builder
	for i, shape := range d.Shapes {
		if i > 0 {
			b.WriteByte('+')
		}
		b.WriteByte('[')
		for j, n := range shape {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprint(&b, n)
		}
		b.WriteString("]:")
		b.WriteString(strings.TrimPrefix(d.DTypes[i].String(), "torch."))
	}
	return b.String()
}
