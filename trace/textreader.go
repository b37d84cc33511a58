package trace

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// maxTextLine bounds a line: the longest key list of a call has some 70 MB.
const maxTextLine = 256 << 20

// TextReader reads the records of a trace in text form. It is a [Source], and
// belongs to one goroutine. The offset of a record is that of its line.
type TextReader struct {
	in     *bufio.Reader
	line   []byte // the present line, without its end; not yet taken if held
	held   bool
	end    bool
	number int   // of the present line, from 1
	at     int64 // its offset
	next   int64

	header  Header
	dropped uint64
	err     error

	record Record
	extra  Extra
	has    bool   // there is a present record
	block  []byte // its argument lines
	start  int    // number of the first of them
	spare  *kv.PrefetchSpec

	onOutcome func(*OutcomeRecord) // may be nil
}

var _ OutcomeSource = (*TextReader)(nil)

// NewTextReader reads the header of a trace in text form. It reads ahead.
func NewTextReader(in io.Reader) (*TextReader, error) {
	r := &TextReader{in: bufio.NewReaderSize(in, 64<<10)}
	if !r.read() || string(r.line) != textMagic {
		if r.err != nil {
			return nil, r.err
		}
		return nil, fmt.Errorf("no trace in text form: the first line is not %q", textMagic)
	}
	for r.read() {
		name, rest, _ := strings.Cut(string(r.line), " ")
		if name == "call" || name == "dropped" || name == "outcome" {
			r.held = true
			break
		}
		if err := r.header.parseText(name, rest); err != nil {
			return nil, r.wrong(r.number, err)
		}
	}
	return r, r.err
}

// read moves to the next line that is neither empty nor a comment (#).
func (r *TextReader) read() bool {
	if r.held {
		r.held = false
		return true
	}
	for !r.end && r.err == nil {
		r.line = r.line[:0]
		r.at = r.next
		for {
			part, err := r.in.ReadSlice('\n')
			r.line = append(r.line, part...)
			r.next += int64(len(part))
			if err == bufio.ErrBufferFull && len(r.line) <= maxTextLine {
				continue
			}
			if err == io.EOF {
				r.end = true
			} else if err != nil {
				r.err = err
			}
			break
		}
		r.number++
		r.line = bytes.TrimSuffix(r.line, []byte("\n"))
		if len(r.line) > 0 && r.line[0] != '#' {
			return r.err == nil
		}
	}
	return false
}

func (r *TextReader) wrong(line int, err error) error { return fmt.Errorf("line %d: %w", line, err) }

func (h *Header) parseText(name, rest string) error {
	t := textCursor{s: rest}
	text := func(p *string) {
		if *p != "" {
			t.fail("%s is there twice", name)
		}
		*p = t.quoted()
	}
	switch name {
	case "format":
		switch word := t.word(); word {
		case "native", "lmcache":
			h.Native = word == "native"
		default:
			t.fail("format %q", word)
		}
		t.space()
		h.FormatVersion = int(t.integer(0, math.MaxInt32))
	case "schema":
		h.SchemaVersion = int(t.integer(0, math.MaxInt32))
	case "level":
		text((*string)(&h.Level))
	case "level_meta":
		m := LevelMeta{Key: t.quoted()}
		t.space()
		m.Value = t.quoted()
		h.LevelMeta = append(h.LevelMeta, m)
	case "t_mono_start":
		h.MonoStartNS = t.seconds()
	case "t_wall_start":
		h.WallStartNS = t.seconds()
	case "config":
		text(&h.ConfigJSON)
	case "digest":
		text(&h.ConfigDigest)
	case "release":
		text(&h.Release)
	case "upstream":
		h.Upstream = t.hex(nil, math.MaxInt)
	case "pid":
		h.PID = int(t.integer(1, math.MaxUint32))
	case "host":
		text(&h.Host)
	case "build":
		text(&h.Build)
	case "ring":
		text(&h.RingPath)
	case "block_bytes":
		h.BlockBytes = t.integer(1, math.MaxInt64)
	default:
		return fmt.Errorf("%q: not a line of the header", name)
	}
	return t.done()
}

