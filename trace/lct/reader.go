package lct

import (
	"encoding/binary"
	"fmt"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// prefixSize is the size of the length in front of every frame.
const prefixSize = 4

// keepBytes is how much of a file that was read stays in this process's memory.
const keepBytes = 16 << 20

// Reader gives the records of a file of upstream's format. It is a
// [trace.Source], and belongs to one goroutine.
type Reader struct {
	file   *mmapio.Mapping // nil after Close, and if the bytes are the caller's
	data   []byte          // the whole file
	header trace.Header
	warn   func(string) // never nil
	step   func()       // r.advance, and
	decode func()       // r.decodeArgs, made once: a method value allocates

	next int // offset of the next frame
	kept int // from here on the file's pages may be in memory
	ok   bool
	err  error

	// The present record; raw points into data.
	rec   trace.Record
	monoS float64
	name  *opName
	raw   []byte // its arguments, an encoded map

	seq   uint64
	names nameTable

	args    argsDecoder
	exact   *exact      // nil until Exact
	into    *trace.Args // what decodeArgs fills
	argsErr error       // and what it found
}

var _ trace.Source = (*Reader)(nil)

// Open opens the file at path and checks its header. What does not end the
// reading is told to warn, which may be nil, in upstream's words. The caller
// must Close the reader.
func Open(path string, warn func(string)) (*Reader, error) {
	f, err := mmapio.Open(path)
	if err != nil {
		return nil, err
	}
	var r *Reader
	fault := mmapio.Guard(func() { r, err = NewReader(f.Bytes(), path, warn) })
	if fault != nil {
		err = fault
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	r.file = f
	return r, nil
}

// NewReader reads data, a whole file, which must not change. path is for
// messages.
func NewReader(data []byte, path string, warn func(string)) (*Reader, error) {
	h, next, err := parseHeader(data, path)
	if err != nil {
		return nil, err
	}
	if warn == nil {
		warn = func(string) {}
	}
	r := &Reader{data: data, header: h, warn: warn, next: next}
	r.step, r.decode = r.advance, r.decodeArgs
	return r, nil
}

// Header returns the header. It is the reader's: it must not be changed.
func (r *Reader) Header() *trace.Header { return &r.header }

// Offset returns where the next frame is: behind the present record.
func (r *Reader) Offset() int64 { return int64(r.next) }

// Next moves to the next record. Frames that are no records are passed over
// with a warning; a tail that is cut off ends the file with one.
//
// Source: reference lct-v1.md, section 1.7.
func (r *Reader) Next() bool {
	if r.err != nil {
		return false
	}
	if err := mmapio.Guard(r.step); err != nil {
		r.err, r.ok = err, false
	}
	return r.ok
}

func (r *Reader) advance() {
	r.ok = false
	if r.file != nil && r.next-r.kept > keepBytes {
		r.file.Forget(int64(r.kept), int64(r.next))
		r.kept = r.next
	}
	var raw rawRecord
	for r.next < len(r.data) {
		frame := r.next
		left := r.data[frame:]
		if len(left) < prefixSize {
			r.next = len(r.data)
			r.warn(fmt.Sprintf("TraceReader: truncated frame length prefix at offset %d", frame))
			return
		}
		size := frameSize(left)
		left = left[prefixSize:]
		if len(left) < size {
			r.next = len(r.data)
			r.warn(fmt.Sprintf("TraceReader: truncated frame body at offset %d (got %d of %d)", frame+prefixSize, len(left), size))
			return
		}
		r.next = frame + prefixSize + size
		if err := scanRecord(left[:size], &raw); err != nil {
			r.warn(fmt.Sprintf("TraceReader: skipping malformed record at offset %d: %v", r.next, err))
			continue
		}
		r.name = r.names.find(raw.qualname)
		r.rec = trace.Record{
			Op: r.name.op, Qualname: r.name.text,
			MonoNS: secondsToNS(raw.monoS), WallNS: secondsToNS(raw.wallS),
			Seq: r.seq, Offset: int64(frame),
		}
		if r.name.op == trace.OpUnknown {
			r.rec.Row = r.name.foreign()
		}
		r.monoS, r.raw = raw.monoS, raw.args
		if r.exact != nil {
			r.rec.Extra = r.exact.extra(r, left[:size], &raw)
		}
		r.seq++
		r.ok = true
		return
	}
}

// frameSize returns the length of the frame whose prefix is at the head of b.
func frameSize(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

// Record returns the present record. Upstream numbers nothing: Seq counts the
// records that were read.
func (r *Reader) Record() trace.Record { return r.rec }

// Args decodes the present record's arguments. The keys and the spec are valid
// until the next call of Args. An error concerns this record alone; upstream's
// replay skips such a record.
func (r *Reader) Args(a *trace.Args) error {
	if !r.ok {
		return fmt.Errorf("read arguments: no record")
	}
	r.into = a
	if fault := mmapio.Guard(r.decode); fault != nil {
		r.argsErr = fault
	}
	r.into = nil
	return r.argsErr
}

func (r *Reader) decodeArgs() { r.argsErr = r.args.decode(r.rec.Op, r.raw, r.into) }

// Err returns what ended the reading too early: only the file itself, when its
// bytes could not be had any more.
func (r *Reader) Err() error { return r.err }

// Close gives the file back. It may be called twice. Records and headers stay
// valid, arguments too.
func (r *Reader) Close() error {
	r.data, r.raw, r.ok, r.next = nil, nil, false, 0
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}
