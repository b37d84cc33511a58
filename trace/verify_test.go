package trace

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// verifiedFile gives a file of several blocks, with sequence numbers that leave
// out noted drops only, and outcomes for two thirds of the calls; sealed, or as a
// crash leaves it.
func verifiedFile(t testing.TB, sealed bool) (calls []call, data []byte) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	g := newGenerator(13)
	seq, dropped := uint64(0), uint64(0)
	for i := range 60 {
		if i == 20 || i == 41 {
			dropped += 6
			seq += 6
			if err := w.Drops(dropped); err != nil {
				t.Fatal(err)
			}
		}
		c := g.next()
		c.seq = seq
		seq++
		if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
		if i%3 != 1 {
			o := Outcome{Counts: [MaxCounts]uint32{2}, Bits: [MaxOutcomeBits]Bits{{Words: []uint64{5}, N: 3}}}
			if err := w.Outcome(c.op, c.seq, c.mono+100, c.wall+100, 100, &o); err != nil {
				t.Fatal(err)
			}
		}
		if i == 30 {
			w.Flush()
		}
	}
	if len(w.blocks) < 4 {
		t.Fatalf("%d blocks", len(w.blocks))
	}
	if sealed {
		w.LostOutcomes(3)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return calls, f.data
	}
	w.Flush()
	return calls, f.data[:f.off+256]
}

// testFrame is a frame of a test file.
type testFrame struct {
	off, end int
	h        frameHeader
	call     int // calls before it
}

func framesOf(data []byte) (frames []testFrame) {
	calls := 0
	for off := testHead; off+frameHeaderSize <= len(data); {
		f := testFrame{off: off, call: calls}
		f.h.parse(data[off:])
		f.end = off + int(f.h.size())
		if f.h.length == 0 {
			break
		}
		frames = append(frames, f)
		if f.h.kind == kindCall {
			calls++
		}
		off = f.end
	}
	return frames
}

func verifyBytes(t testing.TB, data []byte) *Verification {
	t.Helper()
	r, err := newNativeReader("v.lct", bytesFile(slices.Clone(data)), unguarded, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.verify(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// report is what a test compares: the verdict and every finding.
func report(v *Verification) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, ok %t, sealed %t\n", v, v.OK(), v.Sealed)
	for _, p := range v.Parts {
		if p.Damage != nil {
			fmt.Fprintf(&b, "damaged %d-%d %s\n", p.Offset, p.End, p.Damage.Field)
		} else {
			fmt.Fprintf(&b, "whole %d-%d records %d, calls %d-%d\n", p.Offset, p.End, p.Records, p.FirstSeq, p.LastSeq)
		}
	}
	for _, g := range v.Gaps {
		fmt.Fprintf(&b, "gap %d+%d dropped %t at %d\n", g.FirstSeq, g.Count, g.Dropped, g.Offset)
	}
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "wrong %s at %d\n", p.Field, p.Offset)
	}
	return b.String()
}

