package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/mmapio"
)

// appendFile is the output of a writer: a file that grows at its end.
type appendFile interface {
	// Head returns the file's first bytes, of the size that its creator chose
	// (headSize says what a header needs), valid until Close. The first Next is
	// at offset len(Head()).
	Head() []byte
	// Next returns the n bytes at Offset, zero and 8-aligned; n is a multiple of
	// 8. They are valid until the following Next, and the file ends before them
	// until Publish.
	Next(n int) ([]byte, error)
	// Publish stores word in the first four bytes of what Next returned, after
	// all that was written there, and advances Offset behind it.
	Publish(word uint32)
	Offset() int64
	Sync() error
	// Close cuts the file at Offset.
	Close() error
}

// DefaultBlockBytes is the block size of recordings; FORMAT.md, section 7, says
// why.
const DefaultBlockBytes = 64 << 20

const (
	minBlockBytes = 4096
	maxBlockBytes = 1 << 30
)

// writerOptions configures newWriter.
type writerOptions struct {
	BlockBytes int64 // size from which on a new block starts; DefaultBlockBytes if zero
}

func (o writerOptions) withDefaults() (writerOptions, error) {
	if o.BlockBytes == 0 {
		o.BlockBytes = DefaultBlockBytes
	}
	if o.BlockBytes < minBlockBytes || o.BlockBytes > maxBlockBytes {
		return o, fmt.Errorf("block size %d is not within %d and %d bytes", o.BlockBytes, minBlockBytes, maxBlockBytes)
	}
	return o, nil
}

// bytesPerNode is how many bytes of a block allow for one node: with hashes of
// 32 bytes it is the frames that fill a block first, with shorter ones this
// bounds the interner's memory all the same.
const bytesPerNode = kv.MaxHash

// frameStart is where the payload begins in a buffer that a frame is built in:
// the header without the checksum, so that one call hashes it all.
const frameStart = 24

// dropRangesMax bounds the drop ranges in the footer.
const dropRangesMax = 4096

// writer encodes calls into a native trace file. It belongs to one goroutine.
//
// A call that cannot be written leaves no trace in the file: what it interned is
// forgotten by starting a new block, so the next call may succeed (when there is
// room on the disk again).
type writer struct {
	f        appendFile
	opt      writerOptions
	maxNodes int

	counters     counters
	ops          [numOps]uint64
	foreign      foreignOps
	minMono      int64
	drops        []DropRange
	blocks       []blockEntry
	outcomes     [numOps]OutcomeTotal
	lostOutcomes uint64
	drift        clockDrift
	unnoticed    uint64 // calls given up, where there was no room to say so
	closed       bool

	// The present block.
	restart     bool // begin a new one before the next frame
	chains      interner
	scopes      map[kv.Scope]uint32
	layouts     map[kv.Layout]uint32
	single      map[keyContext]uint32 // patterns of one context
	grids       map[string]uint32     // patterns of several, by their contexts' bytes
	patterns    uint32                // defined so far
	lastContext keyContext            // of the single pattern used last
	lastPattern uint32                // 0 = none
	opsDefined  [numOps]bool

	// The present call.
	monoNS, wallNS int64

	call, args, defs, patternKey []byte // scratch
}

// blockEntry is the footer's index entry of a block.
type blockEntry struct {
	offset   int64
	monoNS   int64
	firstSeq uint64
	records  uint64
	// Times of its records; 0 without any.
	minMonoNS, maxMonoNS int64
}

// newWriter writes the header h to f and returns a writer for its calls. The
// writer owns f from then on.
func newWriter(f appendFile, h *Header, opt writerOptions) (*writer, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := putHeader(f.Head(), h, opt.BlockBytes); err != nil {
		return nil, fmt.Errorf("write trace header: %w", err)
	}
	w := &writer{
		f: f, opt: opt,
		maxNodes: int(opt.BlockBytes / bytesPerNode),
		restart:  true,
		scopes:   map[kv.Scope]uint32{},
		layouts:  map[kv.Layout]uint32{},
		single:   map[keyContext]uint32{},
		grids:    map[string]uint32{},
		call:     make([]byte, frameStart, 4096),
		args:     make([]byte, 0, 4096),
		defs:     make([]byte, frameStart, 1024),
	}
	w.flush()
	return w, nil
}

