package lct

import (
	"bufio"
	"fmt"
	"os"
	"slices"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// Repair makes a file at out of the header and the sound frames of the one at
// path, byte for byte. Nothing at path is changed; a file at out is replaced, in
// one step. A file whose header is damaged is refused: without it no record
// means anything.
func Repair(path, out string) (*trace.Repair, error) {
	f, err := mmapio.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rep := &trace.Repair{Whole: true}
	rep.Bytes, err = trace.WriteNew(out, func(partial string) (size int64, err error) {
		dst, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return 0, err
		}
		w := bufio.NewWriterSize(dst, 256<<10)
		fault := mmapio.Guard(func() { size, err = copySound(w, f.Bytes(), path, rep) })
		for _, step := range []func() error{func() error { return fault }, w.Flush, dst.Sync} {
			if err == nil {
				err = step()
			}
		}
		if closeErr := dst.Close(); err == nil {
			err = closeErr
		}
		return size, err
	})
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// copySound copies the header and the sound frames of data.
func copySound(w *bufio.Writer, data []byte, path string, rep *trace.Repair) (size int64, err error) {
	_, at, err := parseHeader(data, path)
	if err != nil {
		return 0, err
	}
	from := 0 // data[from:at] is sound and not yet copied
	for at < len(data) {
		next, broken := soundFrame(data, at)
		if broken == nil {
			rep.Kept++
			at = next
			continue
		}
		if _, err := w.Write(data[from:at]); err != nil {
			return 0, err
		}
		size += int64(at - from)
		from = afterBroken(data, at, next)
		field, missing := "record", framesBetween(data, at, from)
		switch {
		case next < 0 && from == len(data):
			field, missing = "tail", 1
		case missing == 0:
			field, missing = "length", 1 // at least
		}
		rep.Damage = append(rep.Damage, trace.Damage{From: int64(at), To: int64(from), Field: field, Err: broken, Missing: uint64(missing)})
		rep.Whole = false
		rep.Lost += int64(missing)
		at = from
	}
	_, err = w.Write(data[from:])
	return size + int64(len(data)-from), err
}

// soundFrame returns the end of the frame at offset at, -1 for one that is cut
// off, and what is wrong with it.
func soundFrame(data []byte, at int) (next int, err error) {
	left := data[at:]
	if len(left) < prefixSize {
		return -1, fmt.Errorf("truncated frame length prefix")
	}
	size := frameSize(left)
	left = left[prefixSize:]
	if len(left) < size {
		return -1, fmt.Errorf("truncated frame body (got %d of %d)", len(left), size)
	}
	var raw rawRecord
	return at + prefixSize + size, scanRecord(left[:size], &raw)
}

// afterBroken returns where to go on behind the broken frame at offset at, which
// ends at next by its own length: there, if a sound frame or the end of the file
// shows that the length is right; else where the next sound frame begins.
func afterBroken(data []byte, at, next int) int {
	if next == len(data) {
		return next
	}
	if next > 0 {
		if _, err := soundFrame(data, next); err == nil {
			return next
		}
	}
	// The bytes of records may look like frames, and a file may be made so that
	// they do everywhere: what is looked at in vain is bounded.
	budget := 64*(len(data)-at) + 1<<20
	for at++; at+prefixSize < len(data) && budget > 0; at++ {
		size := frameSize(data[at:])
		if size > len(data)-at-prefixSize || !startsRecord(data[at+prefixSize:at+prefixSize+size]) {
			continue
		}
		if _, err := soundFrame(data, at); err == nil {
			return at
		}
		budget -= size
	}
	return len(data)
}

// framesBetween returns how many frames lead from one offset to another, 0 if
// their lengths lead elsewhere.
func framesBetween(data []byte, from, to int) (n int) {
	for ; from < to; n++ {
		if from > len(data)-prefixSize {
			return 0
		}
		from += prefixSize + frameSize(data[from:])
	}
	if from != to {
		return 0
	}
	return n
}

// startsRecord reports whether b begins with a map whose first key is one of a
// record.
func startsRecord(b []byte) bool {
	s := scanner{b: b}
	if h, n, err := s.next(); err != nil || h.kind != kindMap || n < len(recordFields) {
		return false
	}
	h, n, err := s.next()
	if err != nil || h.kind != kindStr {
		return false
	}
	name, err := s.take(n)
	return err == nil && (string(name) == "type" || slices.ContainsFunc(recordFields, func(f field) bool { return f.name == string(name) }))
}
