package trace

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

// MaxCounts and MaxOutcomeBits bound what an outcome of this build's operations
// says; FORMAT.md 4.9 allows more.
const (
	MaxCounts      = 4
	MaxOutcomeBits = 2
)

// Outcome says what came of a call.
type Outcome struct {
	Failed bool // the call returned an error
	// Counts are numbers of keys, in the order of the operation's Row.Counts.
	Counts [MaxCounts]uint32
	// Bits[i] has one bit a key, in the order of the arguments (a prefetch:
	// group after group): whether Counts[i] counted it. The zero value says
	// nothing.
	Bits [MaxOutcomeBits]Bits
}

// Bits is a bitmap whose memory is its maker's: bit i is bit i%64 of Words[i/64].
type Bits struct {
	Words []uint64 // (N+63)/64 of them; what is behind bit N is 0
	N     int
}

// OutcomeRecord is an outcome as a file has it.
type OutcomeRecord struct {
	Op         Op     // of the call
	Qualname   string // of the call
	Seq        uint64 // of the call
	MonoNS     int64  // when the call ended, since Header.MonoStartNS
	WallNS     int64  // likewise, Unix time
	DurationNS int64  // from the call's entry
	Offset     int64  // of the frame
	Failed     bool
	Names      []string    // of the counts, as the file has them
	Counts     []int64     // one a name
	Bits       []kv.Bitmap // Bits[i] says which keys Counts[i] counted; there may be fewer
}

// OutcomeSource is a Source whose file may hold outcomes.
type OutcomeSource interface {
	Source
	// OnOutcome makes Next call f with each outcome that it passes, in file
	// order: an outcome stands behind its call, at any distance. What f gets is
	// valid until it returns. Without f outcomes are passed over unread.
	OnOutcome(f func(*OutcomeRecord))
}

// OutcomeTotal adds up the outcomes of one operation.
type OutcomeTotal struct {
	Qualname   string
	Outcomes   int64
	Failed     int64 // of these, of calls that returned an error
	DurationNS int64
	Counts     []NamedCount
}

// NamedCount is one of an operation's counts.
type NamedCount struct {
	Name string
	Keys int64
}

// Add adds what o says.
func (t *OutcomeTotal) Add(o *OutcomeRecord) {
	t.Outcomes++
	if o.Failed {
		t.Failed++
	}
	t.DurationNS += o.DurationNS
	for i, n := range o.Counts {
		t.add(i, o.Names[i], n)
	}
}

// add adds n to the count of that name, which is likely the i-th.
func (t *OutcomeTotal) add(i int, name string, n int64) {
	if i >= len(t.Counts) || t.Counts[i].Name != name {
		if i = slices.IndexFunc(t.Counts, func(c NamedCount) bool { return c.Name == name }); i < 0 {
			i = len(t.Counts)
			t.Counts = append(t.Counts, NamedCount{Name: name})
		}
	}
	t.Counts[i].Keys += n
}

func sortOutcomes(totals []OutcomeTotal) {
	slices.SortFunc(totals, func(a, b OutcomeTotal) int { return strings.Compare(a.Qualname, b.Qualname) })
}

// FORMAT.md 4.9: the byte between the duration and the counts.
const (
	outcomeCounts  = 15
	outcomeBitmaps = 7 << 4
	outcomeFailed  = 1 << 7

	maxRuns = 64 // that a writer uses for a bitmap
)

// checkOutcome reports what of o is not as row says.
func checkOutcome(row *Row, o *Outcome) error {
	for i, n := range o.Counts {
		if n > 0 && i >= len(row.Counts) {
			return fmt.Errorf("count %d of an operation with %d", i, len(row.Counts))
		}
	}
	for i := range o.Bits {
		b := &o.Bits[i]
		if b.N < 0 || b.N > maxListKeys || len(b.Words) != (b.N+63)/64 {
			return fmt.Errorf("bitmap of %d bits in %d words", b.N, len(b.Words))
		}
		if b.N%64 != 0 && b.Words[len(b.Words)-1]>>(b.N%64) != 0 {
			return fmt.Errorf("bitmap of %d bits with a bit behind", b.N)
		}
	}
	return nil
}

// append appends the payload of an outcome frame: what follows the sequence
// number.
func (o *Outcome) append(b []byte, row *Row, durationNS int64) []byte {
	b = binary.AppendUvarint(b, uint64(max(durationNS, 0)))
	bitmaps := 0
	for i := range o.Bits {
		if o.Bits[i].N > 0 {
			bitmaps = i + 1
		}
	}
	shape := byte(len(row.Counts)) | byte(bitmaps)<<4
	if o.Failed {
		shape |= outcomeFailed
	}
	b = append(b, shape)
	for i := range row.Counts {
		b = binary.AppendUvarint(b, uint64(o.Counts[i]))
	}
	for i := range bitmaps {
		b = o.Bits[i].append(b)
	}
	return b
}