// Call appends the call of op with sequence number seq, which was entered at
// monoNS since the header's start and at the Unix time wallNS. It copies a. An
// error concerns this call alone; it wraps ErrTooLarge for a call beyond the
// format's limits.
func (w *writer) Call(op Op, seq uint64, monoNS, wallNS int64, a *Args) error {
	if op == OpUnknown || op >= numOps {
		return fmt.Errorf("write call %d: unknown operation %d", seq, op)
	}
	if w.closed {
		return errWriterClosed
	}
	return w.write(op.Row(), nil, &Record{Seq: seq, MonoNS: monoNS, WallNS: wallNS}, a)
}

// Record is Call for a record that another file has, of any operation.
func (w *writer) Record(rec *Record, a *Args) error {
	if w.closed {
		return errWriterClosed
	}
	if rec.Row != nil {
		f, err := w.foreignOp(rec.Row)
		if err != nil {
			return fmt.Errorf("write call %d of %s: %w", rec.Seq, rec.Qualname, err)
		}
		return w.write(&f.row, f, rec, a)
	}
	if rec.Op == OpUnknown || rec.Op >= numOps {
		return fmt.Errorf("write call %d: the arguments of %s are not known", rec.Seq, rec.Qualname)
	}
	return w.write(rec.Op.Row(), nil, rec, a)
}

// write appends a call: of an operation of the schema, row, or of a foreign one,
// whose row is its own.
func (w *writer) write(row *Row, f *foreignOp, rec *Record, a *Args) error {
	if err := checkArgs(row, a); err != nil {
		return fmt.Errorf("write call %d of %s: %w", rec.Seq, row.Qualname, err)
	}
	w.monoNS, w.wallNS = rec.MonoNS, rec.WallNS
	if err := w.encode(row, f, rec, a); err != nil {
		w.restart = true
		return fmt.Errorf("write call %d of %s: %w", rec.Seq, row.Qualname, err)
	}
	w.count(row, f, rec.Seq)
	return nil
}

// count counts the call just written.
func (w *writer) count(row *Row, f *foreignOp, seq uint64) {
	c, monoNS := &w.counters, w.monoNS
	if c.records == 0 {
		c.maxMonoNS, w.minMono = monoNS, monoNS
	}
	c.records++
	c.maxMonoNS, w.minMono = max(c.maxMonoNS, monoNS), min(w.minMono, monoNS)
	c.nextSeq = max(c.nextSeq, seq+1)
	if f != nil {
		f.records++
	} else {
		w.ops[row.Op]++
	}
	if e := w.block(); e.records == 0 {
		e.records, e.minMonoNS, e.maxMonoNS = 1, monoNS, monoNS
	} else {
		e.records++
		e.minMonoNS, e.maxMonoNS = min(e.minMonoNS, monoNS), max(e.maxMonoNS, monoNS)
	}
}

// Outcome appends what came of the recorded call of op with sequence number seq,
// which ended at monoNS and at the Unix time wallNS, durationNS after its entry.
// An error concerns this outcome alone.
func (w *writer) Outcome(op Op, seq uint64, monoNS, wallNS, durationNS int64, o *Outcome) error {
	if op == OpUnknown || op >= numOps {
		return fmt.Errorf("write outcome of call %d: unknown operation %d", seq, op)
	}
	if w.closed {
		return errWriterClosed
	}
	row := op.Row()
	if err := checkOutcome(row, o); err != nil {
		return fmt.Errorf("write outcome of call %d of %s: %w", seq, row.Qualname, err)
	}
	callMono, callWall := w.monoNS, w.wallNS // a drop notice has those of the last call
	w.monoNS, w.wallNS = monoNS, wallNS
	err := w.encodeOutcome(row, seq, durationNS, o)
	w.monoNS, w.wallNS = callMono, callWall
	if err != nil {
		w.restart = true
		return fmt.Errorf("write outcome of call %d of %s: %w", seq, row.Qualname, err)
	}
	t := &w.outcomes[op]
	t.Outcomes++
	if o.Failed {
		t.Failed++
	}
	t.DurationNS += max(durationNS, 0)
	for i, name := range row.Counts {
		t.add(i, name, int64(o.Counts[i]))
	}
	return nil
}

func (w *writer) encodeOutcome(row *Row, seq uint64, durationNS int64, o *Outcome) error {
	if err := w.room(w.counters.nextSeq); err != nil {
		return err
	}
	id, err := w.operation(row)
	if err != nil {
		return err
	}
	b := binary.AppendVarint(w.call[:frameStart], int64(seq-w.block().firstSeq))
	w.call = o.append(b, row, durationNS)
	return w.emit(kindOutcome, id, w.call)
}