// Header returns the header. It must not be changed.
func (r *TextReader) Header() *Header { return &r.header }

// Next moves to the next record.
func (r *TextReader) Next() bool {
	r.has = false
	for r.err == nil && r.read() {
		name, rest, _ := strings.Cut(string(r.line), " ")
		t := textCursor{s: rest}
		if name == "dropped" {
			total := t.unsigned(10, math.MaxUint64)
			if err := t.done(); err != nil {
				r.err = r.wrong(r.number, err)
				return false
			}
			r.dropped = max(r.dropped, total)
			continue
		}
		if name == "outcome" {
			if err := r.outcome(&t); err != nil {
				r.err = r.wrong(r.number, err)
				return false
			}
			continue
		}
		err := fmt.Errorf("%.40q: not a call", r.line)
		if name == "call" {
			r.record = Record{Offset: r.at}
			err = r.call(&t)
		}
		if err == nil {
			err = r.lines()
		}
		if err != nil {
			r.err = r.wrong(r.number, err)
			return false
		}
		r.has = true
		return r.err == nil
	}
	return false
}

// call parses the line of a call.
func (r *TextReader) call(t *textCursor) error {
	rec := &r.record
	rec.Seq = t.unsigned(10, math.MaxUint64)
	t.space()
	rec.MonoNS = t.seconds()
	t.space()
	rec.WallNS = t.seconds()
	t.space()
	if !strings.HasPrefix(t.s, `"`) {
		name := t.word()
		if rec.Op = ParseOp(storageManager + name); rec.Op == OpUnknown {
			t.fail("unknown operation %q", name)
		}
		rec.Qualname = rec.Op.String()
		return t.done()
	}
	rec.Qualname = t.quoted()
	rec.Op = ParseOp(rec.Qualname)
	if t.s == " ?" {
		t.s = ""
		if rec.Op != OpUnknown {
			t.fail("%s: known, but not its arguments", rec.Qualname)
		}
		return t.done()
	}
	row := &Row{Op: rec.Op, Qualname: rec.Qualname}
	var seen [numArgTypes]bool
	for t.s != "" && t.err == nil {
		t.space()
		name := t.name()
		t.expect(":")
		word := t.word()
		i := slices.Index(argTypeNames[1:], word) + 1
		if i == 0 || seen[i] {
			t.fail("argument %s of type %q", name, word)
		}
		seen[i] = true
		row.Args = append(row.Args, Arg{name, ArgType(i)})
	}
	if rec.Op == OpUnknown || !slices.Equal(row.Args, rec.Op.Row().Args) {
		rec.Row = row
	}
	return t.done()
}

// OnOutcome makes Next call f with each outcome that it passes; nil ends that.
func (r *TextReader) OnOutcome(f func(*OutcomeRecord)) { r.onOutcome = f }

