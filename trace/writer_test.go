package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/internal/raceflag"
	"github.com/lmcache/lmcache-go/kv"
)

// hashes returns n different chunk hashes of 32 bytes.
func hashes(seed uint64, n int) [][]byte {
	rnd := rand.New(rand.NewPCG(seed, 2))
	list := make([][]byte, n)
	for i := range list {
		h := make([]byte, 32)
		for j := 0; j < 32; j += 8 {
			binary.LittleEndian.PutUint64(h[j:], rnd.Uint64())
		}
		list[i] = h
	}
	return list
}

func keysOf(hashes [][]byte, contexts ...kv.ObjectKey) (keys []kv.ObjectKey) {
	for _, h := range hashes {
		for _, c := range contexts {
			c.HashLen = uint8(copy(c.Hash[:], h))
			keys = append(keys, c)
		}
	}
	return keys
}

var oneContext = kv.ObjectKey{Scope: mustScope("meta-llama/Llama-3.1-8B-Instruct", ""), Rank: kv.PackRank(1, 0, 1, 0)}

func mustCall(t testing.TB, w *writer, op Op, seq uint64, a *Args) {
	t.Helper()
	if err := w.Call(op, seq, int64(seq)*1000, int64(seq), a); err != nil {
		t.Fatal(err)
	}
}

// TestWriterHashOnceABlock writes the lists of conversations and looks for each
// hash in each block's bytes.
func TestWriterHashOnceABlock(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 64<<10)
	all := hashes(1, 2000)
	grid := []kv.ObjectKey{{Rank: 1}, {Rank: 2}, {Rank: 1, Group: 1}, {Rank: 2, Group: 1}}
	seq := uint64(0)
	for from := 0; from < len(all); from += 100 {
		for n := 1; n <= 100; n += 7 {
			list := all[from : from+n]
			for _, a := range []Args{{Keys: keysOf(list, oneContext)}, {Keys: keysOf(list[n/2:], oneContext)}, {Keys: keysOf(list[:n/2], grid...)}} {
				mustCall(t, w, OpFinishWrite, seq, &a)
				seq++
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	starts := append(frames(f.data, kindBlock), len(f.data))
	if len(starts) < 3 {
		t.Fatalf("%d blocks", len(starts)-1)
	}
	found := 0
	for i := range starts[1:] {
		block := f.data[starts[i]:starts[i+1]]
		if len(block) > 64<<10+8192 {
			t.Errorf("block %d has %d bytes", i, len(block))
		}
		for _, h := range all {
			n := bytes.Count(block, h)
			if found += n; n > 1 {
				t.Errorf("block %d holds hash %x %d times", i, h[:4], n)
			}
		}
	}
	if found < len(all) {
		t.Errorf("found %d hashes; want at least %d", found, len(all))
	}
}

// TestWriterRepeatedList holds the size goal: at most 16 bytes for a list that
// is known, in a block of many nodes, whatever part of the chain it is.
func TestWriterRepeatedList(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 0)
	all := hashes(2, 300_000)
	keys := keysOf(all, oneContext)
	seq := uint64(0)
	for i := 0; i < len(keys); i += 1000 {
		mustCall(t, w, OpFinishWrite, seq, &Args{Keys: keys[i : i+1000]})
		seq++
	}
	both := []kv.ObjectKey{oneContext, oneContext}
	both[1].Rank++
	mustCall(t, w, OpFinishWrite, seq, &Args{Keys: keysOf(all[298_000:298_010], both...)})
	for _, tt := range []struct {
		name string
		keys []kv.ObjectKey
	}{
		{"whole", keys[299_000:]}, {"head", keys[298_000:298_500]}, {"tail", keys[1_500:2_000]}, {"one", keys[77_777:77_778]}, {"empty", nil},
		{"grid", keysOf(all[298_500:298_999], both...)},
	} {
		seq++
		before := f.off
		mustCall(t, w, OpFinishWrite, seq, &Args{Keys: tt.keys})
		if got := f.off - before - frameHeaderSize; got > 16 {
			t.Errorf("%s: %d bytes beside the frame header; want at most 16", tt.name, got)
		}
	}
}

// TestWriterAgenticSize holds the size goal for agents' sessions: each turn
// looks up everything so far, takes the read locks back, writes what is new.
func TestWriterAgenticSize(t *testing.T) {
	f := newMemoryFile(64 << 10)
	w := newTestWriter(t, f, 0)
	rnd := rand.New(rand.NewPCG(7, 7))
	layout := mustLayout([][]int64{{2, 32, 256, 1024}}, "bfloat16")
	const sessions, turns = 200, 40
	type session struct {
		keys []kv.ObjectKey
		have int
	}
	list := make([]session, sessions)
	for i := range list {
		list[i].keys = keysOf(hashes(uint64(i), 200+30*turns), oneContext)
	}
	distinct, seq := 0, uint64(0)
	call := func(op Op, a Args) {
		mustCall(t, w, op, seq, &a)
		seq++
	}
	for turn := range turns {
		for i := range list {
			s := &list[i]
			known := s.have
			if s.have += 2 + rnd.IntN(50); turn == 0 {
				s.have = 50 + rnd.IntN(150)
			}
			distinct += s.have - known
			spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: s.keys[:s.have], Layout: layout, Window: kv.FullAttention}}}
			call(OpSubmitPrefetchTask, Args{Spec: spec, Text: fmt.Sprintf("chatcmpl-%d-%d", i, turn)})
			call(OpReadPrefetchedEnter, Args{Keys: s.keys[:known]})
			call(OpReadPrefetchedExit, Args{Keys: s.keys[:known]})
			call(OpFinishReadPrefetched, Args{Keys: s.keys[:known], Count: 1})
			call(OpReserveWrite, Args{Keys: s.keys[known:s.have], Layout: layout})
			call(OpFinishWrite, Args{Keys: s.keys[known:s.have]})
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size, floor := len(f.data)-64<<10, distinct*32+int(seq)*40
	t.Logf("%d records, %d hashes: %d bytes, %.3f of the floor", seq, distinct, size, float64(size)/float64(floor))
	if float64(size) > 1.15*float64(floor) {
		t.Errorf("%d bytes; want at most 1.15 × %d", size, floor)
	}
}