// LostOutcomes notes that total outcomes were lost since the start.
func (w *writer) LostOutcomes(total uint64) { w.lostOutcomes = total }

// Drift notes how far the clock of the calls was seen to be off the system's.
func (w *writer) Drift(d time.Duration) { w.drift = clockDrift(max(d, 0)) + 1 }

// encode writes the frames of a call: definitions that it needs, then its own.
func (w *writer) encode(row *Row, f *foreignOp, rec *Record, a *Args) error {
	if err := w.room(rec.Seq); err != nil {
		return err
	}
	var id uint16
	var err error
	if f != nil {
		id, err = w.foreignOperation(f)
	} else {
		id, err = w.operation(row)
	}
	if err != nil {
		return err
	}
	if w.args, err = w.appendArgs(w.args[:0], row, a); err != nil {
		return err
	}
	b := binary.AppendVarint(w.call[:frameStart], int64(rec.Seq-w.block().firstSeq))
	var flags uint8
	if rec.Extra != nil {
		flags |= flagExtension
		b = rec.Extra.append(b)
	}
	if len(w.chains.runs) > 0 {
		flags |= flagNodes
		b = w.chains.appendRuns(b)
	}
	w.call = append(b, w.args...)
	return w.emitFlags(kindCall, id, flags, w.call)
}

// Drops notes that total calls were given up since the start. It does nothing
// if none were since the last time.
func (w *writer) Drops(total uint64) error {
	if total <= w.counters.dropped {
		return nil
	}
	if w.closed {
		return errWriterClosed
	}
	w.unnoticed = total // until it is written
	if err := w.room(w.counters.nextSeq); err != nil {
		return fmt.Errorf("write drop notice: %w", err)
	}
	return w.dropNotice(total)
}

// dropNotice writes the notice into the present block.
func (w *writer) dropNotice(total uint64) error {
	lost := total - w.counters.dropped
	b := binary.AppendVarint(w.defs[:frameStart], int64(w.counters.nextSeq-w.block().firstSeq))
	b = binary.AppendUvarint(b, lost)
	b = binary.AppendUvarint(b, total)
	if err := w.emit(kindDrops, 0, b); err != nil {
		w.restart = true
		return fmt.Errorf("write drop notice: %w", err)
	}
	w.counters.dropped = total
	w.drops = addDropRange(w.drops, DropRange{w.counters.nextSeq, int64(lost), w.monoNS})
	return nil
}

// addDropRange appends r, or adds it to the last range: where nothing was
// recorded in between, and where there are too many.
func addDropRange(drops []DropRange, r DropRange) []DropRange {
	if last := len(drops) - 1; last >= 0 && (drops[last].NextSeq == r.NextSeq || len(drops) == dropRangesMax) {
		drops[last].Count += r.Count
		return drops
	}
	return append(drops, r)
}

// Flush brings the counters in the file's header up to date. It stores some
// words to memory and does not wait for a disk. After Close it does nothing.
func (w *writer) Flush() {
	if !w.closed {
		w.flush()
	}
}

var errWriterClosed = errors.New("trace writer is closed")

func (w *writer) flush() {
	w.counters.generation++
	w.counters.end = w.f.Offset()
	w.counters.put(w.f.Head())
}

// Sync waits until what was written before is on the disk. It may be called
// beside other methods, from another goroutine, until Close.
func (w *writer) Sync() error {
	if f, ok := w.f.(outputFile); ok {
		return f.Appender.Sync() // without its log line: the syncer has one
	}
	return w.f.Sync()
}

// Close seals the file with its footer and closes it. Where that is not
// possible the file stays as a crash would leave it, readable, with the counts
// in its header. Close may be called twice.
func (w *writer) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	var err error
	if fault := mmapio.Guard(func() { err = w.seal() }); fault != nil {
		err = fault
	}
	if err != nil {
		w.counters.dropped = max(w.counters.dropped, w.unnoticed)
		_ = mmapio.Guard(w.flush) // a header that is gone has no counts
		err = fmt.Errorf("seal trace: %w", err)
	}
	return errors.Join(err, w.f.Close())
}

// reserved is an appendFile that holds space back for its end.
type reserved interface{ UseReserve() }