// outcome parses the lines of an outcome and hands it out.
func (r *TextReader) outcome(t *textCursor) error {
	o := &OutcomeRecord{Offset: r.at}
	o.Seq = t.unsigned(10, math.MaxUint64)
	t.space()
	o.MonoNS = t.seconds()
	t.space()
	o.WallNS = t.seconds()
	t.space()
	if strings.HasPrefix(t.s, `"`) {
		o.Qualname = t.quoted()
		o.Op = ParseOp(o.Qualname)
	} else if name := t.word(); t.err == nil {
		o.Op = ParseOp(storageManager + name)
		if o.Qualname = o.Op.String(); o.Op == OpUnknown {
			t.fail("unknown operation %q", name)
		}
	}
	t.expect(" duration=")
	o.DurationNS = t.seconds()
	t.expect(" failed=")
	o.Failed = t.flag()
	for t.s != "" && t.err == nil {
		t.space()
		name := t.name()
		t.expect("=")
		o.Names, o.Counts = append(o.Names, name), append(o.Counts, t.integer(0, math.MaxUint32))
	}
	if len(o.Counts) > outcomeCounts {
		t.fail("%d counts, at most %d", len(o.Counts), outcomeCounts)
	}
	if err := t.done(); err != nil {
		return err
	}
	for r.read() {
		rest, ok := strings.CutPrefix(string(r.line), "  bitmap ")
		if !ok {
			r.held = true
			break
		}
		t := textCursor{s: rest}
		b := t.bitmap()
		i := len(o.Bits)
		if t.err == nil && (i == outcomeBitmaps>>4 || i < len(o.Counts) && int64(b.Count()) != o.Counts[i]) {
			t.fail("bitmap %d has %d bits set, or is one too many", i, b.Count())
		}
		if err := t.done(); err != nil {
			return err
		}
		o.Bits = append(o.Bits, b)
	}
	if r.onOutcome != nil && r.err == nil {
		r.onOutcome(o)
	}
	return r.err
}

// lines takes the lines that belong to a call: what goes with it, then its
// arguments, which are parsed by Args.
func (r *TextReader) lines() error {
	r.block, r.extra = r.block[:0], Extra{}
	r.start = r.number + 1
	for r.read() {
		rest, ok := bytes.CutPrefix(r.line, []byte("  "))
		if !ok {
			r.held = true
			break
		}
		if len(r.block) == 0 {
			taken, err := r.extra.parseText(string(rest))
			if err != nil {
				return err
			}
			if taken {
				r.record.Extra = &r.extra
				r.start = r.number + 1
				continue
			}
		}
		if len(r.block) > 4*maxTextLine {
			return fmt.Errorf("%w: more than %d bytes of arguments", ErrTooLarge, 4*maxTextLine)
		}
		r.block = append(append(r.block, rest...), '\n')
	}
	return r.err
}

// parseText takes in a line of what goes with a call, and reports whether it is
// one.
func (x *Extra) parseText(line string) (taken bool, err error) {
	name, rest, _ := strings.Cut(line, " ")
	t := textCursor{s: rest}
	switch name {
	case "exact_t_mono":
		x.MonoS, x.HasMono = math.Float64frombits(t.unsigned(16, math.MaxUint64)), true
	case "exact_t_wall":
		x.WallS, x.HasWall = math.Float64frombits(t.unsigned(16, math.MaxUint64)), true
	case "frame":
		x.Frame = t.hex([]byte{}, math.MaxInt)
	default:
		return false, nil
	}
	return true, t.done()
}

// Record returns the present record.
func (r *TextReader) Record() Record { return r.record }

// Args parses the present record's arguments.
func (r *TextReader) Args(a *Args) error {
	if !r.has {
		return errors.New("no record: Next was not called, or returned false")
	}
	if a.Spec != nil {
		r.spare = a.Spec
	}
	*a = Args{Keys: a.Keys[:0], Raw: a.Raw[:0]}
	p := textArgs{lines: string(r.block), number: r.start - 1, budget: maxListKeys, spare: &r.spare}
	err := p.parse(r.record.Arguments(), a)
	if _, written := err.(writtenError); err == nil || written {
		return err
	}
	return r.wrong(p.number, err)
}

// writtenError is what the text says of a record without arguments.
type writtenError string

func (e writtenError) Error() string { return string(e) }

// Dropped returns how many calls were lost before the present record.
func (r *TextReader) Dropped() uint64 { return r.dropped }

// Err returns what ended the reading too early.
func (r *TextReader) Err() error { return r.err }

// Close does nothing: the reader that it reads from is the caller's.
func (r *TextReader) Close() error { return nil }