// TestWriterDiskFull fails in the midst of a call's frames: the call leaves no
// trace, and those after it are right once there is room.
func TestWriterDiskFull(t *testing.T) {
	for room := testHead + 8; room < testHead+1600; room += 8 {
		f := newMemoryFile(testHead)
		f.room = room
		w := newTestWriter(t, f, 4096)
		keys := keysOf(hashes(1, 20), oneContext)
		var calls []call
		failed := 0
		for seq := range uint64(12) {
			c := call{op: OpFinishWrite, seq: seq, args: Args{Keys: keys[:2+seq]}}
			if seq%3 == 0 {
				c.op = OpFinishReadPrefetched
			}
			err := w.Call(c.op, seq, 0, 0, &c.args)
			if err == nil {
				calls = append(calls, c)
				continue
			}
			if !errors.Is(err, errNoSpace) {
				t.Fatal(err)
			}
			if failed++; failed == 2 {
				f.room = 0
			}
		}
		f.room = 0
		w.Drops(uint64(failed))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := openBytes(t, f.data)
		var a Args
		for i := range calls {
			if !r.Next() {
				t.Fatalf("room %d, call %d: %v", room, i, r.Err())
			}
			if err := sameCall(r, &a, &calls[i]); err != nil {
				t.Fatalf("room %d, call %d: %v", room, i, err)
			}
		}
		s, err := r.Summarize()
		if err != nil || s.Dropped != int64(failed) || s.Lost != int64(w.counters.nextSeq)-int64(len(calls)) || s.Records != int64(len(calls)) {
			t.Fatalf("room %d: %d failed, got %+v, %v", room, failed, s, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	for _, tt := range []struct {
		op   Op
		args Args
		want string
	}{
		{OpUnknown, Args{}, "unknown operation 0"},
		{numOps, Args{}, "unknown operation"},
		{OpSubmitPrefetchTask, Args{}, "argument spec is missing"},
		{OpReserveWrite, Args{Mode: 3}, "write mode 3"},
		{OpFinishWrite, Args{Keys: make([]kv.ObjectKey, maxListKeys+1)}, "more than 1048576 keys"},
		{OpFinishWrite, Args{Keys: []kv.ObjectKey{{HashLen: 33}}}, "chunk hash of 33 bytes"},
	} {
		if err := w.Call(tt.op, 0, 0, 0, &tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v; want %s", err, tt.want)
		}
	}
	if len(w.blocks) != 0 {
		t.Errorf("a refused call started a block")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := w.Call(OpFinishWrite, 0, 0, 0, &Args{}); err == nil {
		t.Error("Call after Close succeeds")
	}
	s, err := openBytes(t, f.data).Summarize()
	if err != nil || !s.Sealed || s.Records != 0 || s.DurationS != 0 {
		t.Errorf("empty trace: %+v, %v", s, err)
	}
}

// TestNativeLargestList has the longest list that the format allows.
func TestNativeLargestList(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 0)
	args := Args{Keys: make([]kv.ObjectKey, maxListKeys)}
	for i := range args.Keys {
		args.Keys[i].HashLen = 8
		binary.LittleEndian.PutUint64(args.Keys[i].Hash[:], uint64(i)+1)
	}
	mustCall(t, w, OpFinishWrite, 0, &args)
	mustCall(t, w, OpFinishWrite, 1, &args)
	w.Close()
	r := openBytes(t, f.data)
	var a Args
	for range 2 {
		if !r.Next() {
			t.Fatal(r.Err())
		}
		if err := r.Args(&a); err != nil {
			t.Fatal(err)
		}
		if err := sameArgs(&a, &args); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNativeFollow reads beside the writer: after each step the reader has all
// that was published, and it says that there will be no more when there will not.
func TestNativeFollow(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 8192)
	live := &liveFile{f: f, data: f.data}
	r, err := newNativeReader("live.lct", live, unguarded, func(m string) { t.Errorf("warning: %s", m) })
	if err != nil {
		t.Fatal(err)
	}
	g := newGenerator(11)
	var a Args
	if r.Next() || r.Err() != nil || r.Sealed() {
		t.Fatalf("an empty file: %v", r.Err())
	}
	for i := range 300 {
		var calls []call
		for range 1 + i%3 {
			c := g.next()
			if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		if i%5 == 0 {
			w.Flush()
		}
		for j := range calls {
			if !r.Next() {
				t.Fatalf("step %d: Next is false, %v", i, r.Err())
			}
			if err := sameCall(r, &a, &calls[j]); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		if r.Next() || r.Err() != nil || r.Sealed() {
			t.Fatalf("step %d: more than was written, or %v", i, r.Err())
		}
		s, err := r.Summarize()
		if err != nil || s.Records != int64(w.counters.records) || s.Lost != int64(w.counters.nextSeq-w.counters.records) || s.Blocks != int64(len(w.blocks)) || s.Sealed {
			t.Fatalf("step %d: %+v, %v", i, s, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if r.Next() || r.Err() != nil || !r.Sealed() {
		t.Errorf("after Close: Err %v, Sealed %v", r.Err(), r.Sealed())
	}
}

// TestNativeUnfinishedFrame sees a frame whose length is not stored yet.
func TestNativeUnfinishedFrame(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 4096)
	mustCall(t, w, OpFinishWrite, 0, &Args{})
	at := f.off
	mustCall(t, w, OpFinishWrite, 1, &Args{})
	length := binary.LittleEndian.Uint32(f.data[at:])
	binary.LittleEndian.PutUint32(f.data[at:], 0)
	var warnings []string
	r, err := newNativeReader("u.lct", &liveFile{f: f, data: f.data}, unguarded, func(m string) { warnings = append(warnings, m) })
	if err != nil {
		t.Fatal(err)
	}
	if !r.Next() || r.Next() || r.Next() || r.Err() != nil {
		t.Fatalf("Err %v", r.Err())
	}
	if want := []string{fmt.Sprintf("trace file 'u.lct': unfinished frame at offset %d", at)}; !slices.Equal(warnings, want) {
		t.Errorf("got %q; want %q", warnings, want)
	}
	binary.LittleEndian.PutUint32(f.data[at:], length)
	if !r.Next() || r.Record().Seq != 1 {
		t.Errorf("after its length was stored: %v, %+v", r.Err(), r.Record())
	}
}

// TestNativeSummary compares the footer with counting.
func TestNativeSummary(t *testing.T) {
	f := newMemoryFile(testHead)
	w := newTestWriter(t, f, 8192)
	g := newGenerator(5)
	counts := map[string]int64{}
	maxMono, dropped := int64(0), uint64(0)
	for i := range 500 {
		c := g.next()
		if err := w.Call(c.op, c.seq, c.mono, c.wall, &c.args); err != nil {
			t.Fatal(err)
		}
		counts[c.op.String()]++
		maxMono = max(maxMono, c.mono)
		if i%100 == 50 {
			dropped += 5
			w.Drops(dropped)
			w.Drops(dropped)
		}
	}
	w.Flush()
	scanned, err := func() (*Summary, error) {
		return openBytes(t, slices.Clone(f.data)).Summarize()
	}()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	sealed, err := openBytes(t, f.data).Summarize()
	if err != nil {
		t.Fatal(err)
	}
	if scanned.Sealed || !sealed.Sealed || sealed.Bytes != int64(len(f.data)) {
		t.Errorf("sealed: got %v, %v; %d bytes", scanned.Sealed, sealed.Sealed, sealed.Bytes)
	}
	for name, s := range map[string]*Summary{"counted": scanned, "footer": sealed} {
		if s.Records != 500 || s.Dropped != 25 || s.Lost != int64(w.counters.nextSeq)-500 || s.Blocks != int64(len(w.blocks)) || s.DurationS != float64(maxMono)/1e9 || s.Damage != nil {
			t.Errorf("%s: got %+v", name, s)
		}
		for _, op := range s.Ops {
			if counts[op.Qualname] != op.Count {
				t.Errorf("%s: %s: got %d; want %d", name, op.Qualname, op.Count, counts[op.Qualname])
			}
		}
		if len(s.Ops) != len(counts) || !slices.IsSortedFunc(s.Ops, func(a, b OpCount) int { return strings.Compare(a.Qualname, b.Qualname) }) {
			t.Errorf("%s: ops %v", name, s.Ops)
		}
		if len(s.DropRanges) != 5 || !slices.Equal(s.DropRanges, sealed.DropRanges) {
			t.Errorf("%s: drops %v", name, s.DropRanges)
		}
	}
}

func TestDropRangesBounded(t *testing.T) {
	var drops []DropRange
	for i := range uint64(3 * dropRangesMax) {
		drops = addDropRange(drops, DropRange{i / 2, 1, 0})
	}
	total := int64(0)
	for _, d := range drops {
		total += d.Count
	}
	if len(drops) != 3*dropRangesMax/2 && len(drops) != dropRangesMax || total != 3*dropRangesMax {
		t.Errorf("%d ranges with %d calls", len(drops), total)
	}
	if len(drops) > dropRangesMax {
		t.Errorf("%d ranges; want at most %d", len(drops), dropRangesMax)
	}
}

// TestNativeSteadyState allocates nothing once the memory is warm.
func TestNativeSteadyState(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	f := newMemoryFile(testHead)
	f.data = append(f.data, make([]byte, 1<<20)...)
	w := newTestWriter(t, f, 0)
	spec := &kv.PrefetchSpec{Readers: 1, Groups: []kv.KeyGroup{{Keys: keysOf(hashes(1, 32), oneContext), Window: -1}}}
	seq := uint64(0)
	writeBoth := func() {
		mustCall(t, w, OpSubmitPrefetchTask, seq, &Args{Spec: spec, Text: "id"})
		mustCall(t, w, OpFinishWrite, seq+1, &Args{Keys: spec.Groups[0].Keys})
		seq += 2
	}
	writeBoth()
	if got := testing.AllocsPerRun(1000, writeBoth); got != 0 {
		t.Errorf("write: %v allocations a pair of calls; want 0", got)
	}
	w.Close()
	r := openBytes(t, f.data)
	a := Args{Text: "id"}
	readBoth := func() {
		for range 2 {
			if !r.Next() || r.Args(&a) != nil {
				t.Fatal(r.Err())
			}
		}
	}
	readBoth()
	if got := testing.AllocsPerRun(900, readBoth); got > 1 {
		t.Errorf("read: %v allocations a pair of calls; want 0, or 1 for the text", got)
	}
}

func TestHashOfSpreadsSmallIntegers(t *testing.T) {
	buckets := make([]int, 1024)
	for i := range 8192 {
		var h [kv.MaxHash]byte
		binary.LittleEndian.PutUint64(h[:], uint64(i))
		buckets[hashOf(&h, 8)>>(64-10)]++
	}
	if worst := slices.Max(buckets); float64(worst) > 8+6*math.Sqrt(8) {
		t.Errorf("fullest of 1024 buckets has %d of 8192", worst)
	}
}
