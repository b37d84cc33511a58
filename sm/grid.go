package sm

import "github.com/lmcache/lmcache-go/kv"

// grid is the shape of a prefetch: cell row·cols+col is chunk col of key group
// row. A bitmap over a grid has one bit a cell.
type grid struct {
	rows, cols int
	windows    []int32 // one a row; kv.FullAttention or chunks looked back
	policy     kv.FetchPolicy
}

func newGrid(spec *kv.PrefetchSpec) grid {
	g := grid{rows: len(spec.Groups), cols: spec.Chunks(), policy: spec.Policy}
	for i := range spec.Groups {
		g.windows = append(g.windows, spec.Groups[i].Window)
	}
	return g
}

func (g *grid) cells() int { return g.rows * g.cols }

// needed returns the cells to serve when the cells of found can be had.
//
// Source: reference storage-manager.md, section 14.3, step 3.
func (g *grid) needed(found kv.Bitmap) kv.Bitmap {
	switch g.policy {
	case kv.FetchPrefix:
		return g.prefix(found)
	case kv.FetchFull:
		for _, w := range g.windows {
			if w != kv.FullAttention {
				return kv.NewBitmap(g.cells())
			}
		}
	}
	return found
}

// hits returns which of the locked cells a reader may use.
func (g *grid) hits(locked kv.Bitmap) kv.Bitmap {
	switch g.policy {
	case kv.FetchPrefix:
		return g.prefix(locked)
	case kv.FetchFull:
		return g.completeColumns(locked)
	}
	return locked
}

// completeColumns returns the cells of the columns that found has in every row.
func (g *grid) completeColumns(found kv.Bitmap) kv.Bitmap {
	out := kv.NewBitmap(g.cells())
	for col := range g.cols {
		complete := true
		for row := 0; row < g.rows && complete; row++ {
			complete = found.Test(row*g.cols + col)
		}
		for row := 0; row < g.rows && complete; row++ {
			out.Set(row*g.cols + col)
		}
	}
	return out
}

// prefix returns the cells that the longest servable prefix needs: with full
// attention all of its chunks, with a window w its last min(w, length).
func (g *grid) prefix(found kv.Bitmap) kv.Bitmap {
	length := 0
	run := make([]int, g.rows) // found cells that end at the present column, a row
	full := make([]bool, g.rows)
	for row := range full {
		full[row] = true // no gap so far
	}
	for col := range g.cols {
		serves := true
		for row := range g.rows {
			if found.Test(row*g.cols + col) {
				run[row]++
			} else {
				run[row], full[row] = 0, false
			}
			if w := int(g.windows[row]); w == kv.FullAttention {
				serves = serves && full[row]
			} else {
				serves = serves && run[row] >= min(w, col+1)
			}
		}
		if serves {
			length = col + 1
		}
	}
	out := kv.NewBitmap(g.cells())
	for row, w := range g.windows {
		first := 0
		if w != kv.FullAttention {
			first = max(0, length-int(w))
		}
		for col := first; col < length; col++ {
			out.Set(row*g.cols + col)
		}
	}
	return out
}

// row returns one row of a bitmap over the grid.
func (g *grid) row(b kv.Bitmap, row int) kv.Bitmap {
	out := kv.NewBitmap(g.cols)
	for col := range g.cols {
		if b.Test(row*g.cols + col) {
			out.Set(col)
		}
	}
	return out
}
