package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
)

// reading is what a reader makes of a file, damage included.
type reading struct {
	openErr  error
	err      error
	warnings []string
	seqs     []uint64
}

// readDamaged reads data to its end, or to the first damage, or over all damage,
// and fails the test at a record that differs from the call of its sequence
// number, or at an error of a type that is not documented.
func readDamaged(t *testing.T, what string, data []byte, calls []call, skip bool) (got reading) {
	t.Helper()
	r, err := newNativeReader("d.lct", bytesFile(data), unguarded, func(m string) { got.warnings = append(got.warnings, m) })
	if err != nil {
		var corrupt *CorruptError
		var version *VersionError
		if !errors.Is(err, ErrNotNative) && !errors.Is(err, ErrTruncatedHeader) && !errors.As(err, &corrupt) && !errors.As(err, &version) {
			t.Fatalf("%s: open: untyped error %v", what, err)
		}
		got.openErr = err
		return got
	}
	bySeq := map[uint64]*call{}
	for i := range calls {
		bySeq[calls[i].seq] = &calls[i]
	}
	var a Args
	for {
		for r.Next() {
			want := bySeq[r.Record().Seq]
			if want == nil {
				t.Fatalf("%s: record %+v was never written", what, r.Record())
			}
			if err := sameCall(r, &a, want); err != nil && !(skip && errors.Is(err, ErrUndefined)) {
				t.Fatalf("%s: seq %d: %v", what, want.seq, err)
			}
			got.seqs = append(got.seqs, want.seq)
		}
		var corrupt *CorruptError
		if r.Err() != nil && !errors.As(r.Err(), &corrupt) {
			t.Fatalf("%s: untyped error %v", what, r.Err())
		}
		if r.Err() != nil && got.err == nil {
			got.err = r.Err()
		}
		if !skip || !r.Skip() {
			break
		}
	}
	if s, err := r.Summarize(); err != nil || s.Records > int64(len(calls)) && s.Damage == nil && got.err == nil {
		t.Fatalf("%s: Summarize: %v, %+v", what, err, s)
	}
	return got
}

// damagedFile gives a small file with two blocks and a drop notice, sealed or as
// a crash leaves it, and its calls.
func damagedFile(t *testing.T, sealed bool) ([]call, []byte) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	g := newGenerator(3)
	var calls []call
	for i := range 28 {
		c := g.next()
		if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
		if i == 9 || i == 20 {
			w.Drops(uint64(i))
			w.Flush()
		}
	}
	if sealed {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		f.data = f.data[:f.off+256]
	}
	if len(w.blocks) < 2 {
		t.Fatalf("%d blocks; want at least 2", len(w.blocks))
	}
	return calls, f.data
}

func seqs(calls []call) (s []uint64) {
	for i := range calls {
		s = append(s, calls[i].seq)
	}
	return s
}

func TestNativeCutAnywhere(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		calls, data := damagedFile(t, sealed)
		all := seqs(calls)
		for n := range data {
			if n > fixedHeaderSize && n < fieldsOffset && n%97 != 0 {
				continue // one message for all of them
			}
			what := fmt.Sprintf("sealed %v, cut at %d", sealed, n)
			got := readDamaged(t, what, data[:n:n], calls, false)
			if n < testHead {
				if got.openErr == nil {
					t.Fatalf("%s: opened", what)
				}
				continue
			}
			if got.openErr != nil || !slices.Equal(got.seqs, all[:len(got.seqs)]) {
				t.Fatalf("%s: open %v, records %v", what, got.openErr, got.seqs)
			}
			if sealed && got.err != nil {
				t.Fatalf("%s: a cut-off tail is an error: %v", what, got.err)
			}
			if sealed && !slices.ContainsFunc(got.warnings, func(m string) bool { return strings.Contains(m, "truncated at offset") }) {
				t.Fatalf("%s: warnings %q", what, got.warnings)
			}
		}
	}
}

