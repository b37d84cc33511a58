package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
)

// honestFile gives a file of several blocks as a recorder writes it: numbers
// count dropped calls, notices tell of them, most calls have an outcome.
func honestFile(t testing.TB, calls int, sealed bool) (list []call, dropped uint64, data []byte) {
	t.Helper()
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	g := newGenerator(7)
	for i := range calls {
		if i > 0 && i%11 == 0 {
			dropped += uint64(i % 4)
			if err := w.Drops(dropped); err != nil {
				t.Fatal(err)
			}
		}
		c := g.next()
		c.seq = uint64(i) + dropped
		if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		if i%3 > 0 {
			if err := w.Outcome(c.op, c.seq, c.mono+5, c.wall+5, 5, &Outcome{Counts: [MaxCounts]uint32{uint32(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		list = append(list, c)
		if i == calls/2 {
			w.Flush()
		}
	}
	dropped += 2
	if err := w.Drops(dropped); err != nil {
		t.Fatal(err)
	}
	if len(w.blocks) < 2 {
		t.Fatalf("%d blocks", len(w.blocks))
	}
	if !sealed {
		return list, dropped, f.data[:f.off+512]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return list, dropped, f.data
}

// checkRepaired compares a repaired file with what was recorded and with what the
// repair says.
func checkRepaired(t *testing.T, what string, rep *Repair, out []byte, list []call) (got []call) {
	t.Helper()
	got, outcomes := readRepaired(t, what, out)
	bySeq := map[uint64]*call{}
	for i := range list {
		bySeq[list[i].seq] = &list[i]
	}
	for i := range got {
		want := bySeq[got[i].seq]
		if want == nil || i > 0 && got[i].seq <= got[i-1].seq {
			t.Fatalf("%s: record %d has number %d", what, i, got[i].seq)
		}
		if err := sameArgs(&got[i].args, &want.args); err != nil || got[i].op != want.op || got[i].mono != want.mono || got[i].wall != want.wall {
			t.Fatalf("%s: record %d: %v", what, i, err)
		}
	}
	for _, o := range outcomes {
		if c := bySeq[o.Seq]; c == nil || c.op != o.Op || o.DurationNS != 5 {
			t.Fatalf("%s: outcome %+v", what, o)
		}
	}
	if rep.Records() != int64(len(got)) || rep.Complete() != (rep.Lost == 0) {
		t.Fatalf("%s: %d records, the repair says %+v", what, len(got), rep)
	}
	r := openBytes(t, out)
	if v, err := r.verify(t.Context()); err != nil || len(v.Problems) > 0 || v.Damaged() > 0 {
		t.Fatalf("%s: verify of the new file: %v, %v, %v", what, v, err, v.Problems)
	}
	s, err := openBytes(t, out).Summarize()
	if err != nil || s.Dropped != rep.Lost+rep.Dropped || s.Lost > s.Dropped || s.Damage != nil {
		t.Fatalf("%s: the summary says %s, %v; the repair %d lost, %d dropped", what, s.Completeness(), err, rep.Lost, rep.Dropped)
	}
	return got
}

func TestRepairOfASoundFile(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		list, dropped, data := honestFile(t, 60, sealed)
		rep, out, err := repairBytes(t, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := checkRepaired(t, "sound", rep, out, list)
		if len(got) != len(list) || rep.Dropped != int64(dropped) || rep.Lost != 0 || rep.Whole != sealed || len(rep.Damage) > 0 {
			t.Errorf("%d records: %+v", len(got), rep)
		}
		if sealed && !bytes.Equal(out[testHead:], data[testHead:]) {
			for i := testHead; ; i++ {
				if out[i] != data[i] {
					at := frameAt(data, i)
					t.Fatalf("%d and %d bytes; they differ from %d on, in the frame at %d of kind %d", len(out), len(data), i, at, data[at+6])
				}
			}
		}
		again, out2, err := repairBytes(t, out, nil)
		if err != nil || !again.Whole || !bytes.Equal(out, out2) {
			t.Errorf("repaired again: %+v, %v, same %t", again, err, bytes.Equal(out, out2))
		}
	}
}

func TestRepairCutAnywhere(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		list, dropped, data := honestFile(t, 40, sealed)
		total := int64(len(list)) + int64(dropped)
		ends := []int{0} // of the calls' frames
		for _, at := range frames(data, kindCall) {
			var h frameHeader
			h.parse(data[at:])
			ends = append(ends, at+int(h.size()))
		}
		for n := testHead; n < len(data); n++ {
			if n%8 > 1 || raceflag.Enabled && n%7 != 0 {
				continue // frames are 8-aligned
			}
			what := fmt.Sprintf("sealed %t, cut at %d", sealed, n)
			rep, out, err := repairBytes(t, data[:n:n], nil)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got := checkRepaired(t, what, rep, out, list)
			whole, _ := slices.BinarySearch(ends, n+1)
			whole-- // the last one that ends at n or before
			if len(got) != whole || whole > 0 && got[whole-1].seq != list[whole-1].seq {
				t.Fatalf("%s: %d records; %d are whole", what, len(got), whole)
			}
			if sealed && (rep.Kept+rep.Lost+rep.Dropped != total || rep.Dropped != int64(dropped) || rep.Whole) {
				t.Fatalf("%s: %+v; %d calls were made, %d dropped", what, rep, total, dropped)
			}
			if !sealed && rep.Lost > 0 && whole > len(list)/2 {
				t.Fatalf("%s: %+v; the counts were stored after %d calls", what, rep, len(list)/2)
			}
		}
		for _, n := range []int{0, 7, 8, 15, 63, 4096, fieldsOffset - 1, fieldsOffset + 9, testHead - 1} {
			if _, _, err := repairBytes(t, data[:n:n], nil); err == nil {
				t.Errorf("cut at %d: no error", n)
			}
		}
	}
}

func TestRepairFlipAnyBit(t *testing.T) {
	list, dropped, data := honestFile(t, 40, true)
	total := int64(len(list)) + int64(dropped)
	rnd := rand.New(rand.NewPCG(1, 5))
	fields := fieldsOffset + len(appendFields(nil, &testHeader))
	notComplete := 0
	for n := range data {
		if n >= fixedHeaderSize && n < countersOffset || n >= fields && n < testHead {
			continue // no reader looks at these
		}
		if n >= testHead && n%5 != 0 || raceflag.Enabled && n%7 != 0 {
			continue
		}
		b := slices.Clone(data)
		b[n] ^= 1 << rnd.IntN(8)
		what := fmt.Sprintf("flip in byte %d", n)
		rep, out, err := repairBytes(t, b, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		checkRepaired(t, what, rep, out, list)
		if rep.Kept+rep.Lost+rep.Dropped != total || rep.Dropped != int64(dropped) {
			t.Fatalf("%s: %+v; %d calls were made, %d dropped", what, rep, total, dropped)
		}
		inCounters := n >= countersOffset && n < fieldsOffset
		switch {
		case n < testHead && rep.Lost > 0:
			t.Fatalf("%s: %+v: no record is in the header", what, rep)
		case !inCounters && (len(rep.Damage) != 1 || rep.Whole):
			t.Fatalf("%s: %+v: one damage", what, rep)
		case n >= testHead && (int64(n) < rep.Damage[0].From || int64(n) >= rep.Damage[0].To):
			t.Fatalf("%s: damage from %d to %d", what, rep.Damage[0].From, rep.Damage[0].To)
		}
		if rep.Lost > 0 {
			notComplete++
			if d := rep.Damage[0]; d.Missing < uint64(rep.Lost) {
				t.Fatalf("%s: %d lost, the damage says %+v", what, rep.Lost, d)
			}
		}
	}
	if notComplete == 0 {
		t.Error("no flip lost a record")
	}
}

// TestRepairLostPages clears whole pages, as a power cut may: in a file that was
// not sealed there are frames behind what looks like the end.
func TestRepairLostPages(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		list, dropped, data := honestFile(t, 150, sealed)
		for from := testHead; from < len(data); from += 512 {
			b := slices.Clone(data)
			clear(b[from:min(from+512, len(b))])
			what := fmt.Sprintf("sealed %t, zeros at %d", sealed, from)
			rep, out, err := repairBytes(t, b, nil)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got := checkRepaired(t, what, rep, out, list)
			if rep.Lost > 100 {
				t.Errorf("%s: %+v", what, rep)
			}
			if (sealed || from < len(data)-8192) && rep.Kept+rep.Lost+rep.Dropped != int64(len(list))+int64(dropped) {
				t.Errorf("%s: %d records: %+v", what, len(got), rep)
			}
		}
	}
}

// TestRepairManyDamages damages many places of a file at once, and has parts of
// it twice: the new file has no damage, each call once, and no outcome without
// its call.
func TestRepairManyDamages(t *testing.T) {
	list, _, data := honestFile(t, 150, true)
	calls := frames(data, kindCall)
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		b := slices.Clone(data)
		what := fmt.Sprintf("seed %d", seed)
		if seed%2 == 0 {
			for range 1 + rnd.IntN(12) {
				b[testHead+rnd.IntN(len(b)-testHead)] ^= 1 << rnd.IntN(8)
			}
		} else {
			from := rnd.IntN(len(calls) - 1)
			to := min(from+1+rnd.IntN(20), len(calls)-1)
			b = slices.Insert(b, calls[to], data[calls[from]:calls[to]]...)
		}
		rep, out, err := repairBytes(t, b, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		checkRepaired(t, what, rep, out, list)
		if rep.Whole || len(rep.Damage) == 0 {
			t.Errorf("%s: the repair saw nothing: %+v", what, rep)
		}
	}
}

// TestRepairLostBlockStart loses what its block's calls refer to; the blocks
// behind get other numbers.
func TestRepairLostBlockStart(t *testing.T) {
	list, dropped, data := honestFile(t, 150, true)
	blocks := frames(data, kindBlock)
	if len(blocks) < 4 {
		t.Fatalf("%d blocks", len(blocks))
	}
	b := slices.Clone(data)
	b[blocks[1]+frameHeaderSize] ^= 1
	rep, out, err := repairBytes(t, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := checkRepaired(t, "block start", rep, out, list)
	lost := 0
	for _, at := range frames(data, kindCall) {
		if at > blocks[1] && at < blocks[2] {
			lost++
		}
	}
	if rep.Lost != int64(lost) || rep.Dropped != int64(dropped) || len(got) != len(list)-lost {
		t.Errorf("%d records, %d lost with the block: %+v", len(got), lost, rep)
	}
	if n := len(frames(out, kindBlock)); n != len(blocks)-1 {
		t.Errorf("%d blocks; want %d", n, len(blocks)-1)
	}
	// The block behind it as it was, but for its number.
	if n := bytes.Count(out, data[blocks[2]+frameHeaderSize+frameHeaderSize+blockStartSize+8:][:8]); n == 0 {
		t.Error("the next block is not there")
	}
}

// TestRepairUnknown keeps what this build does not understand.
func TestRepairUnknown(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	mustCall(t, w, OpFinishWrite, 0, &Args{Keys: keysOf(hashes(1, 2), oneContext)})
	w.monoNS = 77
	payload := func(p ...byte) []byte { return append(make([]byte, frameStart), p...) }
	if err := w.emit(kindOp, 600, payload(append(appendStr(nil, "a.b.C.later"), 1, 1, 'x', 4, 'q', 'b', 'i', 't')...)); err != nil {
		t.Fatal(err)
	}
	if err := w.emit(kindCall, 600, payload(2, 1, 2, 3)); err != nil { // number 1
		t.Fatal(err)
	}
	if err := w.emit(99, 0, payload(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	mustCall(t, w, OpFinishWrite, 2, &Args{})
	end := f.off
	rep, out, err := repairBytes(t, f.data[:end], nil)
	if err != nil || rep.Kept != 3 || rep.Lost != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if !bytes.Equal(out[testHead:end], f.data[testHead:end]) {
		t.Error("the frames are others")
	}
	s, err := openBytes(t, out).Summarize()
	if err != nil || !slices.Contains(s.Ops, OpCount{"a.b.C.later", 1}) {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRepairHeader mends a damaged header, and tells a newer version from damage.
func TestRepairHeader(t *testing.T) {
	list, _, data := honestFile(t, 60, true)
	flip := func(n int) []byte { b := slices.Clone(data); b[n] ^= 4; return b }
	for _, n := range []int{0, 7, 8, 12, 16, 17, 24, 32, 40, 48, 52, 53, 56, fieldsOffset, fieldsOffset + 4, fieldsOffset + 40} {
		rep, out, err := repairBytes(t, flip(n), nil)
		if err != nil {
			t.Fatalf("byte %d: %v", n, err)
		}
		checkRepaired(t, fmt.Sprint("byte ", n), rep, out, list)
		if len(rep.Damage) != 1 || rep.Damage[0].Field != "header" || !rep.Complete() {
			t.Errorf("byte %d: %+v", n, rep)
		}
		// What the checksum proves is right again.
		if h := openBytes(t, out).Header(); n < 16 && (h.ConfigJSON != testHeader.ConfigJSON || h.Host != testHeader.Host || h.PID != testHeader.PID) {
			t.Errorf("byte %d: header %+v", n, h)
		}
	}
	if !ResemblesNative(flip(3)) || ResemblesNative(flip(3)[:100]) || !ResemblesNative(data[:8]) || ResemblesNative(make([]byte, 20000)) {
		t.Error("ResemblesNative")
	}
	newer := slices.Clone(data)
	newer[8] = 2
	size := len(appendFields(nil, &testHeader))
	putRingWord(newer, 56, headerChecksum(newer, newer[fieldsOffset:fieldsOffset+size]))
	var version *VersionError
	if _, _, err := repairBytes(t, newer, nil); !errors.As(err, &version) || version.Got != 2 {
		t.Errorf("a newer version: %v", err)
	}
}

func TestRepairNativeFiles(t *testing.T) {
	dir := t.TempDir()
	_, _, data := honestFile(t, 60, true)
	data[frames(data, kindCall)[20]+40] ^= 1
	path, out := filepath.Join(dir, "a.lct"), filepath.Join(dir, "b.lct")
	if err := os.WriteFile(path, data, 0o400); err != nil {
		t.Fatal(err)
	}
	rep, err := RepairNative(path, out)
	if err != nil || rep.Lost == 0 || len(rep.Damage) != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	var text strings.Builder
	if err := rep.WriteText(&text, "a.lct", "b.lct"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Repaired: a.lct\n", fmt.Sprintf("  written to:           b.lct, %d bytes\n", rep.Bytes),
		fmt.Sprintf("  kept:                 %d\n", rep.Kept), fmt.Sprintf("  lost:                 %d\n", rep.Lost),
		fmt.Sprintf("  damage:               offsets %d to %d: checksum: computed ", rep.Damage[0].From, rep.Damage[0].To),
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	b, err := json.Marshal(rep.JSON())
	if err != nil || !strings.Contains(string(b), fmt.Sprintf(`"lost_records":%d,`, rep.Lost)) {
		t.Errorf("%s, %v", b, err)
	}
	// Nothing is left of a repair that fails, and nothing in its way is lost.
	if err := os.WriteFile(out+".partial", []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RepairNative(path, out); err == nil || !strings.Contains(err.Error(), "b.lct.partial is in the way") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path+"x", []byte("no trace"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RepairNative(path+"x", filepath.Join(dir, "c.lct")); !errors.Is(err, ErrNotNative) {
		t.Errorf("%v", err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "c.lct*")); len(list) > 0 {
		t.Errorf("left over: %v", list)
	}
}

// FuzzRepairNative repairs damaged files; with mend, what is in the frames is
// damaged under right checksums. Properties: no panic, and a file that has no
// damage, is sealed, and has as many records as the repair says.
func FuzzRepairNative(f *testing.F) {
	_, _, data := honestFile(f, 40, true)
	f.Add([]byte{}, false)
	f.Add([]byte{0x10, 0x40, 7, 0x40, 0x42, 1}, false)
	f.Add([]byte{0x28, 0x40, 7, 0x60, 0x44, 9, 0x08, 0x42, 1}, true)
	f.Fuzz(func(t *testing.T, edits []byte, mend bool) {
		b := slices.Clone(data)
		for ; len(edits) >= 3; edits = edits[3:] {
			at := (int(edits[0]) | int(edits[1])<<8) % len(b)
			b[at] ^= edits[2]
		}
		if len(edits) == 2 {
			b = b[:len(b)-int(edits[0])*8]
		}
		if mend {
			for off := testHead; off+frameHeaderSize <= len(b); {
				var h frameHeader
				if h.parse(b[off:]); h.length == 0 || h.length > maxPayload || off+int(h.size()) > len(b) {
					break
				}
				reseal(b, off)
				off += int(h.size())
			}
		}
		rep, out, err := repairBytes(t, b, nil)
		if err != nil {
			return
		}
		r, err := newNativeReader("out", bytesFile(out), unguarded, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for r.Next() {
			n++
		}
		if r.Err() != nil || !r.Sealed() || n != rep.Records() {
			t.Fatalf("sealed %t, %d records, %v: %+v", r.Sealed(), n, r.Err(), rep)
		}
		if s, err := r.Summarize(); err != nil || s.Damage != nil || s.Records != n || rep.Lost < 0 || rep.Dropped < 0 {
			t.Fatalf("summary %+v, %v: %+v", s, err, rep)
		}
	})
}
