package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// NativeReader reads the records of a native trace file. It implements [Source]
// and belongs to one goroutine.
//
// It may run beside the recorder. Next returns false at the end of what is
// written so far, and true again when there is more; Sealed tells that there
// will not be.
type NativeReader struct {
	path  string
	file  nativeFile
	guard func(func()) error
	warn  func(string)

	data     []byte // file.Bytes(); touched under guard only
	kept     int64  // from here on the file's pages may be in memory
	header   *Header
	body     int64
	counters counters
	counted  bool // counters are valid
	sealed   bool // the footer was reached
	err      error

	off    int64 // of the next frame
	warned int64 // offset of the last warning about the end
	hasher frameHasher
	tables tables
	dec    argsDecoder

	// The window is a copy of file bytes [winOff, winOff+len(win)). Frames are
	// checked and decoded there: what was checked cannot change any more, and
	// the guard is paid once a window.
	win    []byte
	winOff int64
	buffer []byte // behind win

	// The present record.
	record  Record
	op      *opDefinition
	args    []byte // the arguments part of its payload; in win
	argsErr error  // why there is none
	extra   Extra  // of record, if that says so

	dropped uint64 // calls lost until here, by the notices

	onOutcome func(*OutcomeRecord) // may be nil
	outcome   outcomeDecoder
}

// keepBytes is how much of a file that was read stays in this process's memory.
const keepBytes = 16 << 20

// windowBytes is the usual size of a reader's window: it fits a core's cache.
const windowBytes = 128 << 10

var _ OutcomeSource = (*NativeReader)(nil)

// OpenNative opens the native trace file at path. What is wrong with the file but
// does not end the reading goes to warn, which may be nil.
//
// The error wraps ErrNotNative, a *VersionError, ErrTruncatedHeader or a
// *CorruptError if the file is there but is not readable.
func OpenNative(path string, warn func(string)) (*NativeReader, error) {
	file, guard, err := openNativeFile(path)
	if err != nil {
		return nil, err
	}
	r, err := newNativeReader(path, file, guard, warn)
	if err != nil {
		file.Close()
		return nil, err
	}
	if warn != nil {
		r.warnRing()
	}
	return r, nil
}

func newNativeReader(path string, file nativeFile, guard func(func()) error, warn func(string)) (*NativeReader, error) {
	r := &NativeReader{path: path, file: file, guard: guard, warn: warn, data: file.Bytes(), warned: -1}
	var err error
	fault := guard(func() {
		if r.header, r.body, err = parseHeader(r.data); err == nil {
			err = r.readCounters()
		}
	})
	if fault != nil {
		err = fault
	}
	if errors.Is(err, errCounters) {
		r.warnf("%v at offset %d: its counts are not known", err, countersOffset)
		err = nil
	}
	if err != nil {
		return nil, r.named(err)
	}
	r.off = r.body
	return r, nil
}

func (r *NativeReader) readCounters() error {
	c, err := parseCounters(r.data)
	if err == nil {
		r.counters, r.counted = c, true
	}
	return err
}

func (r *NativeReader) named(err error) error {
	return fmt.Errorf("trace file %s: %w", pyfmt.Repr(r.path), err)
}

func (r *NativeReader) warnf(format string, args ...any) {
	if r.warn != nil {
		r.warn(r.named(fmt.Errorf(format, args...)).Error())
	}
}

// Header returns what the file says of the recording. It must not be changed.
func (r *NativeReader) Header() *Header { return r.header }

// Next moves to the next record and reports whether there is one. It may be
// called again after it returned false without an error.
func (r *NativeReader) Next() bool {
	r.op = nil
	if r.err != nil {
		return false
	}
	for !r.sealed {
		var h frameHeader
		frame := r.frame(&h)
		if frame == nil {
			return false
		}
		record, field, err := r.take(&h, frame[frameHeaderSize:frameHeaderSize+int(h.length)])
		if err != nil {
			return r.corrupt(field, err)
		}
		r.off += h.size()
		if record {
			return true
		}
	}
	return false
}

// Record returns the present record.
func (r *NativeReader) Record() Record { return r.record }

