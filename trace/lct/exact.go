package lct

import (
	"bytes"
	"math"

	"github.com/lmcache/lmcache-go/mmapio"
	"github.com/lmcache/lmcache-go/trace"
)

// exact finds out what of each record the internal form does not hold, by
// encoding it again.
type exact struct {
	era  Era
	dec  argsDecoder
	args trace.Args
	buf  []byte
	x    trace.Extra

	frame []byte // of x
}

// Exact makes the reader say all that is in the file, as a conversion needs it:
// Header.Release, Header.Upstream, and Record.Extra, where another encoding of
// the record by the same release is not the same bytes. It is called before the
// first Next, and costs a second decoding of every record.
//
// To find the release it reads the records until all eras but one are out of the
// question; of several that could have written the whole file it takes the
// newest.
func (r *Reader) Exact() error {
	era, err := r.findEra()
	if err != nil {
		return err
	}
	h := &r.header
	h.Release = era.Release()
	x := &exact{era: era}
	fault := mmapio.Guard(func() {
		if x.buf, err = AppendHeaderOf(x.buf[:0], era, h); err != nil || !bytes.Equal(x.buf, r.data[:r.next]) {
			h.Upstream, err = bytes.Clone(r.data[prefixSize:r.next]), nil
		}
	})
	r.exact = x
	return fault
}

// Frame returns the present record as it is in the file, without its length. It
// is valid until Close, and can fault ([mmapio.Guard]).
func (r *Reader) Frame() []byte {
	if !r.ok {
		return nil
	}
	at := int(r.rec.Offset) + prefixSize
	return r.data[at:r.next]
}

// findEra returns the era whose encoding the records have, from the present one
// on. It leaves the reader where it is.
func (r *Reader) findEra() (Era, error) {
	scan := &Reader{file: r.file, data: r.data, header: r.header, warn: func(string) {}, next: r.next}
	oldest, newest := E1, E6
	if r.header.SchemaVersion == 2 {
		oldest, newest = S2, S2
	}
	var may [S2 + 1]bool
	for e := oldest; e <= newest; e++ {
		may[e] = true
	}
	left := int(newest-oldest) + 1
	search := func() {
		var dec argsDecoder
		var args trace.Args
		var buf []byte
		for scan.advance(); left > 1 && scan.ok; scan.advance() {
			if scan.rec.Op == trace.OpUnknown || dec.decode(scan.rec.Op, scan.raw, &args) != nil {
				continue
			}
			var fits [S2 + 1]bool
			n := 0
			for e := oldest; e <= newest; e++ {
				if !may[e] {
					continue
				}
				enc := encoder{era: e, b: buf[:0]}
				enc.args(scan.rec.Op, &args)
				buf = enc.b
				if fits[e] = enc.err == nil && bytes.Equal(enc.b, scan.raw); fits[e] {
					n++
				}
			}
			if n > 0 { // else no era's encoding gives it back: it says nothing
				may, left = fits, n
			}
		}
	}
	if err := mmapio.Guard(search); err != nil {
		return 0, err
	}
	for e := newest; e > oldest; e-- {
		if may[e] {
			return e, nil
		}
	}
	return oldest, nil
}

// extra returns what frame says of the present record and the internal form does
// not; nil if nothing.
func (e *exact) extra(r *Reader, frame []byte, raw *rawRecord) *trace.Extra {
	e.x = trace.Extra{MonoS: raw.monoS, HasMono: true, WallS: raw.wallS, HasWall: true}
	rec := r.rec
	rec.Extra = &e.x
	err := e.dec.decode(rec.Op, raw.args, &e.args)
	if err == nil {
		e.buf, _, err = AppendRecord(e.buf[:0], e.era, &r.header, &rec, &e.args)
	}
	if err != nil || !bytes.Equal(e.buf[prefixSize:], frame) {
		e.frame = append(e.frame[:0], frame...) // read under a guard here, and by whom it concerns without
		e.x.Frame = e.frame
	}
	e.x.HasMono = math.Float64bits(monoSeconds(rec.MonoNS, r.header.MonoStartNS)) != math.Float64bits(raw.monoS)
	e.x.HasWall = math.Float64bits(wallSeconds(rec.WallNS)) != math.Float64bits(raw.wallS)
	if !e.x.HasMono && !e.x.HasWall && e.x.Frame == nil {
		return nil
	}
	return &e.x
}