// TestVerify damages a file in every way of FORMAT.md 6.1 and compares the whole
// verdict.
func TestVerify(t *testing.T) {
	calls, sealed := verifiedFile(t, true)
	_, open := verifiedFile(t, false)
	frames := framesOf(sealed)
	end, openEnd := len(sealed), len(open)-256
	find := func(k kind, n int) testFrame { // the n-th frame of kind k
		for _, f := range frames {
			if f.h.kind == k {
				if n == 0 {
					return f
				}
				n--
			}
		}
		t.Fatalf("no such frame of kind %d", k)
		return testFrame{}
	}
	findOp := func(op Op) testFrame {
		n := 0
		for find(kindCall, n).h.op != uint16(op) {
			n++
		}
		return find(kindCall, n)
	}
	// A call whose loss concerns no other: it brings no nodes. It is longer than
	// where the file is cut below.
	alone := func() (f testFrame) {
		for _, g := range frames {
			if g.h.kind == kindCall && g.h.flags&flagNodes == 0 && g.call > 42 && g.call < 58 && g.end > g.off+40 {
				f = g
			}
		}
		return f
	}()
	if alone.off == 0 {
		t.Fatal("no call to lose")
	}
	footer := frames[len(frames)-1]

	seq := func(n int) uint64 { return calls[n].seq }
	whole := func(from, to int, first, last int) string { // with calls [first, last)
		return fmt.Sprintf("whole %d-%d records %d, calls %d-%d\n", from, to, last-first, seq(first), seq(last-1))
	}
	damaged := func(from, to int, field string) string { return fmt.Sprintf("damaged %d-%d %s\n", from, to, field) }
	gap := func(first uint64, n int, dropped bool, at int) string {
		return fmt.Sprintf("gap %d+%d dropped %t at %d\n", first, n, dropped, at)
	}
	wrong := func(field string, at int) string { return fmt.Sprintf("wrong %s at %d\n", field, at) }
	drop1, drop2 := gap(20, 6, true, find(kindCall, 20).off), gap(47, 6, true, find(kindCall, 41).off)
	drops := drop1 + drop2
	verdict := func(records int, lost, more string, sealed bool) string {
		return fmt.Sprintf("%d records, %s lost (12 dropped by the recorder)%s, ok false, sealed %t\n", records, lost, more, sealed)
	}
	const oneDamage = "; damaged in 1 place"
	withoutOne := func(f testFrame, field string) string {
		return verdict(59, "13", oneDamage, true) + whole(testHead, f.off, 0, f.call) + damaged(f.off, f.end, field) +
			whole(f.end, end, f.call+1, 60) + drops + gap(seq(f.call), 1, false, find(kindCall, f.call+1).off)
	}
	block1, block2 := func() (a, b testFrame) { // a block between the drops
		for n := 1; ; n++ {
			if a, b = find(kindBlock, n), find(kindBlock, n+1); a.call > 20 && b.call <= 41 {
				return a, b
			}
		}
	}()

	for _, c := range []struct {
		name string
		file []byte
		do   func(b []byte) []byte
		want string
	}{
		{"nothing but drops", sealed, func(b []byte) []byte { return b },
			verdict(60, "12", "", true) + whole(testHead, end, 0, 60) + drops},
		{"not sealed", open, func(b []byte) []byte { return b },
			verdict(60, "12", "", false) + whole(testHead, openEnd, 0, 60) + drops},
		{"checksum of a call", sealed, func(b []byte) []byte { b[alone.off+33] ^= 4; return b }, withoutOne(alone, "checksum")},
		{"length of a call", sealed, func(b []byte) []byte { b[alone.off+3] = 0xff; return b }, withoutOne(alone, "length")},
		{"checksum of an outcome", sealed, func(b []byte) []byte { b[find(kindOutcome, 7).off+32] ^= 1; return b },
			verdict(60, "12", oneDamage, true) + func() string {
				o := find(kindOutcome, 7)
				return whole(testHead, o.off, 0, o.call) + damaged(o.off, o.end, "checksum") + whole(o.end, end, o.call, 60)
			}() + drops},
		{"a block start: its block is lost", sealed, func(b []byte) []byte { b[block1.off+40] ^= 1; return b }, func() string {
			n := block2.call - block1.call
			return verdict(60-n, fmt.Sprint(12+n), oneDamage, true) + whole(testHead, block1.off, 0, block1.call) +
				damaged(block1.off, block2.off, "checksum") + whole(block2.off, end, block2.call, 60) +
				drop1 + gap(seq(block1.call), n, false, find(kindCall, block2.call).off) + drop2
		}()},
		{"the footer", sealed, func(b []byte) []byte { b[footer.off+50] ^= 1; return b },
			verdict(60, "12", oneDamage, false) + whole(testHead, footer.off, 0, 60) + damaged(footer.off, end, "checksum") + drops},
		{"a footer that lies", sealed, func(b []byte) []byte { b[footer.off+frameHeaderSize]++; reseal(b, footer.off); return b },
			verdict(60, "13", "; 3 findings", true) + whole(testHead, end, 0, 60) + drops +
				wrong("header", countersOffset) + wrong("footer", footer.off) + wrong("header", countersOffset)},
		{"a copy of the counters", sealed, func(b []byte) []byte { b[countersOffset+countersStride+9] ^= 1; return b },
			verdict(60, "12", "; 1 finding", true) + whole(testHead, end, 0, 60) + drops + wrong("header", countersOffset+countersStride)},
		{"both copies, sealed", sealed, func(b []byte) []byte { b[countersOffset+9] ^= 1; b[countersOffset+countersStride+9] ^= 1; return b },
			verdict(60, "12", "; 1 finding", true) + whole(testHead, end, 0, 60) + drops + wrong("header", countersOffset)},
		{"both copies, not sealed", open, func(b []byte) []byte { b[countersOffset+9] ^= 1; b[countersOffset+countersStride+9] ^= 1; return b },
			verdict(60, "12", "; 1 finding", false) + whole(testHead, openEnd, 0, 60) + drops + wrong("header", countersOffset)},
		{"cut before the end that the header tells", sealed, func(b []byte) []byte { return b[: alone.off+24 : alone.off+24] },
			verdict(alone.call, fmt.Sprint(12+60-alone.call), "; 1 finding", false) + whole(testHead, alone.off, 0, alone.call) + drops +
				gap(seq(alone.call), 60-alone.call, false, alone.off) + wrong("length", alone.off+24)},
		{"cut in a frame behind the end that the header tells", open, func(b []byte) []byte {
			clear(b[countersOffset:fieldsOffset])
			return b[: alone.off+40 : alone.off+40]
		}, verdict(alone.call, "at least 13", "; 1 finding", false) + whole(testHead, alone.off, 0, alone.call) + drops + wrong("length", alone.off)},
		{"a length of zero before whole frames", open, func(b []byte) []byte {
			clear(b[countersOffset:fieldsOffset])
			clear(b[alone.off : alone.off+4])
			return b
		}, verdict(59, "at least 13", oneDamage, false) + whole(testHead, alone.off, 0, alone.call) + damaged(alone.off, alone.end, "length") +
			whole(alone.end, openEnd, alone.call+1, 60) + drops + gap(seq(alone.call), 1, false, find(kindCall, alone.call+1).off)},
		{"arguments that break a rule", sealed, func(b []byte) []byte {
			f := findOp(OpReserveWrite)
			b[f.off+frameHeaderSize+int(f.h.length)-1] = 9 // the mode
			reseal(b, f.off)
			return b
		}, verdict(59, "13", "; 1 finding", true) + whole(testHead, end, 0, 60) + drops + wrong("args", findOp(OpReserveWrite).off)},
		{"an outcome whose bitmap is not its count", sealed, func(b []byte) []byte {
			f := find(kindOutcome, 3)
			b[f.off+frameHeaderSize+int(f.h.length)-1] ^= 2 // bits 101 become 111
			reseal(b, f.off)
			return b
		}, verdict(60, "12", "; 2 findings", true) + whole(testHead, end, 0, 60) + drops +
			wrong("outcome", find(kindOutcome, 3).off) + wrong("footer", footer.off)},
		{"a number that repeats", sealed, func(b []byte) []byte {
			f := find(kindCall, 1)
			b[f.off+frameHeaderSize] = 0
			reseal(b, f.off)
			return b
		}, ""},
		{"a drop notice that lies", sealed, func(b []byte) []byte {
			f := find(kindDrops, 0)
			b[f.off+frameHeaderSize+int(f.h.length)-2]++
			reseal(b, f.off)
			return b
		}, verdict(60, "12", "; 1 finding", true) + whole(testHead, end, 0, 60) + drops + wrong("drops", find(kindDrops, 0).off)},
		{"a block start that lies", sealed, func(b []byte) []byte {
			b[block2.off+frameHeaderSize+40]++
			reseal(b, block2.off)
			return b
		}, verdict(60, "12", "; 1 finding", true) + whole(testHead, end, 0, 60) + drops + wrong("block", block2.off)},
	} {
		v := verifyBytes(t, c.do(slices.Clone(c.file)))
		if got := report(v); c.want != "" && got != c.want {
			t.Errorf("%s:\ngot\n%s%v %v\nwant\n%s", c.name, got, v.Problems, v.Notes, c.want)
		}
		if c.want == "" && (len(v.Problems) == 0 || v.OK()) {
			t.Errorf("%s: got\n%s", c.name, report(v))
		}
	}
	if v := verifyBytes(t, sealed); v.Outcomes != 40 || v.LostOutcomes != 3 {
		t.Errorf("%d outcomes, %d lost; want 40, 3", v.Outcomes, v.LostOutcomes)
	}
}

