package lct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// tailSize is the length that stands behind the last record of a file that is
// being written: of a frame that goes on behind the end of the file, whatever
// was allocated ahead. So a reader beside the writer, and one that finds the file
// after a crash, sees a cut-off tail, which ends it with one warning. Zeros would
// be a million empty frames.
const tailSize = 64 << 20

// Writer writes a file of upstream's format, with the shapes of one release. It
// belongs to one goroutine.
//
// A record's length is stored last, over that of the tail.
type Writer struct {
	path string
	f    *mmapio.Appender
	era  Era
	from trace.Header // of the records
	buf  []byte

	losses Losses
	broken error // what ended the writing

	// Bound once for the guard, with what they take and give.
	put, encode func()
	rec         *trace.Record
	args        *trace.Args
	loss        Loss
	err         error
}

// Create creates a file at path, or empties the one that is there, and writes
// the header for records that come from a file with the header h. The caller
// must Close the writer, or Discard it.
func Create(path string, h *trace.Header, era Era) (*Writer, error) {
	if era.Release() == "" {
		return nil, fmt.Errorf("era %d: %w", era, os.ErrInvalid)
	}
	header, err := AppendHeaderOf(nil, era, h)
	if err != nil {
		return nil, err
	}
	f, err := mmapio.Create(path, mmapio.AppenderOptions{HeadBytes: -1})
	if err != nil {
		return nil, err
	}
	w := &Writer{path: path, f: f, era: era, from: *h, buf: header}
	w.put = func() { w.err = w.append(w.buf) }
	w.encode = func() {
		if w.buf, w.loss, w.err = AppendRecord(w.buf[:0], w.era, &w.from, w.rec, w.args); w.err == nil {
			w.err = w.append(w.buf)
		}
	}
	if err := w.guarded(w.put); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	return w, nil
}

// Write appends a record. An error concerns this record alone, unless Err has one
// too.
func (w *Writer) Write(rec *trace.Record, a *trace.Args) error {
	w.rec, w.args = rec, a
	if err := w.guarded(w.encode); err != nil {
		return err
	}
	w.losses.Add(w.loss)
	return nil
}

// WriteFrame appends a record that is encoded already, without its length.
func (w *Writer) WriteFrame(frame []byte) error {
	return w.guarded(func() {
		var raw rawRecord
		if w.err = scanRecord(frame, &raw); w.err != nil {
			return
		}
		w.buf = append(append(w.buf[:0], 0, 0, 0, 0), frame...)
		if w.buf, w.err = closeFrame(w.buf, 0); w.err == nil {
			w.err = w.append(w.buf)
		}
	})
}

// Err returns what ended the writing: the disk.
func (w *Writer) Err() error { return w.broken }

// Losses returns what the records so far lost.
func (w *Writer) Losses() Losses { return w.losses }

// guarded runs step, which leaves its error in w.err.
func (w *Writer) guarded(step func()) error {
	if w.f == nil {
		return os.ErrClosed
	}
	if fault := mmapio.Guard(step); fault != nil {
		w.broken = fault
		return fault
	}
	var space *mmapio.SpaceError
	if errors.As(w.err, &space) {
		w.broken = w.err
	}
	return w.err
}

// append appends frame, whose length is stored last. Both lengths are plain
// stores of four bytes: no other goroutine reads them, and what another process
// sees of them after a crash is what the stopped thread had done.
func (w *Writer) append(frame []byte) error {
	if len(frame) > tailSize/2 && w.f.Offset() > 0 {
		b, err := w.f.Room(prefixSize) // the tail has to cover more than usual
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(b, uint32(min(int64(len(frame))+tailSize, 1<<32-1)))
	}
	b, err := w.f.Room(len(frame) + prefixSize)
	if err != nil {
		return err
	}
	copy(b[prefixSize:], frame[prefixSize:])
	binary.BigEndian.PutUint32(b[len(frame):], tailSize)
	publish(b, frame)
	w.f.Advance(len(frame))
	return nil
}

// publish stores the length of frame. It is a call so that the compiler keeps
// what was stored before it before it.
//
//go:noinline
func publish(b, frame []byte) { copy(b[:prefixSize], frame) }

// Close waits until the file is on the disk, cuts off the tail, and closes it.
// It may be called twice.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	return errors.Join(f.Sync(), f.Close())
}

// Discard closes the file and removes it.
func (w *Writer) Discard() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	return errors.Join(f.Close(), os.Remove(w.path))
}
