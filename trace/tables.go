package trace

import (
	"fmt"
	"slices"

	"github.com/lmcache/lmcache-go/kv"
)

// tables hold what the block that a reader is in has defined so far. A node
// costs its hash and four bytes here, a run of them 32.
type tables struct {
	valid bool // the block's start was read
	start blockStart

	opsLow   [64]*opDefinition        // by id; nil where not defined
	ops      map[uint16]*opDefinition // those from 64 on
	scopes   []scopeDefinition        // index = id; 0 is the zero scope
	layouts  []layoutDefinition       // likewise
	patterns [][]kv.ObjectKey         // index = id; keys without a hash; nil where lost
	runs     []nodeRun                // 0 is no run
	runOf    []uint32                 // index = node; 0 where lost, and for node 0
	hashes   []byte                   // of all nodes

	// lost is how many bytes of the block a reader skipped as damaged: at most
	// as many nodes and definitions can be missing. 0 in a sound file.
	lost int64
}

type opDefinition struct {
	op       Op // OpUnknown if this build does not know it
	qualname string
	args     []argDefinition
	row      *Row     // what the arguments are, if not as in the schema
	counts   []string // what its outcomes count
	err      error    // why arguments cannot be had
}

type argDefinition struct {
	name string
	typ  ArgType
}

// scopeDefinition and layoutDefinition keep why a value is refused: only the
// records that refer to it suffer.
type scopeDefinition struct {
	scope kv.Scope
	err   error
}

type layoutDefinition struct {
	layout kv.Layout
	err    error
}

type nodeRun struct {
	offset int64 // of the hash of first, in hashes
	parent uint32
	first  uint32
	size   uint8
}

// reset begins the block that start describes.
func (t *tables) reset(start blockStart) {
	t.opsLow, t.ops = [64]*opDefinition{}, nil
	t.valid, t.start, t.lost = true, start, 0
	t.scopes = append(t.scopes[:0], scopeDefinition{})
	t.layouts = append(t.layouts[:0], layoutDefinition{})
	clear(t.patterns)
	t.patterns = append(t.patterns[:0], nil)
	t.runs = append(t.runs[:0], nodeRun{})
	t.runOf = append(t.runOf[:0], 0)
	t.hashes = t.hashes[:0]
}

// op returns the definition of an operation, nil if there is none.
func (t *tables) op(id uint16) *opDefinition {
	if int(id) < len(t.opsLow) {
		return t.opsLow[id]
	}
	return t.ops[id]
}

// define takes in a definition frame.
func (t *tables) define(h *frameHeader, payload []byte) error {
	c := &cursor{b: payload}
	if h.kind == kindOp {
		return t.defineOp(h.op, c)
	}
	id := c.uv()
	if c.err != nil {
		return c.err
	}
	switch h.kind {
	case kindScope:
		return define(t, &t.scopes, id, scopeDefinition{err: ErrUndefined}, func() (d scopeDefinition) {
			model, salt := c.str(), c.str()
			d.scope, d.err = kv.InternScope(string(model), string(salt))
			return d
		}, c)
	case kindLayout:
		return define(t, &t.layouts, id, layoutDefinition{err: ErrUndefined}, func() (d layoutDefinition) {
			d.layout, d.err = parseLayout(c)
			return d
		}, c)
	default:
		return define(t, &t.patterns, id, nil, func() []kv.ObjectKey { return t.parsePattern(c) }, c)
	}
}

// define stores the value that parse takes from c as the next one of list. In a
// block with damage ids may be missing; they get the value missing.
func define[V any](t *tables, list *[]V, id uint64, missing V, parse func() V, c *cursor) error {
	if gap := id - uint64(len(*list)); id < uint64(len(*list)) || gap > uint64(t.lost/frameHeaderSize) { // a frame each
		return fmt.Errorf("id %d, expected %d", id, len(*list))
	}
	v := parse()
	if err := c.end(); err != nil {
		return err
	}
	for uint64(len(*list)) < id {
		*list = append(*list, missing)
	}
	*list = append(*list, v)
	return nil
}