// textArgs parses the argument lines of a call. Their first two spaces are gone.
type textArgs struct {
	lines  string // not yet taken
	number int    // of the present line
	budget int    // keys that the call may still have
	spare  **kv.PrefetchSpec
}

// line takes the next line, if it begins with prefix, without that.
func (p *textArgs) line(prefix string) (rest string, ok bool) {
	line, after, _ := strings.Cut(p.lines, "\n")
	rest, ok = strings.CutPrefix(line, prefix)
	if p.lines == "" || !ok {
		return "", false
	}
	p.lines = after
	p.number++
	return rest, true
}

func (p *textArgs) parse(args []Arg, a *Args) error {
	if rest, ok := p.line("error "); ok {
		t := textCursor{s: rest}
		text := t.quoted()
		if err := t.done(); err != nil {
			return err
		}
		return writtenError(text)
	}
	for _, arg := range args {
		name := string(appendName(nil, arg.Name))
		rest, ok := p.line(name)
		if !ok {
			p.number++
			return fmt.Errorf("argument %s is missing", name)
		}
		t := textCursor{s: rest}
		if err := p.argument(&t, arg.Type, a); err != nil {
			return fmt.Errorf("argument %s: %w", name, err)
		}
	}
	if _, ok := p.line(""); ok {
		return errors.New("one argument too many")
	}
	return nil
}

func (p *textArgs) argument(t *textCursor, typ ArgType, a *Args) (err error) {
	if typ == ArgKeys {
		a.Keys, err = p.keys(t, "+", a.Keys[:0])
		return err
	}
	t.space()
	switch typ {
	case ArgLayout:
		a.Layout = t.layout()
	case ArgMode:
		a.Mode = oneOf(t, kv.ParseWriteMode)
	case ArgSpec:
		if t.s == "-" {
			return nil
		}
		if a.Spec = *p.spare; a.Spec == nil {
			a.Spec = new(kv.PrefetchSpec)
		}
		*p.spare = nil
		return p.spec(t, a.Spec)
	case ArgText:
		a.Text = t.quoted()
	case ArgFlag:
		a.Flag = t.flag()
	case ArgCount:
		a.Count = t.integer(math.MinInt64, math.MaxInt64)
	case ArgRaw:
		a.Raw = t.hex(a.Raw[:0], math.MaxInt)
	}
	return t.done()
}

func (p *textArgs) spec(t *textCursor, s *kv.PrefetchSpec) (err error) {
	groups := s.Groups[:0]
	*s = kv.PrefetchSpec{}
	t.expect("policy=")
	s.Policy = oneOf(t, kv.ParseFetchPolicy)
	t.expect(" lock=")
	s.Lock = oneOf(t, kv.ParseLockMode)
	t.expect(" readers=")
	s.Readers = int32(t.integer(math.MinInt32, math.MaxInt32))
	t.expect(" flat=")
	s.Flat = t.flag()
	t.expect(" groups=")
	n := int(t.integer(0, maxListKeys))
	if err := t.done(); err != nil {
		return err
	}
	if s.L1Tags, err = p.tags("  l1_tags"); err != nil {
		return err
	}
	if s.L2Tags, err = p.tags("  l2_tags"); err != nil {
		return err
	}
	for i := range n {
		rest, ok := p.line("  group=")
		if !ok {
			return fmt.Errorf("%d groups, not %d", i, n)
		}
		g := kv.KeyGroup{}
		if i < cap(groups) {
			g.Keys = groups[: i+1 : cap(groups)][i].Keys[:0]
		}
		t := textCursor{s: rest}
		g.Group = uint32(t.unsigned(10, math.MaxUint32))
		t.expect(" window=")
		g.Window = int32(t.integer(math.MinInt32, math.MaxInt32))
		t.expect(" layout=")
		g.Layout = t.layout()
		if err := t.done(); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
		if rest, ok = p.line("    keys"); !ok {
			return fmt.Errorf("group %d has no keys", i)
		}
		if g.Keys, err = p.keys(&textCursor{s: rest}, "    +", g.Keys); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
		groups = append(groups, g)
	}
	s.Groups = groups
	return nil
}