// Args decodes the present record's arguments into a. The error wraps
// ErrUndefined if a definition was lost to damage that [NativeReader.Skip]
// passed over.
func (r *NativeReader) Args(a *Args) error {
	if err := r.decodeArgs(a); err != nil {
		return r.named(&CorruptError{r.record.Offset, "args", err})
	}
	return nil
}

func (r *NativeReader) decodeArgs(a *Args) error {
	if r.op == nil {
		return errors.New("no record: Next was not called, or returned false")
	}
	if r.argsErr != nil {
		return r.argsErr
	}
	r.dec.tables = &r.tables
	c := cursor{b: r.args}
	return r.dec.decode(&c, r.op, a)
}

// OnOutcome makes Next call f with each outcome that it passes; nil ends that. An
// outcome that cannot be decoded is left out with a warning.
func (r *NativeReader) OnOutcome(f func(*OutcomeRecord)) { r.onOutcome = f }

// Err returns what ended the reading too early, nil at the end of the file.
// Damage wraps a *CorruptError.
func (r *NativeReader) Err() error { return r.err }

// Sealed reports whether Next has reached the footer: the recorder is done.
func (r *NativeReader) Sealed() bool { return r.sealed }

// Dropped returns how many calls the recorder gave up before the present record,
// as far as it had noticed.
func (r *NativeReader) Dropped() uint64 { return r.dropped }

// Offset returns where the next frame is: all bytes before it are read.
func (r *NativeReader) Offset() int64 { return r.off }

// Close releases the file. It may be called twice.
func (r *NativeReader) Close() error {
	r.data, r.win, r.args, r.op = nil, nil, nil, nil
	if r.err == nil {
		r.err = errClosed
	}
	return r.file.Close()
}

var errClosed = errors.New("trace reader is closed")

// take takes in the frame at r.off. It reports whether it is a record, or which
// field is damaged.
func (r *NativeReader) take(h *frameHeader, payload []byte) (record bool, field string, err error) {
	if h.kind != kindBlock && h.block() != r.tables.start.number&15 && (r.tables.valid || h.kind != kindFooter) {
		if r.tables.lost == 0 {
			return false, "block", fmt.Errorf("frame of block %d (mod 16) in block %d", h.block(), r.tables.start.number)
		}
		r.tables.valid = false
	}
	switch h.kind {
	case kindBlock:
		return false, "block", r.block(h, payload)
	case kindOp, kindScope, kindLayout, kindPattern:
		return false, "definition", r.define(h, payload)
	case kindCall:
		record, err = r.call(h, payload)
		return record, "nodes", err
	case kindDrops:
		c := cursor{b: payload}
		c.sv()
		c.uv()
		if total := c.uv(); c.err == nil {
			r.dropped = max(r.dropped, total)
		}
		return false, "definition", c.err
	case kindOutcome:
		if r.onOutcome != nil && r.tables.valid {
			if err := r.takeOutcome(h, payload); err != nil {
				r.warnf("skipping an outcome at offset %d: %v", r.off, err)
			}
		}
	case kindFooter:
		r.sealed = true
	}
	return false, "", nil
}

// takeOutcome decodes the outcome in the frame at r.off and hands it out.
func (r *NativeReader) takeOutcome(h *frameHeader, payload []byte) error {
	if h.flags&(flagsUnknown|flagNodes|flagExtension) != 0 {
		return fmt.Errorf("flags %#x, which this build does not know", h.flags&15)
	}
	op := r.tables.op(h.op)
	if op == nil {
		return fmt.Errorf("operation %d: %w", h.op, ErrUndefined)
	}
	c := cursor{b: payload}
	o := &r.outcome.out
	o.Seq = r.tables.start.firstSeq + uint64(c.sv())
	o.MonoNS, o.WallNS, o.Offset = h.monoNS, h.wallNS, r.off
	if err := r.outcome.decode(&c, op); err != nil {
		return err
	}
	r.onOutcome(o)
	return nil
}

