package trace

import "fmt"

// foreignOps are the operations of a file that are not in the schema, by
// signature: name and arguments.
type foreignOps map[string]*foreignOp

type foreignOp struct {
	row     Row
	id      uint16
	records uint64
	defined bool // in the present block
}

// maxForeign bounds the operations of one file: their numbers have 16 bits.
const maxForeign = 1<<16 - int(numOps)

// foreignOp returns the entry of row, which is not one of the schema.
func (w *writer) foreignOp(row *Row) (*foreignOp, error) {
	key := w.patternKey[:0]
	key = append(key, row.Qualname...)
	for _, arg := range row.Args {
		key = append(append(append(key, 0), arg.Name...), byte(arg.Type))
	}
	w.patternKey = key
	if f := w.foreign[string(key)]; f != nil {
		return f, nil
	}
	if len(w.foreign) == maxForeign {
		return nil, fmt.Errorf("%w: more than %d operations", ErrTooLarge, maxForeign)
	}
	if len(row.Qualname) > maxPayload/2 {
		return nil, fmt.Errorf("%w: operation name of %d bytes", ErrTooLarge, len(row.Qualname))
	}
	if w.foreign == nil {
		w.foreign = foreignOps{}
	}
	f := &foreignOp{row: *row, id: uint16(int(numOps) + len(w.foreign))}
	w.foreign[string(key)] = f
	return f, nil
}

// foreignOperation returns the file's number of f.
func (w *writer) foreignOperation(f *foreignOp) (uint16, error) {
	if f.defined {
		return f.id, nil
	}
	f.defined = true
	return f.id, w.defineOp(f.id, &f.row)
}

// appendCounts appends the records of each operation, added to those of its name
// that counts has already.
func (ops foreignOps) appendCounts(counts []OpCount) []OpCount {
	index := map[string]int{}
	for i, c := range counts {
		index[c.Qualname] = i
	}
	for _, f := range ops {
		i, ok := index[f.row.Qualname]
		if !ok {
			i = len(counts)
			index[f.row.Qualname] = i
			counts = append(counts, OpCount{Qualname: f.row.Qualname})
		}
		counts[i].Count += int64(f.records)
	}
	return counts
}