func (p *textArgs) tags(name string) ([]kv.MemoryTag, error) {
	rest, ok := p.line(name)
	if !ok {
		return nil, nil
	}
	tags := []kv.MemoryTag{}
	t := textCursor{s: rest}
	for t.s != "" && t.err == nil {
		t.space()
		segment := t.quoted()
		t.expect("/")
		tags = append(tags, kv.MemoryTag{Segment: segment, Residency: t.quoted()})
	}
	return tags, t.done()
}

// keys parses a key list, whose further segments are lines that begin with more.
func (p *textArgs) keys(t *textCursor, more string, dst []kv.ObjectKey) ([]kv.ObjectKey, error) {
	if t.s == "" {
		return dst, nil
	}
	for {
		var pattern []kv.ObjectKey
		for t.err == nil && strings.HasPrefix(t.s, " ") && len(pattern) < maxPattern {
			t.space()
			pattern = append(pattern, t.context())
		}
		t.expect(":")
		if t.err == nil && (len(pattern) == 0 || t.s == "") {
			t.fail("a segment without contexts or hashes")
		}
		for t.s != "" && t.err == nil {
			t.space()
			var hash [kv.MaxHash]byte
			h := t.hex(hash[:0], kv.MaxHash)
			if p.budget -= len(pattern); p.budget < 0 {
				return dst, fmt.Errorf("%w: more than %d keys", ErrTooLarge, maxListKeys)
			}
			for _, k := range pattern {
				k.HashLen = uint8(copy(k.Hash[:], h))
				dst = append(dst, k)
			}
		}
		if err := t.done(); err != nil {
			return dst, err
		}
		rest, ok := p.line(more)
		if !ok {
			return dst, nil
		}
		t = &textCursor{s: rest}
	}
}

// textCursor takes values from the front of a line. The first failure sticks.
type textCursor struct {
	s   string
	err error
}

func (t *textCursor) fail(format string, args ...any) {
	if t.err == nil {
		t.err = fmt.Errorf(format, args...)
	}
	t.s = ""
}

func (t *textCursor) done() error {
	if t.s != "" {
		t.fail("%.40q left over", t.s)
	}
	return t.err
}

func (t *textCursor) expect(s string) {
	rest, ok := strings.CutPrefix(t.s, s)
	if !ok {
		t.fail("%q expected before %.40q", s, t.s)
		return
	}
	t.s = rest
}

func (t *textCursor) space() { t.expect(" ") }

// word takes what is before the next space.
func (t *textCursor) word() string {
	word := t.s
	if i := strings.IndexByte(word, ' '); i >= 0 {
		word = word[:i]
	}
	t.s = t.s[len(word):]
	return word
}

// bitmap takes a number of bits and the bits, lowest first.
func (t *textCursor) bitmap() kv.Bitmap {
	n := int(t.integer(0, maxListKeys))
	t.space()
	raw := t.hex(nil, (maxListKeys+7)/8)
	if t.err == nil && (len(raw) != (n+7)/8 || n%8 != 0 && raw[len(raw)-1]>>(n%8) != 0) {
		t.fail("%d bytes for %d bits, or a bit behind the last", len(raw), n)
	}
	if t.err != nil {
		return kv.Bitmap{}
	}
	words := make([]uint64, (n+63)/64)
	for i, v := range raw {
		words[i/8] |= uint64(v) << (i % 8 * 8)
	}
	return kv.BitmapOf(words, n)
}

// name takes the name of an argument or a count.
func (t *textCursor) name() string {
	if strings.HasPrefix(t.s, `"`) {
		return t.quoted()
	}
	word := t.s[:len(t.s)-len(strings.TrimLeft(t.s, wordBytes))]
	if word == "" {
		t.fail("%.40q is no name", word)
		return ""
	}
	t.s = t.s[len(word):]
	return word
}

