package trace

import (
	"errors"
	"fmt"
	"os"

	"github.com/lmcache/lmcache-go/mmapio"
)

// NativeWriter writes records that exist already to a native trace file: what a
// conversion needs. Calls that happen now are the [Recorder]'s. It belongs to
// one goroutine.
type NativeWriter struct {
	path string
	w    *writer

	// Bound once for the guard.
	step func()
	rec  *Record
	a    *Args
	err  error

	broken error // what ended the writing
}

// CreateNative creates a native trace file at path, or empties the one that is
// there, with the header h. Nothing of it is lost but the path of a recorder's
// ring: the file is not that recorder's. The caller must Close the writer, or
// Discard it.
func CreateNative(path string, h *Header) (*NativeWriter, error) {
	own := *h
	own.RingPath = ""
	if own.BlockBytes < minBlockBytes || own.BlockBytes > maxBlockBytes {
		own.BlockBytes = DefaultBlockBytes
	}
	file, err := mmapio.Create(path, mmapio.AppenderOptions{HeadBytes: headSize(&own, 8)})
	if err != nil {
		return nil, err
	}
	w, err := newWriter(file, &own, writerOptions{BlockBytes: own.BlockBytes})
	if err != nil {
		file.Close()
		os.Remove(path)
		return nil, err
	}
	n := &NativeWriter{path: path, w: w}
	n.step = func() { n.err = n.w.Record(n.rec, n.a) }
	return n, nil
}

// Write appends a record with its arguments, sequence number and extra facts; its
// offset is not looked at. An error concerns this record alone, unless Err has
// one too.
func (n *NativeWriter) Write(rec *Record, a *Args) error {
	n.rec, n.a = rec, a
	if fault := mmapio.Guard(n.step); fault != nil {
		n.broken = fault
		return fault
	}
	var space *mmapio.SpaceError
	if errors.As(n.err, &space) {
		n.broken = n.err
	}
	return n.err
}

// Err returns what ended the writing: the disk.
func (n *NativeWriter) Err() error { return n.broken }

// Outcome appends what came of a call that was written; its offset is not looked
// at. An error concerns this outcome alone, unless Err has one too: it may be of
// another build's operation, or count what this build's does not.
func (n *NativeWriter) Outcome(o *OutcomeRecord) (err error) {
	known := false
	if fault := mmapio.Guard(func() { known, err = n.w.OutcomeRecord(o) }); fault != nil {
		n.broken = fault
		return fault
	}
	var space *mmapio.SpaceError
	if errors.As(err, &space) {
		n.broken = err
	}
	if err == nil && !known {
		err = fmt.Errorf("write outcome of call %d of %s: not one of this build's", o.Seq, o.Qualname)
	}
	return err
}

// LostOutcomes notes that total outcomes of calls in the file are not in it.
func (n *NativeWriter) LostOutcomes(total uint64) { n.w.LostOutcomes(total) }

// Drops notes that total calls were lost from the start of the recording to
// here.
func (n *NativeWriter) Drops(total uint64) (err error) {
	if fault := mmapio.Guard(func() { err = n.w.Drops(total) }); fault != nil {
		return fault
	}
	return err
}

// Close seals the file, waits until it is on the disk, and closes it. It may be
// called twice.
func (n *NativeWriter) Close() (err error) {
	if fault := mmapio.Guard(func() { err = n.w.Close() }); fault != nil {
		return fault
	}
	return err
}

// Discard closes the file and removes it.
func (n *NativeWriter) Discard() error {
	n.w.closed = true
	if err := n.w.f.Close(); err != nil {
		return err
	}
	return os.Remove(n.path)
}