func TestNativeFlipAnyBit(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		calls, data := damagedFile(t, sealed)
		all := seqs(calls)
		flip := slices.Clone(data)
		fields := fieldsOffset + len(appendFields(nil, &testHeader))
		for bit := range 8 * len(data) {
			at := bit / 8
			meant := at < fixedHeaderSize || at >= fieldsOffset && at < fields || at >= testHead ||
				at >= countersOffset && at < countersOffset+countersSize || at >= countersOffset+countersStride && at < countersOffset+countersStride+countersSize
			if !meant && bit%509 != 0 || (testing.Short() || !sealed) && bit%7 != 0 || raceflag.Enabled && bit%61 != 0 {
				continue
			}
			flip[at] ^= 1 << (bit % 8)
			what := fmt.Sprintf("sealed %v, bit %d of byte %d", sealed, bit%8, at)
			got := readDamaged(t, what, flip, calls, false)
			switch {
			case at < fixedHeaderSize || at >= fieldsOffset && at < fields:
				if got.openErr == nil {
					t.Fatalf("%s: opened", what)
				}
			case got.openErr != nil:
				t.Fatalf("%s: %v", what, got.openErr)
			case !slices.Equal(got.seqs, all[:len(got.seqs)]):
				t.Fatalf("%s: records %v", what, got.seqs)
			case len(got.seqs) < len(all) && got.err == nil && len(got.warnings) == 0:
				t.Fatalf("%s: %d of %d records and no word about it", what, len(got.seqs), len(all))
			case len(got.seqs) < len(all):
				// Skip loses the call at the damage; calls of an operation
				// whose definition is damaged; a block whose start is.
				var h frameHeader
				h.parse(data[frameAt(data, at):])
				over := readDamaged(t, what, flip, calls, true)
				if lost := len(all) - len(over.seqs); got.err != nil && lost > 1 && h.kind != kindOp && h.kind != kindBlock {
					t.Fatalf("%s: %d records lost, frame of kind %d", what, lost, h.kind)
				}
			}
			flip[at] ^= 1 << (bit % 8)
		}
	}
}

// TestNativeFault has a guard that reports a fault, as one does for a file that
// shrinks beneath its mapping.
func TestNativeFault(t *testing.T) {
	calls, data := write(t, 2, 2000, 64<<10)
	fault := errors.New("memory fault")
	broken := false
	guard := func(f func()) error {
		if broken {
			return fault
		}
		f()
		return nil
	}
	r, err := newNativeReader("f.lct", bytesFile(data), guard, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, whole := 0, 0
	for r.Next() {
		var a Args
		if err := sameCall(r, &a, &calls[got]); err != nil {
			t.Fatal(err)
		}
		if got++; got == 100 {
			broken = true
			whole = int(r.winOff) + len(r.win)
		}
	}
	if !errors.Is(r.Err(), fault) || r.Skip() || r.Offset() > int64(whole) || got < 100 || got == len(calls) {
		t.Errorf("%d records, offset %d of %d, Err %v", got, r.Offset(), whole, r.Err())
	}
	if _, err := newNativeReader("f.lct", bytesFile(data), guard, nil); !errors.Is(err, fault) {
		t.Errorf("open: got %v; want %v", err, fault)
	}
	if err := r.Close(); err != nil || r.Next() {
		t.Errorf("Close: %v", err)
	}
}

func TestNativeHeaderRefused(t *testing.T) {
	_, data := write(t, 1, 3, 4096)
	le := binary.LittleEndian
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
		want   string
	}{
		{"empty", func(b []byte) []byte { return nil }, `not a native trace file: bad magic (got "", expected "LMCTRACE")`},
		{"upstream's", func(b []byte) []byte { return []byte("\x00\x00\x00\x90\x89\xa4type") }, `not a native trace file: bad magic (got "\x00\x00\x00\x90\x89\xa4ty", expected "LMCTRACE")`},
		{"newer format", func(b []byte) []byte { le.PutUint32(b[8:], 2); return b }, "unsupported format_version 2 (this build reads 1)"},
		{"newer schema", func(b []byte) []byte { le.PutUint32(b[12:], 7); return b }, "unsupported trace_schema_version 7 (this build reads 1)"},
		{"cut", func(b []byte) []byte { return b[:5000] }, "truncated header: file has 5000 bytes"},
		{"config", func(b []byte) []byte { b[fieldsOffset+60] ^= 1; return b }, "corrupt header at offset 0: checksum"},
		{"fields size", func(b []byte) []byte { le.PutUint32(b[52:], 1<<31); return b }, "truncated header: fields of 2147483648 bytes"},
	} {
		_, err := newNativeReader("it's.lct", bytesFile(tt.damage(slices.Clone(data))), unguarded, nil)
		want := `trace file "it's.lct": ` + tt.want
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v; want %s", tt.name, err, want)
		}
	}
}

// frames returns the offsets of the frames of a kind.
func frames(data []byte, k kind) (offsets []int) {
	for off := testHead; off+frameHeaderSize <= len(data); {
		var h frameHeader
		if h.parse(data[off:]); h.length == 0 {
			break
		}
		if h.kind == k {
			offsets = append(offsets, off)
		}
		off += int(h.size())
	}
	return offsets
}

// frameAt returns the offset of the frame that byte at belongs to.
func frameAt(data []byte, at int) int {
	for off := testHead; ; {
		var h frameHeader
		h.parse(data[off:])
		if next := off + int(h.size()); h.length == 0 || at < next {
			return off
		} else {
			off = next
		}
	}
}