// frame returns the whole frame at r.off after checking it, nil at the end and
// at damage. Its bytes are valid until the next call; the header's are not.
//
// What is not in the window, or not whole in it, is looked at once more in the
// file before it counts: the recorder may have gone on.
func (r *NativeReader) frame(h *frameHeader) []byte {
	for fresh := false; ; fresh = true {
		left := r.winOff + int64(len(r.win)) - r.off
		if left >= frameHeaderSize {
			at := r.off - r.winOff
			h.parse(r.win[at:])
			inBounds := h.length <= maxPayload && !(r.counters.clean && r.off+h.size() > r.counters.end)
			if h.length > 0 && inBounds && left >= h.size() {
				frame := r.win[at : at+h.size()]
				err := checkInPlace(h, frame)
				if err == nil {
					return frame
				}
				if fresh {
					r.corrupt("checksum", err)
					return nil
				}
			} else if fresh && h.length > 0 && !inBounds {
				r.corrupt("length", fmt.Errorf("%d bytes", h.length))
				return nil
			}
		}
		if fresh {
			r.atEnd(left, h)
			return nil
		}
		if err := r.load(); err != nil {
			r.err = r.named(err)
			return nil
		}
	}
}

// load fills the window from r.off on, with one frame at least if it is whole,
// and takes in what was written to the file since.
func (r *NativeReader) load() error {
	r.win = nil
	if f, ok := r.file.(interface{ Forget(from, to int64) }); ok && (r.off-r.kept > keepBytes || r.off < r.kept) {
		f.Forget(r.kept, r.off)
		r.kept = r.off
	}
	size := int64(windowBytes)
	for range 2 {
		var need int64
		var err error
		fault := r.guard(func() { need, err = r.copyWindow(size) })
		if fault != nil || err != nil {
			return errors.Join(fault, err)
		}
		if need <= int64(len(r.win)) {
			break
		}
		size = need
	}
	return nil
}

// copyWindow copies up to size bytes from r.off on, and returns how many the
// frame there needs. Where that is more than the file has it asks for the file
// as it is now.
func (r *NativeReader) copyWindow(size int64) (need int64, err error) {
	need = frameHeaderSize
	left := int64(len(r.data)) - r.off
	var h frameHeader
	if left >= frameHeaderSize {
		h.parse(r.data[r.off:])
		if h.length > 0 && h.length <= maxPayload {
			need = h.size()
		}
	}
	if left < need || h.length == 0 {
		if err := r.remap(); err != nil {
			return 0, err
		}
		left = int64(len(r.data)) - r.off
	}
	size = max(min(size, left), 0)
	if int64(cap(r.buffer)) < size {
		r.buffer = make([]byte, size)
	}
	r.win, r.winOff = r.buffer[:size], r.off
	copy(r.win, r.data[r.off:])
	return min(need, left), nil
}

// remap takes in what was written to the file since.
func (r *NativeReader) remap() error {
	if _, err := r.file.Remap(); err != nil {
		return err
	}
	r.data = r.file.Bytes()
	if int64(len(r.data)) < r.off {
		return fmt.Errorf("%w: file has %d bytes, was read up to %d", io.ErrUnexpectedEOF, len(r.data), r.off)
	}
	_ = r.readCounters() // older ones will do
	return nil
}

// atEnd decides what it means that no whole frame is at r.off, where left bytes
// of the file are left and h is their header if they hold one.
func (r *NativeReader) atEnd(left int64, h *frameHeader) {
	size, end := int64(len(r.data)), int64(0)
	if r.counted {
		end = r.counters.end
	}
	written := h.length > 0 || left < frameHeaderSize && len(bytes.Trim(r.win, "\x00")) > 0
	switch {
	case size < end:
		r.warnEnd("truncated at offset %d: the file had %d bytes", size, end)
	case written:
		if r.off < end {
			r.corrupt("length", fmt.Errorf("frame of %d bytes, %d are left", h.size(), left))
			return
		}
		r.warnEnd("truncated frame at offset %d (%d bytes are left)", r.off, left)
	case left == 0:
	case r.off < end:
		r.corrupt("length", fmt.Errorf("zero, frames end at %d", end))
	case h.checksum != 0 || h.monoNS != 0 || h.wallNS != 0 || h.kind != 0:
		r.warnEnd("unfinished frame at offset %d", r.off)
	}
}

// warnEnd warns once an offset: a reader that follows asks often.
func (r *NativeReader) warnEnd(format string, args ...any) {
	if r.warned != r.off {
		r.warned = r.off
		r.warnf(format, args...)
	}
}