// append appends the bitmap in the shorter of its two forms.
func (s *Bits) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.N))
	raw := (s.N + 7) / 8
	var runs [maxRuns]int
	n, size := 0, 1
	for at, set := 0, true; at < s.N; set = !set {
		end := s.run(at, set)
		if end == s.N && n > 0 {
			break // the rest goes without saying
		}
		if n == maxRuns {
			size = raw + 2
			break
		}
		runs[n] = end - at
		size += uvarintLen(uint64(end - at))
		n++
		at = end
	}
	if n == 1 && runs[0] == 0 {
		n, size = 0, 1 // no bit at all
	}
	if size > raw+1 {
		b = append(b, 0)
		for i := range raw {
			b = append(b, byte(s.Words[i/8]>>(i%8*8)))
		}
		return b
	}
	b = binary.AppendUvarint(b, uint64(n)+1)
	for _, length := range runs[:n] {
		b = binary.AppendUvarint(b, uint64(length))
	}
	return b
}

// run returns the end of the bits from at on that are as set says.
func (s *Bits) run(at int, set bool) int {
	for at < s.N {
		w := s.Words[at/64]
		if set {
			w = ^w
		}
		if w >>= at % 64; w != 0 {
			return min(at+bits.TrailingZeros64(w), s.N)
		}
		at = (at/64 + 1) * 64
	}
	return s.N
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// outcomeDecoder reads outcome frames into the memory of the one before.
type outcomeDecoder struct {
	out   OutcomeRecord
	words [outcomeBitmaps >> 4][]uint64
}

// decode reads what follows the sequence number, under the definition def.
func (d *outcomeDecoder) decode(c *cursor, def *opDefinition) error {
	o := &d.out
	o.Op, o.Qualname, o.Names = def.op, def.qualname, def.counts
	duration := c.uv()
	shape := c.u8()
	if c.err != nil {
		return c.err
	}
	if duration > 1<<63-1 {
		return fmt.Errorf("duration %d", duration)
	}
	if n := int(shape & outcomeCounts); n != len(def.counts) {
		return fmt.Errorf("%d counts of an operation with %d", n, len(def.counts))
	}
	o.DurationNS, o.Failed = int64(duration), shape&outcomeFailed != 0
	o.Counts, o.Bits = o.Counts[:0], o.Bits[:0]
	for range def.counts {
		n := c.uv()
		if n > 1<<32-1 {
			return fmt.Errorf("count of %d keys", n)
		}
		o.Counts = append(o.Counts, int64(n))
	}
	for i := range int(shape&outcomeBitmaps) >> 4 {
		b, err := d.bitmap(c, i)
		if err != nil {
			return fmt.Errorf("bitmap %d: %w", i, err)
		}
		if i < len(o.Counts) && int64(b.Count()) != o.Counts[i] {
			return fmt.Errorf("bitmap %d has %d bits set, the count is %d", i, b.Count(), o.Counts[i])
		}
		o.Bits = append(o.Bits, b)
	}
	return c.end()
}

func (d *outcomeDecoder) bitmap(c *cursor, i int) (kv.Bitmap, error) {
	n, form := c.uv(), c.uv()
	if c.err != nil {
		return kv.Bitmap{}, c.err
	}
	if n > maxListKeys {
		return kv.Bitmap{}, fmt.Errorf("%d bits", n)
	}
	words := slices.Grow(d.words[i][:0], int(n+63)/64)[:(n+63)/64]
	d.words[i] = words
	clear(words)
	b := kv.BitmapOf(words, int(n))
	if form == 0 {
		raw := c.bytes((n + 7) / 8)
		if c.err != nil {
			return b, c.err
		}
		for j, v := range raw {
			words[j/8] |= uint64(v) << (j % 8 * 8)
		}
		if n%64 != 0 && words[n/64]>>(n%64) != 0 {
			return b, fmt.Errorf("a bit behind the last")
		}
		return b, nil
	}
	if form-1 > uint64(len(c.b)) {
		return b, fmt.Errorf("%d runs in %d bytes", form-1, len(c.b))
	}
	at := uint64(0)
	for j := range form - 1 {
		length := c.uv()
		if c.err != nil {
			return b, c.err
		}
		if length > n-at || length == 0 && j > 0 {
			return b, fmt.Errorf("run of %d of the last %d bits", length, n-at)
		}
		if j%2 == 0 {
			setRun(words, at, at+length)
		}
		at += length
	}
	if form > 1 && form%2 == 1 {
		setRun(words, at, n)
	}
	return b, nil
}

// setRun sets bits [from, to).
func setRun(words []uint64, from, to uint64) {
	for from < to {
		end := min(to, (from/64+1)*64)
		words[from/64] |= ^uint64(0) >> (64 - (end - from)) << (from % 64)
		from = end
	}
}