// seal makes the footer durable before the counters say that it is there.
func (w *writer) seal() error {
	if f, ok := w.f.(reserved); ok {
		f.UseReserve()
	}
	if w.unnoticed > w.counters.dropped {
		if err := w.room(w.counters.nextSeq); err != nil {
			return err
		}
		if err := w.dropNotice(w.unnoticed); err != nil {
			return err
		}
	}
	at := w.f.Offset()
	if err := w.emit(kindFooter, 0, w.footer().append(w.call[:frameStart])); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.counters.footer, w.counters.clean = at, true
	w.flush()
	w.flush() // the other copy
	return nil
}

func (w *writer) footer() *footer {
	ft := &footer{
		records: w.counters.records, dropped: w.counters.dropped, nextSeq: w.counters.nextSeq,
		minMonoNS: w.minMono, maxMonoNS: w.counters.maxMonoNS, drops: w.drops, blocks: w.blocks,
		timed: true, lostOutcomes: w.lostOutcomes, drift: w.drift,
	}
	for op := range w.outcomes {
		if t := &w.outcomes[op]; t.Outcomes > 0 {
			t.Qualname = Op(op).String()
			ft.outcomes = append(ft.outcomes, *t)
		}
	}
	sortOutcomes(ft.outcomes)
	for op, n := range w.ops {
		if n > 0 {
			ft.ops = append(ft.ops, OpCount{Op(op).String(), int64(n)})
		}
	}
	ft.ops = w.foreign.appendCounts(ft.ops)
	sortOps(ft.ops)
	return ft
}

// block returns the entry of the present block.
func (w *writer) block() *blockEntry { return &w.blocks[len(w.blocks)-1] }

// room starts a new block where the present one is full or unusable.
func (w *writer) room(seq uint64) error {
	if !w.restart && w.chains.len() < w.maxNodes && w.f.Offset()-w.block().offset < w.opt.BlockBytes {
		return nil
	}
	w.restart = true
	w.chains.reset()
	clear(w.scopes)
	clear(w.layouts)
	clear(w.single)
	clear(w.grids)
	clear(w.opsDefined[:])
	for _, f := range w.foreign {
		f.defined = false
	}
	w.patterns, w.lastPattern = 0, 0

	if err := w.startBlock(seq); err != nil {
		return err
	}
	w.restart = false
	return nil
}

// startBlock writes the frame that starts a block.
func (w *writer) startBlock(firstSeq uint64) error {
	entry := blockEntry{offset: w.f.Offset(), monoNS: w.monoNS, firstSeq: firstSeq}
	var previous int64
	if len(w.blocks) > 0 {
		previous = w.block().offset
	}
	start := blockStart{
		number: uint64(len(w.blocks)), offset: entry.offset, previous: previous,
		firstSeq: firstSeq, records: w.counters.records, dropped: w.counters.dropped,
	}
	w.blocks = append(w.blocks, entry)
	if err := w.emit(kindBlock, 0, start.append(w.defs[:frameStart])); err != nil {
		w.blocks = w.blocks[:len(w.blocks)-1]
		return err
	}
	return nil
}

// define begins the payload of a definition of id.
func (w *writer) define(id uint32) []byte {
	return binary.AppendUvarint(w.defs[:frameStart], uint64(id))
}

func (w *writer) emit(k kind, op uint16, b []byte) error { return w.emitFlags(k, op, 0, b) }

// emitFlags appends a frame whose payload is b[frameStart:]. It may overwrite
// what is behind and before that.
func (w *writer) emitFlags(k kind, op uint16, flags uint8, b []byte) error {
	n := len(b) - frameStart
	if n > maxPayload {
		return fmt.Errorf("%w: payload of %d bytes, at most %d", ErrTooLarge, n, maxPayload)
	}
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	var blockBits uint8
	if len(w.blocks) > 0 {
		blockBits = uint8(len(w.blocks)-1) << blockShift
	}
	h := frameHeader{length: uint32(n), op: op, kind: k, flags: flags | blockBits, monoNS: w.monoNS, wallNS: w.wallNS}
	h.put(b[:frameStart])
	dst, err := w.f.Next(len(b) + 8)
	if err != nil {
		return fmt.Errorf("append at offset %d: %w", w.f.Offset(), err)
	}
	copy(dst[4:frameStart], b[4:])
	binary.LittleEndian.PutUint64(dst[frameStart:], xxhash.Sum64(b))
	copy(dst[frameHeaderSize:], b[frameStart:])
	w.f.Publish(uint32(n))
	return nil
}
