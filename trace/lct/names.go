package lct

import "github.com/lmcache/lmcache-go/trace"

// opName is a qualified name that the file holds.
type opName struct {
	text  string
	op    trace.Op
	count int64 // used by Summarize only
	row   *trace.Row
}

// foreign returns the row of an operation that is not in the schema: its
// arguments are what upstream encoded.
func (n *opName) foreign() *trace.Row {
	if n.row == nil {
		n.row = &trace.Row{Qualname: n.text, Args: []trace.Arg{{Name: "args", Type: trace.ArgRaw}}}
	}
	return n.row
}

// nameTable finds the names of a file again without allocating. It holds what
// the file holds: its size is bounded by the file's.
type nameTable struct {
	byText map[string]*opName
	last   [2]*opName // of the last two different names
}

// find returns the entry of a name.
func (t *nameTable) find(text []byte) *opName {
	for _, n := range t.last {
		if n != nil && n.text == string(text) {
			return n
		}
	}
	n := t.byText[string(text)]
	if n == nil {
		s := string(text)
		n = &opName{text: s, op: trace.ParseOp(s)}
		if n.op.Row().Ours { // what LMCache would write there, nobody knows
			n.op = trace.OpUnknown
		}
		if n.op != trace.OpUnknown {
			n.text = n.op.String()
		}
		if t.byText == nil {
			t.byText = map[string]*opName{}
		}
		t.byText[n.text] = n
	}
	t.last[0], t.last[1] = n, t.last[0]
	return n
}
