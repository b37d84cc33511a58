package lct

import (
	"context"
	"fmt"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// Verify checks every frame of the file at path: that it decodes as a record, and
// its arguments with their codecs. The format has neither checksums nor counts,
// so it cannot tell how much is missing where something is. Behind a bad frame it
// goes on where the next record is, whatever the lengths say. The error is why there
// is nothing to verify, or the end of ctx.
func Verify(ctx context.Context, path string) (*trace.Verification, error) {
	r, err := Open(path, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.verify(ctx)
}

func (r *Reader) verify(ctx context.Context) (*trace.Verification, error) {
	w := &verifier{
		ctx: ctx, r: r, budget: resyncBudget * len(r.data),
		v: &trace.Verification{Header: r.header, Bytes: int64(len(r.data)), AtLeast: true},
	}
	var err error
	if fault := mmapio.Guard(func() { err = w.walk() }); fault != nil {
		return nil, fault
	}
	return w.v, err
}

// resyncBudget bounds what a search for records behind damage may scan, in sizes
// of the file.
const resyncBudget = 8

type verifier struct {
	ctx    context.Context
	r      *Reader
	v      *trace.Verification
	whole  bool // the last part is whole and goes on
	budget int  // bytes that resync may still scan
	seq    uint64
}

func (w *verifier) walk() error {
	data := w.r.data
	var raw rawRecord
	var a trace.Args
	for at, n := w.r.next, 0; at < len(data); n++ {
		if n%1024 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		next, field, err := w.frame(at, &raw)
		if err == nil {
			w.record(at, next, &raw, &a)
			at = next
			continue
		}
		end := w.resync(at, next)
		w.whole = false
		w.v.Lost++ // one at least
		w.v.Parts = append(w.v.Parts, trace.Part{
			Offset: int64(at), End: int64(end), Damage: &trace.CorruptError{Offset: int64(at), Field: field, Err: err},
		})
		at = end
	}
	return nil
}

// frame checks the frame at offset at. Where it is bad next is where its length
// says that the following one is, the file's end if that is further.
func (w *verifier) frame(at int, raw *rawRecord) (next int, field string, err error) {
	left := w.r.data[at:]
	if len(left) < prefixSize {
		return len(w.r.data), "length", fmt.Errorf("truncated: %d bytes are left", len(left))
	}
	size := frameSize(left)
	left = left[prefixSize:]
	if size > len(left) {
		return len(w.r.data), "length", fmt.Errorf("truncated: frame of %d bytes, %d are left", size, len(left))
	}
	return at + prefixSize + size, "record", scanRecord(left[:size], raw)
}

// record takes in the record in bytes [at, next).
func (w *verifier) record(at, next int, raw *rawRecord, a *trace.Args) {
	v := w.v
	monoNS := secondsToNS(raw.monoS)
	if !w.whole {
		w.whole = true
		v.Parts = append(v.Parts, trace.Part{Offset: int64(at), FirstSeq: w.seq, FirstNS: monoNS})
	}
	p := &v.Parts[len(v.Parts)-1]
	p.End, p.LastSeq, p.LastNS = int64(next), w.seq, monoNS
	p.Records++
	w.seq++
	// An events trace holds no calls: its arguments have codecs of their own.
	if w.r.header.Level == trace.LevelStorage {
		if err := w.r.args.decode(w.r.names.find(raw.qualname).op, raw.args, a); err != nil {
			v.Unreadable++
			v.Lost++
			v.Problem(int64(at), "args", err)
			return
		}
	}
	v.Records++
}

// resync returns where to go on behind the bad frame at offset at: at next if a
// record or the end is there; else at the first record behind at, in case that
// it is the length that is damaged; else at the file's end.
func (w *verifier) resync(at, next int) int {
	data := w.r.data
	if next == len(data) && next-at >= prefixSize && frameSize(data[at:]) == next-at-prefixSize || next < len(data) && w.isRecord(next) {
		return next
	}
	for p := at + 1; p+prefixSize < len(data) && w.budget > 0; p++ {
		if first := data[p+prefixSize]; first>>4 != 0x8 && first != 0xde && first != 0xdf {
			continue // no map
		}
		if w.isRecord(p) {
			return p
		}
	}
	return len(data)
}

// isRecord reports whether there is a whole record at offset at.
func (w *verifier) isRecord(at int) bool {
	var raw rawRecord
	next, field, err := w.frame(at, &raw)
	if field != "length" { // else nothing was scanned
		w.budget -= next - at
	}
	return err == nil
}