// TestVerifyWhole checks files that nothing is wrong with, sealed or not.
func TestVerifyWhole(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	if v := verifyBytes(t, f.data); !v.OK() || v.String() != "0 records, 0 lost" || len(v.Notes) != 1 {
		t.Errorf("nothing written: %s%v", report(v), v.Notes)
	}
	for i := range 100 {
		mustCall(t, w, OpFinishWrite, uint64(i), oneKey(i))
	}
	// As after a crash: the counts are those of the start, a frame is half written.
	data := append(slices.Clone(f.data[:f.off]), make([]byte, 512)...)
	data[f.off+8] = 1
	if v := verifyBytes(t, data); !v.OK() || v.String() != "100 records, 0 lost" || len(v.Notes) != 2 {
		t.Errorf("crashed: %s%v", report(v), v.Notes)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verifyBytes(t, f.data); !v.OK() || v.String() != "100 records, 0 lost" || len(v.Notes) != 0 || !v.Sealed {
		t.Errorf("sealed: %s%v", report(v), v.Notes)
	}
}

// TestVerifyTrailingDrops checks calls that were dropped behind the last record:
// no sequence number tells of them.
func TestVerifyTrailingDrops(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	mustCall(t, w, OpFinishWrite, 0, oneKey(0))
	if err := w.Drops(5); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	v := verifyBytes(t, f.data)
	if v.OK() || v.Lost != 5 || v.Dropped != 5 || len(v.Gaps) != 1 || !v.Gaps[0].Dropped || v.Gaps[0].Count != 5 || len(v.Problems) != 0 {
		t.Error(report(v))
	}
}

// TestVerifyLive verifies a file while it is written: whatever the moment,
// nothing is wrong.
func TestVerifyLive(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	for i := range 200 {
		r, err := newNativeReader("v.lct", &liveFile{f, f.data}, unguarded, nil)
		if err != nil {
			t.Fatal(err)
		}
		mustCall(t, w, OpFinishWrite, uint64(i), oneKey(i))
		if i%7 == 0 {
			w.Flush()
		}
		if v, err := r.verify(context.Background()); err != nil || !v.OK() || v.Records != int64(i+1) {
			t.Fatalf("after %d calls: %v, %v", i+1, err, report(v))
		}
	}
}

// TestVerifyEveryBit flips bits of all frames and counters of a sealed file: none
// goes unnoticed, and the parts that are told meet each other.
func TestVerifyEveryBit(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	g := newGenerator(4)
	for i := range 6 {
		c := g.next()
		if err := w.Call(c.op, uint64(i), c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		o := Outcome{Failed: i == 3}
		if err := w.Outcome(c.op, uint64(i), c.mono, c.wall, 5, &o); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verifyBytes(t, f.data); !v.OK() {
		t.Fatal(report(v))
	}
	flip := func(from, to int) {
		for at := from; at < to; at++ {
			data := slices.Clone(f.data)
			data[at] ^= 1 << (at % 8)
			v := verifyBytes(t, data)
			if v.OK() || v.Records > 6 || v.Lost > 6 {
				t.Fatalf("bit %d of byte %d: %s", at%8, at, report(v))
			}
			for i := 1; i < len(v.Parts); i++ {
				if v.Parts[i].Offset != v.Parts[i-1].End {
					t.Fatalf("bit %d of byte %d: parts do not meet: %s", at%8, at, report(v))
				}
			}
		}
	}
	flip(testHead, len(f.data))
	flip(countersOffset, countersOffset+countersSize)
	flip(countersOffset+countersStride, countersOffset+countersStride+countersSize)
}

// FuzzVerify: no panic, no hang, and findings within the file.
func FuzzVerify(f *testing.F) {
	_, sealed := verifiedFile(f, true)
	_, open := verifiedFile(f, false)
	f.Add(sealed[testHead:], uint64(0), true)
	f.Add(open[testHead:], uint64(3), false)
	f.Add(sealed[testHead:], uint64(9), true)
	head := newMemoryFile(testHead)
	newTestWriter(f, head, 4096)
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, mend bool) {
		data := append(slices.Clone(head.data[:testHead]), body...)
		rnd := rand.New(rand.NewPCG(seed, 2))
		for range seed % 8 {
			if len(body) > 0 {
				data[testHead+rnd.IntN(len(body))] ^= 1 << rnd.IntN(8)
			}
		}
		if mend {
			for _, fr := range framesOf(data) {
				if fr.h.length > maxPayload || fr.end > len(data) {
					break
				}
				if fr.h.kind == kindBlock && fr.h.length >= blockStartSize {
					binary.LittleEndian.PutUint64(data[fr.off+frameHeaderSize+16:], uint64(fr.off))
				}
				reseal(data, fr.off)
			}
		}
		v := verifyBytes(t, data)
		offset := int64(testHead)
		for _, p := range v.Parts {
			if p.Offset < offset || p.End < p.Offset || p.End > int64(len(data)) {
				t.Fatalf("parts %+v of %d bytes", v.Parts, len(data))
			}
			offset = p.End
		}
		if v.Records < 0 || v.Lost < 0 || v.Dropped < 0 || v.OK() && v.Lost+v.Unreadable > 0 {
			t.Fatalf("%+v", v)
		}
	})
}