func (r *NativeReader) corrupt(field string, err error) bool {
	r.err = r.named(&CorruptError{r.off, field, err})
	return false
}

func (r *NativeReader) block(h *frameHeader, payload []byte) error {
	var s blockStart
	if err := s.parse(payload, r.off); err != nil {
		return err
	}
	if h.block() != s.number&15 {
		return fmt.Errorf("number %d, flags say %d (mod 16)", s.number, h.block())
	}
	if r.tables.valid && r.tables.lost == 0 && s.number != r.tables.start.number+1 {
		return fmt.Errorf("number %d after %d", s.number, r.tables.start.number)
	}
	r.tables.reset(s)
	return nil
}

func (r *NativeReader) define(h *frameHeader, payload []byte) error {
	if !r.tables.valid {
		return r.outside()
	}
	return r.tables.define(h, payload)
}

// outside is for a frame of a block whose start is not known.
func (r *NativeReader) outside() error {
	if r.tables.lost == 0 {
		return errors.New("no block start before it")
	}
	return nil
}

// call takes in a call's frame; record is false if nobody can say which call it
// was.
func (r *NativeReader) call(h *frameHeader, payload []byte) (record bool, err error) {
	if !r.tables.valid {
		return false, r.outside()
	}
	r.record = Record{
		Op: OpUnknown, MonoNS: h.monoNS, WallNS: h.wallNS, Offset: r.off,
	}
	r.args, r.argsErr = nil, nil
	c := cursor{b: payload}
	r.record.Seq = r.tables.start.firstSeq + uint64(c.sv())
	if h.flags&flagsUnknown != 0 {
		r.argsErr = fmt.Errorf("flags %#x, which this build does not know", h.flags&flagsUnknown)
	} else {
		if h.flags&flagExtension != 0 {
			if err := r.extra.parse(c.str()); err != nil {
				r.warnf("ignoring what goes with the call at offset %d: %v", r.off, err)
			} else {
				r.record.Extra = &r.extra
			}
		}
		if h.flags&flagNodes != 0 && c.err == nil {
			if err := r.tables.addNodes(&c); err != nil {
				return false, err
			}
		}
	}
	if c.err != nil {
		return false, c.err
	}
	r.args = c.b
	op := r.tables.op(h.op)
	if op == nil {
		r.warnf("skipping a call at offset %d: operation %d: %v", r.off, h.op, ErrUndefined)
		return false, nil
	}
	r.op = op
	r.record.Op, r.record.Qualname, r.record.Row = op.op, op.qualname, op.row
	return true, nil
}

// Skip goes on behind damage: after Next returned false and Err gives a
// *CorruptError, it moves to the next whole frame and reports whether there is
// one. What refers to something that was lost gives an error of its record;
// records of a block whose start was lost are left out.
func (r *NativeReader) Skip() bool {
	var damage *CorruptError
	if !errors.As(r.err, &damage) || r.sealed {
		return false
	}
	found := int64(-1)
	if err := r.guard(func() { found = r.wholeFrameAfter(r.off) }); err != nil {
		r.err = r.named(err)
		return false
	}
	if found < 0 {
		return false
	}
	r.tables.lost += found - r.off
	r.off, r.err = found, nil
	return true
}

// wholeFrameAfter returns the offset of the next whole frame behind the damaged
// one at off, -1 if there is none: the first place whose checksum is right. The
// damaged frame's length does not count, it may be what is damaged. At most a
// few times the file's size is hashed, whatever the file looks like.
func (r *NativeReader) wholeFrameAfter(off int64) int64 {
	end := int64(len(r.data))
	budget := 8*(end-off) + maxPayload
	whole := func(at int64) bool {
		var h frameHeader
		if h.parse(r.data[at:]); h.length == 0 || h.length > maxPayload || at+h.size() > end {
			return false
		}
		budget -= h.size()
		return r.hasher.check(r.data[at:at+h.size()]) == nil
	}
	for at := off + 8; at+frameHeaderSize <= end && budget > 0; at += 8 {
		switch kind(r.data[at+6]) {
		case kindBlock, kindOp, kindScope, kindLayout, kindPattern, kindCall, kindOutcome, kindDrops, kindFooter:
			if whole(at) {
				return at
			}
		}
	}
	return -1
}