func (t *tables) defineOp(id uint16, c *cursor) error {
	if t.op(id) != nil {
		return fmt.Errorf("operation %d is defined twice", id)
	}
	d := &opDefinition{qualname: string(c.str())}
	for range c.count(2) {
		name, typ := string(c.str()), string(c.str())
		i := slices.Index(argTypeNames[1:], typ) + 1
		if i == 0 && d.err == nil {
			d.err = fmt.Errorf("argument %s has type %q, which this build does not know", name, typ)
		}
		d.args = append(d.args, argDefinition{name, ArgType(i)})
	}
	if len(c.b) > 0 {
		n := c.count(1)
		if n > outcomeCounts {
			return fmt.Errorf("operation %d with %d counts", id, n)
		}
		for range n {
			d.counts = append(d.counts, string(c.str()))
		}
	}
	if err := c.end(); err != nil {
		return err
	}
	if d.op = ParseOp(d.qualname); d.op != OpUnknown {
		d.qualname = d.op.String() // one string for all blocks
	}
	for i, a := range d.args {
		if d.err == nil && slices.ContainsFunc(d.args[:i], func(b argDefinition) bool { return a.typ == b.typ }) {
			d.err = fmt.Errorf("two arguments of type %v", a.typ)
		}
	}
	if d.err == nil && (d.op == OpUnknown || !slices.EqualFunc(d.args, d.op.Row().Args, func(a argDefinition, b Arg) bool { return a.name == b.Name && a.typ == b.Type })) {
		d.row = &Row{Op: d.op, Qualname: d.qualname}
		for _, a := range d.args {
			d.row.Args = append(d.row.Args, Arg{a.name, a.typ})
		}
	}
	if int(id) < len(t.opsLow) {
		t.opsLow[id] = d
		return nil
	}
	if t.ops == nil {
		t.ops = map[uint16]*opDefinition{}
	}
	t.ops[id] = d
	return nil
}

func parseLayout(c *cursor) (kv.Layout, error) {
	var d kv.LayoutDesc
	var refused error
	for range c.count(2) {
		name := string(c.str())
		t, ok := kv.ParseDType(name)
		if !ok && refused == nil {
			refused = fmt.Errorf("%w: unknown dtype %q", kv.ErrLayout, name)
		}
		shape := make([]int64, c.count(1))
		for i := range shape {
			shape[i] = int64(c.uv())
		}
		d.Shapes, d.DTypes = append(d.Shapes, shape), append(d.DTypes, t)
	}
	if refused != nil || c.err != nil {
		return 0, refused
	}
	return kv.InternLayout(d)
}

// parsePattern returns the contexts as keys without a hash. A context whose
// scope is refused or lost makes the whole pattern so: nil.
func (t *tables) parsePattern(c *cursor) []kv.ObjectKey {
	n := c.count(3)
	if n < 1 || n > maxPattern {
		c.fail(fmt.Errorf("pattern of %d contexts", n))
		return nil
	}
	p := make([]kv.ObjectKey, n)
	whole := true
	for i := range p {
		scope, rank, group := c.uv(), c.uv(), c.uv()
		if group > 1<<32-1 {
			c.fail(fmt.Errorf("object group %d", group))
		}
		if scope >= uint64(len(t.scopes)) || t.scopes[scope].err != nil {
			if scope >= uint64(len(t.scopes))+uint64(t.lost) {
				c.fail(fmt.Errorf("scope %d: %w", scope, ErrUndefined))
			}
			whole = false
			continue
		}
		p[i] = kv.ObjectKey{Scope: t.scopes[scope].scope, Rank: rank, Group: uint32(group)}
	}
	if !whole {
		return nil
	}
	return p
}

// addNodes takes in the nodes part of a call, all of it or nothing.
func (t *tables) addNodes(c *cursor) error {
	nodes, runs, hashes := len(t.runOf), len(t.runs), len(t.hashes)
	err := t.parseNodes(c)
	if err != nil {
		t.runOf, t.runs, t.hashes = t.runOf[:nodes], t.runs[:runs], t.hashes[:hashes]
	}
	return err
}

func (t *tables) parseNodes(c *cursor) error {
	first := c.uv()
	if c.err != nil {
		return c.err
	}
	next := uint64(len(t.runOf))
	if first < next || first-next > uint64(t.lost) {
		return fmt.Errorf("first node %d, expected %d", first, next)
	}
	for next < first {
		t.runOf = append(t.runOf, 0)
		next++
	}
	runs := c.count(3)
	if runs == 0 && c.err == nil {
		return fmt.Errorf("no nodes")
	}
	for range runs {
		parent, n, size := c.uv(), c.uv(), uint64(c.u8())
		if c.err != nil {
			return c.err
		}
		if size > kv.MaxHash || n == 0 || (size == 0 && n > 1) || n > uint64(len(c.b)) && n > 1 {
			return fmt.Errorf("%d nodes with hashes of %d bytes", n, size)
		}
		if parent >= next {
			return fmt.Errorf("node %d has parent %d", next, parent)
		}
		at := int64(len(t.hashes))
		t.hashes = append(t.hashes, c.bytes(n*size)...)
		if c.err != nil {
			return c.err
		}
		if next+n > 1<<32-1 {
			return fmt.Errorf("node %d", next+n)
		}
		id := uint32(len(t.runs))
		t.runs = append(t.runs, nodeRun{offset: at, parent: uint32(parent), first: uint32(next), size: uint8(size)})
		for range n {
			t.runOf = append(t.runOf, id)
		}
		next += n
	}
	return c.err
}