func (t *textCursor) quoted() string {
	if strings.HasPrefix(t.s, `"`) {
		if q, err := strconv.QuotedPrefix(t.s); err == nil {
			if v, err := strconv.Unquote(q); err == nil {
				t.s = t.s[len(q):]
				return v
			}
		}
	}
	t.fail("a text in quotes expected before %.40q", t.s)
	return ""
}

// unsigned takes the digits that are there.
func (t *textCursor) unsigned(base int, most uint64) uint64 {
	n := 0
	for n < len(t.s) && (t.s[n] >= '0' && t.s[n] <= '9' || base == 16 && t.s[n] >= 'a' && t.s[n] <= 'f') {
		n++
	}
	v, err := strconv.ParseUint(t.s[:n], base, 64)
	if err != nil || v > most {
		t.fail("%.40q is no number from 0 to %d", t.s, most)
		return 0
	}
	t.s = t.s[n:]
	return v
}

func (t *textCursor) integer(least, most int64) int64 {
	word := t.word()
	v, err := strconv.ParseInt(word, 10, 64)
	if err != nil || v < least || v > most {
		t.fail("%.40q is no number from %d to %d", word, least, most)
	}
	return v
}

// seconds takes a time with nine digits behind the point.
func (t *textCursor) seconds() int64 {
	word := t.word()
	digits, negative := strings.CutPrefix(word, "-")
	whole, frac, _ := strings.Cut(digits, ".")
	const limit = 1 << 63
	w, err := strconv.ParseUint(whole, 10, 64)
	f, fracErr := strconv.ParseUint(frac, 10, 64)
	if err != nil || fracErr != nil || len(frac) != 9 || w > limit/1_000_000_000 {
		t.fail("%.40q is no time in seconds with nine digits behind the point", word)
		return 0
	}
	u := w*1e9 + f
	if u > limit || u == limit && !negative {
		t.fail("time %.40q is out of range", word)
	}
	if negative {
		u = -u
	}
	return int64(u)
}

// hex takes bytes and appends them to dst.
func (t *textCursor) hex(dst []byte, most int) []byte {
	word := t.word()
	if word == "-" {
		return dst
	}
	v, err := hex.AppendDecode(dst, []byte(word))
	if err != nil || len(word) == 0 || len(v)-len(dst) > most {
		t.fail("%.40q are no bytes in hex, or more than %d", word, most)
		return dst
	}
	return v
}

func (t *textCursor) flag() bool {
	switch word := t.word(); word {
	case "true":
		return true
	case "false":
	default:
		t.fail("%.40q is neither true nor false", word)
	}
	return false
}

func (t *textCursor) layout() kv.Layout {
	word := t.word()
	if word == "-" {
		return 0
	}
	if word == "" {
		t.fail("no layout")
		return 0
	}
	l, err := kv.ParseLayout(word)
	if err != nil {
		t.fail("%w", err)
	}
	return l
}

// context takes what a key has beside its hash.
func (t *textCursor) context() (k kv.ObjectKey) {
	model := t.quoted()
	t.expect("@")
	k.Rank = t.unsigned(16, math.MaxUint64)
	t.expect("@")
	k.Group = uint32(t.unsigned(10, math.MaxUint32))
	salt := ""
	if strings.HasPrefix(t.s, "@") {
		t.expect("@")
		salt = t.quoted()
	}
	scope, err := kv.InternScope(model, salt)
	if err != nil {
		t.fail("%w", err)
	}
	k.Scope = scope
	return k
}

// oneOf takes a word that parse knows.
func oneOf[V any](t *textCursor, parse func(string) (V, bool)) V {
	word := t.word()
	v, ok := parse(word)
	if !ok {
		t.fail("unknown value %.40q", word)
	}
	return v
}