// reseal gives a changed frame its right checksum.
func reseal(data []byte, off int) {
	var h frameHeader
	h.parse(data[off:])
	var hasher frameHasher
	binary.LittleEndian.PutUint64(data[off+24:], hasher.sum(data[off:off+int(h.size())]))
}

// TestNativeLostBlockStart loses a block start: what follows must not be read
// with the definitions of the block before.
func TestNativeLostBlockStart(t *testing.T) {
	calls, data := write(t, 9, 200, 8192)
	starts := frames(data, kindBlock)
	if len(starts) < 4 {
		t.Fatalf("%d blocks", len(starts))
	}
	data[starts[1]+9] ^= 1
	got := readDamaged(t, "lost block start", data, calls, true)
	s, err := openBytes(t, data).Summarize()
	if err != nil {
		t.Fatal(err)
	}
	if want := footerOf(t, data).blocks[1].records; uint64(len(calls)-len(got.seqs)) != want {
		t.Errorf("%d records lost; want the %d of the block, summary %+v", len(calls)-len(got.seqs), want, s)
	}
}

func footerOf(t *testing.T, data []byte) *footer {
	t.Helper()
	ft := openBytes(t, data).footer()
	if ft == nil {
		t.Fatal("no footer")
	}
	return ft
}

// TestNativeUnknown reads a file of a later writer: frames of other kinds, other
// flags, an extension, an operation and an argument type that are not known.
func TestNativeUnknown(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	key, _ := kv.NewObjectKey([]byte("01234567"), mustScope("m", ""), 1, 0)
	args := Args{Keys: []kv.ObjectKey{key}}
	callOne := func(seq uint64) {
		if err := w.Call(OpFinishWrite, seq, int64(seq), 0, &args); err != nil {
			t.Fatal(err)
		}
	}
	callOne(0)
	w.emit(17, 3, append(w.defs[:frameStart], 1, 2, 3))
	callOne(1)
	// An extension with an entry of an unknown tag, then the known list.
	w.emitFlags(kindCall, uint16(OpFinishWrite), flagExtension, append(w.defs[:frameStart], 4, 3, 9, 1, 9, 2, 1, 1))
	w.emitFlags(kindCall, uint16(OpFinishWrite), 1<<2, append(w.defs[:frameStart], 6, 255, 255))
	b := appendStr(w.defs[:frameStart], "SM.later")
	b = appendStr(appendStr(append(b, 2), "keys"), "keys")
	b = appendStr(appendStr(b, "when"), "date")
	w.emit(kindOp, 999, b)
	w.emit(kindCall, 999, append(w.defs[:frameStart], 8, 0, 0))
	b = append(appendStr(w.defs[:frameStart], "SM.abort_write"), 1)
	w.emit(kindOp, 1000, appendStr(appendStr(b, "keys"), "keys"))
	w.emit(kindCall, 1000, append(w.defs[:frameStart], 10, 2, 1, 1))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	r := openBytes(t, f.data)
	for _, want := range []struct {
		op   Op
		name string
		err  string
	}{
		{OpFinishWrite, OpFinishWrite.String(), ""},
		{OpFinishWrite, OpFinishWrite.String(), ""},
		{OpFinishWrite, OpFinishWrite.String(), ""},
		{OpFinishWrite, OpFinishWrite.String(), "flags 0x4, which this build does not know"},
		{OpUnknown, "SM.later", `argument when has type "date", which this build does not know`},
		{OpUnknown, "SM.abort_write", ""},
	} {
		if !r.Next() {
			t.Fatalf("%s: Next is false: %v", want.name, r.Err())
		}
		var a Args
		err := r.Args(&a)
		if rec := r.Record(); rec.Op != want.op || rec.Qualname != want.name {
			t.Errorf("got %+v; want %s", rec, want.name)
		}
		if want.err == "" && (err != nil || sameArgs(&a, &args) != nil) || want.err != "" && (err == nil || !strings.Contains(err.Error(), want.err)) {
			t.Errorf("seq %d: got %v, %v; want %q", r.Record().Seq, a, err, want.err)
		}
	}
	if r.Next() || r.Err() != nil {
		t.Errorf("at the end: %v", r.Err())
	}
	// Without its footer the same file is counted by operation names.
	data := bytes.Clone(f.data[:r.counters.footer])
	clear(data[countersOffset:fieldsOffset])
	r, err := newNativeReader("x", bytesFile(data), unguarded, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Summarize()
	want := []OpCount{{"SM.abort_write", 1}, {"SM.later", 1}, {OpFinishWrite.String(), 4}}
	if err != nil || !slices.Equal(s.Ops, want) || s.Lost != 0 || s.Sealed || s.Damage != nil {
		t.Errorf("got %+v, %v; want ops %v", s, err, want)
	}
}
