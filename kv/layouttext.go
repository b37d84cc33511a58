package kv

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseLayout is the inverse of LayoutDesc.String, and interns the layout: parts
// such as [2,32,256,1024]:bfloat16, joined by +. The empty text is the layout
// without parts. Errors wrap ErrLayout.
func ParseLayout(s string) (Layout, error) {
	if s == "" {
		return 0, nil
	}
	var d LayoutDesc
	for part := range strings.SplitSeq(s, "+") {
		shape, name, ok := strings.Cut(part, "]:")
		dims, opened := strings.CutPrefix(shape, "[")
		if !ok || !opened {
			return 0, fmt.Errorf("%w: %q is not [dimensions]:dtype", ErrLayout, part)
		}
		t, ok := ParseDType(name)
		if !ok {
			return 0, fmt.Errorf("%w: no dtype %q", ErrLayout, name)
		}
		var sizes []int64
		if dims != "" {
			for dim := range strings.SplitSeq(dims, ",") {
				n, err := strconv.ParseInt(dim, 10, 64)
				if err != nil {
					return 0, fmt.Errorf("%w: dimension %q", ErrLayout, dim)
				}
				sizes = append(sizes, n)
			}
		}
		d.Shapes, d.DTypes = append(d.Shapes, sizes), append(d.DTypes, t)
	}
	return InternLayout(d)
}
