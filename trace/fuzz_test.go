package trace

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// FuzzNativeReader reads damaged files. With mend, the checksums are made right
// first, so that what they protect is reached too.
//
// Properties: no panic; tables no larger than FORMAT.md 6.2 says; the records
// that are read, written again, read as the same; counting agrees with reading
// where nothing is damaged.
func FuzzNativeReader(f *testing.F) {
	for seed := range uint64(4) {
		_, data := write(f, seed, 12, 4096)
		f.Add(data[testHead:], true)
		f.Add(data, false)
	}
	_, data := write(f, 5, 60, 4096)
	f.Add(data[testHead:], true)
	head := newMemoryFile(testHead)
	newTestWriter(f, head, 4096)

	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = append(slices.Clone(head.data[:testHead]), data...)
			clear(data[countersOffset:fieldsOffset])
			for off := testHead; off+frameHeaderSize <= len(data); {
				var h frameHeader
				if h.parse(data[off:]); h.length == 0 || h.length > maxPayload || off+int(h.size()) > len(data) {
					break
				}
				if h.kind == kindBlock && h.length >= blockStartSize {
					binary.LittleEndian.PutUint64(data[off+frameHeaderSize+16:], uint64(off))
				}
				reseal(data, off)
				off += int(h.size())
			}
		}
		r, err := newNativeReader("fuzz", bytesFile(data), unguarded, nil)
		if err != nil {
			return
		}
		out := newMemoryFile(64 << 10)
		w, err := newWriter(out, r.Header(), writerOptions{})
		if err != nil {
			t.Skip(err) // fields of more than the head
		}
		var written []call
		var a Args
		records, keys, damaged := int64(0), 0, false
		for {
			for r.Next() && keys < 1<<22 {
				records++
				rec := r.Record()
				err := r.Args(&a)
				keys += len(a.Keys)
				if a.Spec != nil {
					for _, g := range a.Spec.Groups {
						keys += len(g.Keys)
					}
				}
				if err != nil || !asInSchema(r.op) {
					continue
				}
				if err := w.Call(rec.Op, rec.Seq, rec.MonoNS, rec.WallNS, &a); err != nil {
					t.Fatalf("write back %+v: %v", rec, err)
				}
				written = append(written, call{op: rec.Op, seq: rec.Seq, mono: rec.MonoNS, wall: rec.WallNS, args: cloneArgs(&a)})
			}
			if r.Err() != nil {
				damaged = true
			}
			if !r.Skip() {
				break
			}
		}
		if got := 4*len(r.tables.runOf) + 32*len(r.tables.runs) + len(r.tables.hashes); got > 37*len(data)+64 {
			t.Errorf("tables of %d bytes for a file of %d", got, len(data))
		}
		s, err := r.Summarize()
		if err != nil {
			t.Fatal(err)
		}
		if !damaged && s.Damage == nil && !s.Sealed && s.Records < records {
			t.Errorf("counted %d records, read %d", s.Records, records)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again := openBytes(t, out.data)
		for i := range written {
			if !again.Next() {
				t.Fatalf("record %d of %d: %v", i, len(written), again.Err())
			}
			if err := sameCall(again, &a, &written[i]); err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
		}
	})
}

// asInSchema reports whether a file defines an operation as this build does.
func asInSchema(d *opDefinition) bool {
	return d.op != OpUnknown && slices.EqualFunc(d.args, d.op.Row().Args, func(x argDefinition, y Arg) bool { return x.name == y.Name && x.typ == y.Type })
}

func cloneArgs(a *Args) Args {
	c := *a
	c.Keys = slices.Clone(a.Keys)
	if a.Spec != nil {
		spec := *a.Spec
		spec.Groups = slices.Clone(spec.Groups)
		for i := range spec.Groups {
			spec.Groups[i].Keys = slices.Clone(spec.Groups[i].Keys)
		}
		cloneTags := func(tags []kv.MemoryTag) []kv.MemoryTag {
			if tags == nil {
				return nil
			}
			return append([]kv.MemoryTag{}, tags...)
		}
		spec.L1Tags, spec.L2Tags = cloneTags(spec.L1Tags), cloneTags(spec.L2Tags)
		c.Spec = &spec
	}
	return c
}
