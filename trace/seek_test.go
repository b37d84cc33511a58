package trace

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// timedFile gives a file of many blocks whose times grow but for jitter, and the
// times of its records in file order.
func timedFile(t testing.TB, sealed bool) (data []byte, times []int64) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range 1000 {
		ns := int64(i)*1000 + rnd.Int64N(20_000)
		if err := w.Call(OpFinishWrite, uint64(i), ns, ns, oneKey(i)); err != nil {
			t.Fatal(err)
		}
		if err := w.Outcome(OpFinishWrite, uint64(i), ns+1_000_000, ns, 1_000_000, &Outcome{}); err != nil {
			t.Fatal(err)
		}
		times = append(times, ns)
	}
	if len(w.blocks) < 10 {
		t.Fatalf("%d blocks", len(w.blocks))
	}
	if sealed {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return f.data, times
	}
	return f.data[:f.off+512], times
}

// TestSeekTime compares the records of a range of times with those of a full
// reading, and counts the bytes that were read for them.
func TestSeekTime(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		data, times := timedFile(t, sealed)
		for _, c := range [][2]int64{
			{0, math.MaxInt64}, {math.MinInt64, -1}, {500_000, 510_000}, {0, 1}, {times[999], math.MaxInt64}, {1 << 40, math.MaxInt64},
			{510_000, 500_000}, {700_000, 700_000},
		} {
			var want, got []int64
			for _, ns := range times {
				if c[0] <= ns && ns <= c[1] {
					want = append(want, ns)
				}
			}
			r := openBytes(t, data)
			for range 300 { // from anywhere
				r.Next()
			}
			passed, err := r.SeekTime(c[0], c[1])
			if err != nil {
				t.Fatal(err)
			}
			start := r.Offset()
			for n := passed; r.Next(); n++ {
				rec := r.Record()
				if int64(rec.Seq) != n {
					t.Fatalf("%v: record %d has number %d", c, n, rec.Seq)
				}
				var a Args
				if err := r.Args(&a); err != nil {
					t.Fatal(err)
				}
				if c[0] <= rec.MonoNS && rec.MonoNS <= c[1] {
					got = append(got, rec.MonoNS)
				}
			}
			if r.Err() != nil || !slices.Equal(got, want) {
				t.Errorf("sealed %t, %v: got %d records, error %v; want %d", sealed, c, len(got), r.Err(), len(want))
			}
			if read := r.Offset() - start; len(want) < 50 && read > 40_000 {
				t.Errorf("sealed %t, %v: read %d bytes of %d for %d records", sealed, c, read, len(data), len(want))
			}
		}
	}
}

// TestSeekTimeDamage: damage behind the seek's target is reported when it is
// reached, not before, and damage elsewhere not at all.
func TestSeekTimeDamage(t *testing.T) {
	data, times := timedFile(t, true)
	frames := framesOf(data)
	early, late := frames[10], frames[len(frames)-10]
	for _, c := range []struct {
		from, to int64
		at       testFrame
		damaged  bool
	}{
		{500_000, 510_000, early, false},
		{500_000, 510_000, late, false},
		{0, 10_000, early, true},
		{times[999], math.MaxInt64, late, true},
	} {
		b := slices.Clone(data)
		b[c.at.off+frameHeaderSize] ^= 0x10
		r := openBytes(t, b)
		if _, err := r.SeekTime(c.from, c.to); err != nil {
			t.Fatal(err)
		}
		for r.Next() {
		}
		if (r.Err() != nil) != c.damaged {
			t.Errorf("%v: error %v; want one %t", c, r.Err(), c.damaged)
		}
	}
	if v, err := openBytes(t, data).verify(context.Background()); err != nil || !v.OK() {
		t.Error(err, report(v))
	}
}
