package tracefile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/trace"
	"github.com/lmcache/lmcache-go/trace/lct"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// recordings are whole files of LMCache, with the release that wrote them.
var recordings = map[string]string{
	"real-0.4.6.lct": "0.4.6", "real-0.4.7.lct": "0.4.7", "real-0.5.0.lct": "0.5.0", "real-0.5.2.lct": "0.5.2",
	"real-0.5.3rc1.lct": "0.5.3rc1", "real-0.5.3.lct": "0.5.3", "real-0.5.5.lct": "0.5.5", "real-0.5.6.lct": "0.5.6",
	"real-0.5.7rc2.lct": "0.5.7rc2", "real-0.5.6-events.lct": "0.5.6", "events.lct": "0.5.6", "tiny.lct": "0.4.4",
	"tiny-newest.lct": "0.5.6", "tiny-schema2.lct": "0.5.7rc2", "unknown-op.lct": "0.4.6", "no-config.lct": "0.5.6",
	"../lct-v1-server/bench.lct": "0.5.6", "../parity/arc.lct": "0.5.6", "../parity/lock-counts.lct": "0.5.6",
}

// convert converts and fails the test where anything was lost.
func convert(t *testing.T, src, dst, release string) {
	t.Helper()
	c, err := Convert(context.Background(), src, dst, ConvertOptions{Release: release, Warn: func(w string) { t.Errorf("%s: %s", src, w) }})
	if err != nil {
		t.Fatal(err)
	}
	if c.Failed != 0 || c.Losses != nil || c.Notes != nil {
		t.Errorf("%s: got %+v; want nothing lost", src, c)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestThereAndBack converts files of LMCache to the native format, by way of the
// text form too, and back: the same bytes come out.
func TestThereAndBack(t *testing.T) {
	for name, release := range recordings {
		dir := t.TempDir()
		src, native, back := filepath.Join(vectors, name), filepath.Join(dir, "native"), filepath.Join(dir, "back")
		convert(t, src, native, "")
		convert(t, native, back, release)
		if !bytes.Equal(read(t, back), read(t, src)) {
			t.Errorf("%s: comes back different", name)
		}
		same := filepath.Join(dir, "same")
		convert(t, src, same, release)
		if !bytes.Equal(read(t, same), read(t, src)) {
			t.Errorf("%s: converted to its own release it differs", name)
		}
		again := filepath.Join(dir, "again")
		convert(t, native, again, "")
		if !bytes.Equal(read(t, again), read(t, native)) {
			t.Errorf("%s: native to native differs", name)
		}

		if was, err := Summarize(src, nil); err != nil {
			t.Error(err)
		} else if got, err := Summarize(native, nil); err != nil || got.Records != was.Records || !reflect.DeepEqual(got.Events, was.Events) || !reflect.DeepEqual(got.Ops, was.Ops) {
			t.Errorf("%s: summary %+v, %v; want that of the source, %+v", name, got, err, was)
		}

		text := textOf(t, src)
		r, err := trace.NewTextReader(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fromText := filepath.Join(dir, "from-text")
		writeNative(t, fromText, r)
		if !bytes.Equal(read(t, fromText), read(t, native)) {
			t.Errorf("%s: what comes of its text differs from what comes of it", name)
		}
		nativeText := textOf(t, native)
		_, a, _ := strings.Cut(string(text), "\ncall ")
		_, b, _ := strings.Cut(string(nativeText), "\ncall ")
		if a != b {
			t.Errorf("%s: the text of the native file differs", name)
		}
	}
}

func textOf(t *testing.T, path string) []byte {
	t.Helper()
	src, err := OpenExact(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	text := trace.AppendTextHeader(nil, src.Header())
	if src, ok := src.(trace.OutcomeSource); ok {
		src.OnOutcome(func(o *trace.OutcomeRecord) { text = trace.AppendTextOutcome(text, o) })
	}
	var a trace.Args
	for src.Next() {
		rec := src.Record()
		err := src.Args(&a)
		text = trace.AppendText(text, &rec, &a, err)
	}
	if err := src.Err(); err != nil {
		t.Fatal(err)
	}
	return text
}

func writeNative(t *testing.T, path string, src trace.Source) {
	t.Helper()
	w, err := trace.CreateNative(path, src.Header())
	if err != nil {
		t.Fatal(err)
	}
	var a trace.Args
	for src.Next() {
		rec := src.Record()
		if err := src.Args(&a); err != nil {
			t.Fatal(err)
		}
		if err := w.Write(&rec, &a); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(src.Err(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestText compares the text form of the recordings with the golden ones.
func TestText(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(vectors, "real-*.lct"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".lct")
		got := txtar.Format(&txtar.Archive{
			Comment: []byte(name + ".lct in text form, FORMAT.md section 9. Rewritten by go test ./trace/tracefile -update\n"),
			Files:   []txtar.File{{Name: "dump", Data: textOf(t, path)}},
		})
		golden := filepath.Join("testdata", name+".txtar")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, golden); !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", golden, got, want)
		}
	}
}

// TestOtherReleases converts every recording to every release: all records are
// written, and read by that release's rules. What was written once loses nothing
// the second time.
func TestOtherReleases(t *testing.T) {
	for name := range recordings {
		if !strings.HasPrefix(name, "real-") {
			continue
		}
		src := filepath.Join(vectors, name)
		for era := lct.E1; era <= lct.S2; era++ {
			release := era.Release()
			dir := t.TempDir()
			dst := filepath.Join(dir, "dst")
			c, err := Convert(context.Background(), src, dst, ConvertOptions{Release: release})
			if err != nil || c.Failed > 0 {
				t.Errorf("%s to %s: got %+v, %v", name, release, c, err)
				continue
			}
			r, err := lct.Open(dst, func(w string) { t.Errorf("%s to %s: %s", name, release, w) })
			if err != nil {
				t.Fatal(err)
			}
			var a trace.Args
			n := int64(0)
			for ; r.Next(); n++ {
				if err := r.Args(&a); err != nil {
					t.Errorf("%s to %s, record %d: %v", name, release, n, err)
				}
			}
			if n != c.Records || r.Err() != nil {
				t.Errorf("%s to %s: %d records, %v; want %d", name, release, n, r.Err(), c.Records)
			}
			if got := r.Header().SchemaVersion; got != era.SchemaVersion() {
				t.Errorf("%s to %s: schema %d", name, release, got)
			}
			r.Close()
			convert(t, dst, filepath.Join(dir, "again"), release)
			if !bytes.Equal(read(t, filepath.Join(dir, "again")), read(t, dst)) {
				t.Errorf("%s to %s, and again: differs", name, release)
			}
		}
	}
}

// TestLosses checks what is said of a conversion that loses things.
func TestLosses(t *testing.T) {
	tests := []struct {
		name, release string
		want          map[string]int64
	}{
		{"real-0.4.6.lct", "0.5.6", map[string]int64{"mode": 2}},
		{"real-0.5.6.lct", "0.5.5", map[string]int64{}},
		{"real-0.5.6.lct", "0.4.6", map[string]int64{"object_group_id": 9, "fetching_policy": 1, "lock_mode": 1, "sliding_window_size": 1, "skip_l2": 1, "shape of the key groups": 1}},
		{"real-0.5.7rc2.lct", "0.5.6", map[string]int64{"memory tags": 1}},
	}
	for _, tt := range tests {
		c, err := Convert(context.Background(), filepath.Join(vectors, tt.name), filepath.Join(t.TempDir(), "x"), ConvertOptions{Release: tt.release})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, l := range c.Losses {
			got[l.Name] = l.Records
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s to %s: lost %v; want %v", tt.name, tt.release, got, tt.want)
		}
	}
}

// TestOwnForms converts records that no other form holds: times finer than a
// nanosecond, a flat list with two windows, an encoding of its own, a header with
// a field more and typed level_meta.
func TestOwnForms(t *testing.T) {
	data := read(t, filepath.Join(vectors, "real-0.5.5.lct"))
	frames := split(data)
	patch := func(i int, old, new string) {
		if !bytes.Contains(frames[i], []byte(old)) {
			t.Fatalf("frame %d has no %q", i, old)
		}
		frames[i] = bytes.Replace(frames[i], []byte(old), []byte(new), 1)
	}
	at := bytes.Index(frames[1], []byte("\xa6t_mono\xcb")) + 8
	v := math.Float64frombits(binary.BigEndian.Uint64(frames[1][at:]))
	binary.BigEndian.PutUint64(frames[1][at:], math.Float64bits(math.Nextafter(v, 1)))
	binary.BigEndian.PutUint64(frames[2][at:], math.Float64bits(math.NaN()))
	patch(3, "\xb0num_chunks_in_sw\x91\xff", "\xb0num_chunks_in_sw\x92\xff\x04") // not the shape of the keys
	patch(3, "\xb2group_layout_descs\x81\xa10", "\xb2group_layout_descs\x82\xa11\x82\xa5__t__\xb0MemoryLayoutDesc\xa1v\x82\xa6shapes\x90\xa6dtypes\x90\xa10")
	patch(4, "\xa6t_wall", "\xd9\x06t_wall") // a longer str than needed
	patch(0, "\x89\xa4type", "\x8b\xa4type")
	frames[0] = append(frames[0], "\xaalevel_meta\x82\xa1b\x01\xa1a\xc0\xa5extra\xc3"...)
	dir := t.TempDir()
	src, native, back := filepath.Join(dir, "src"), filepath.Join(dir, "native"), filepath.Join(dir, "back")
	if err := os.WriteFile(src, join(frames), 0o600); err != nil {
		t.Fatal(err)
	}
	convert(t, src, native, "")
	convert(t, native, back, "0.5.5")
	if !bytes.Equal(read(t, back), read(t, src)) {
		t.Error("comes back different")
	}
	text := string(textOf(t, src))
	for line, want := range map[string]int{"\n  exact_t_mono ": 2, "\n  frame ": 2, "\nupstream ": 1} {
		if got := strings.Count(text, line); got != want {
			t.Errorf("text has %d lines %q; want %d", got, line, want)
		}
	}

	c, err := Convert(context.Background(), native, filepath.Join(dir, "new"), ConvertOptions{Release: "0.5.6"})
	if err != nil {
		t.Fatal(err)
	}
	forms := int64(0)
	for _, l := range c.Losses {
		if l.Name == lct.LossForm.String() {
			forms = l.Records
		}
	}
	if forms != 2 {
		t.Errorf("to another release: %d records lose their form; want 2: %+v", forms, c.Losses)
	}
	r, err := lct.Open(filepath.Join(dir, "new"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if m := r.Header().LevelMeta; len(m) != 2 || m[0] != (trace.LevelMeta{Key: "a", Value: "None"}) {
		t.Errorf("level_meta: got %v", m)
	}
}

// split takes the frames of a file of LMCache apart, without their lengths.
func split(data []byte) (frames [][]byte) {
	for len(data) > 0 {
		n := binary.BigEndian.Uint32(data)
		frames = append(frames, bytes.Clone(data[4:4+n]))
		data = data[4+n:]
	}
	return frames
}

func join(frames [][]byte) (data []byte) {
	for _, f := range frames {
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(f))), f...)
	}
	return data
}

// TestFailures checks that records which cannot be converted are counted and
// named, and do not keep the others.
func TestFailures(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "x")
	warnings := 0
	c, err := Convert(context.Background(), filepath.Join(vectors, "malformed.lct"), dst, ConvertOptions{Warn: func(string) { warnings++ }})
	if err != nil {
		t.Fatal(err)
	}
	if c.Records != 2 || c.Failed != 1 || len(c.Failures) != 1 || c.Failures[0].Qualname != trace.OpFinishWrite.String() ||
		!strings.Contains(c.Failures[0].First.Error(), "NoSuchTag") || warnings != 3 {
		t.Errorf("got %+v, %d warnings", c, warnings)
	}
	if s, err := Summarize(dst, nil); err != nil || s.Records != 2 || !s.Sealed {
		t.Errorf("got %+v, %v", s, err)
	}
	// In its own shapes nobody needs to understand the record.
	c, err = Convert(context.Background(), filepath.Join(vectors, "malformed.lct"), dst, ConvertOptions{Release: "0.4.6", Force: true})
	if err != nil || c.Records != 3 || c.Failed != 0 {
		t.Errorf("to its own release: got %+v, %v", c, err)
	}
}

// TestDrops checks that losses of a recording survive from native to native, and
// are named where they cannot.
func TestDrops(t *testing.T) {
	dir := t.TempDir()
	scope, err := kv.InternScope("m", "tenant")
	if err != nil {
		t.Fatal(err)
	}
	key, err := kv.NewObjectKey([]byte("0123"), scope, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := &trace.Header{Native: true, Level: trace.LevelStorage, PID: 7, Host: "h", Build: "b", RingPath: "/ring", ConfigJSON: "{}"}
	src := filepath.Join(dir, "src")
	w, err := trace.CreateNative(src, h)
	if err != nil {
		t.Fatal(err)
	}
	write := func(seq uint64) {
		rec := trace.Record{Op: trace.OpFinishWrite, Qualname: trace.OpFinishWrite.String(), Seq: seq, MonoNS: int64(seq)}
		if err := w.Write(&rec, &trace.Args{Keys: []kv.ObjectKey{key}}); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	if err := w.Drops(2); err != nil {
		t.Fatal(err)
	}
	write(3)
	if err := w.Outcome(&trace.OutcomeRecord{
		Op: trace.OpFinishWrite, Qualname: trace.OpFinishWrite.String(), Seq: 3, MonoNS: 9, WallNS: 9, DurationNS: 6,
		Names: trace.OpFinishWrite.Row().Counts, Counts: []int64{1, 0}, Bits: []kv.Bitmap{kv.BitmapOf([]uint64{1}, 1)},
	}); err != nil {
		t.Fatal(err)
	}
	w.LostOutcomes(1)
	if err := errors.Join(w.Drops(5), w.Close()); err != nil {
		t.Fatal(err)
	}
	native := filepath.Join(dir, "native")
	convert(t, src, native, "")
	got, err := Summarize(native, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Summarize(src, nil)
	if err != nil || want.Header.RingPath != "" || want.Dropped != 5 || len(want.DropRanges) != 2 || want.Outcomes != 1 || want.LostOutcomes != 1 {
		t.Fatalf("got %+v, %v", want, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("native to native: got %+v; want %+v", got, want)
	}
	if a, b := textOf(t, src), textOf(t, native); !bytes.Equal(a, b) || !bytes.Contains(a, []byte("\n  bitmap 1 01\n")) {
		t.Errorf("native to native: got\n%s\nwant, with a bitmap,\n%s", b, a)
	}
	c, err := Convert(context.Background(), src, filepath.Join(dir, "lct"), ConvertOptions{Release: "0.5.6"})
	if err != nil {
		t.Fatal(err)
	}
	wantLosses := []Lost{{2, "lose their cache salt", "cache_salt"}, {1, "lose their outcome", "outcome"}}
	if !reflect.DeepEqual(c.Losses, wantLosses) || len(c.Notes) != 2 || !strings.Contains(c.Notes[0], "5 calls") {
		t.Errorf("got %+v", c)
	}
}

// TestNothingHalf checks that what is at the destination stays unless all went
// well, and that no other file is left.
func TestNothingHalf(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(vectors, "tiny.lct"), filepath.Join(dir, "dst")
	if err := os.WriteFile(dst, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	damaged := filepath.Join(t.TempDir(), "damaged")
	native := filepath.Join(t.TempDir(), "native")
	convert(t, src, native, "")
	b := read(t, native)
	b[len(b)-600] ^= 1
	if err := os.WriteFile(damaged, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]func() error{
		"interrupted": func() error {
			_, err := Convert(done, src, dst, ConvertOptions{Force: true})
			return err
		},
		"exists": func() error {
			_, err := Convert(context.Background(), src, dst, ConvertOptions{})
			return err
		},
		"damaged": func() error {
			_, err := Convert(context.Background(), damaged, dst, ConvertOptions{Force: true, Release: "0.5.6"})
			return err
		},
		"no such release": func() error {
			_, err := Convert(context.Background(), src, dst, ConvertOptions{Force: true, Release: "9.9"})
			return err
		},
		"the input": func() error {
			_, err := Convert(context.Background(), dst, dst, ConvertOptions{Force: true})
			return err
		},
		"a folder": func() error {
			_, err := Convert(context.Background(), src, dir, ConvertOptions{Force: true})
			return err
		},
	} {
		if err := try(); err == nil {
			t.Errorf("%s: got no error", name)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || string(read(t, dst)) != "mine" {
			t.Errorf("%s: got %v, %v; want the one file as it was", name, entries, err)
		}
	}
	if _, err := Convert(context.Background(), src, dst, ConvertOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v; want one file", entries, err)
	}
}

// What LMCache does not trace is left out of its format, and counted; it stays in
// ours.
func TestUntracedCallsAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	w, err := trace.CreateNative(src, &trace.Header{SchemaVersion: 1, Level: trace.LevelStorage})
	if err != nil {
		t.Fatal(err)
	}
	for i, op := range []trace.Op{trace.OpFinishWrite, trace.OpClear, trace.OpTouch, trace.OpDelete, trace.OpFinishWrite} {
		if err := w.Write(&trace.Record{Op: op, Qualname: op.String(), Seq: uint64(i)}, &trace.Args{Flag: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	native, upstream := filepath.Join(dir, "native"), filepath.Join(dir, "lct")
	convert(t, src, native, "")
	if a, b := textOf(t, src), textOf(t, native); !bytes.Equal(a, b) || !bytes.Contains(a, []byte("delete_l1_keys")) {
		t.Errorf("native to native: got\n%s\nwant\n%s", b, a)
	}
	c, err := Convert(context.Background(), src, upstream, ConvertOptions{Release: "0.5.6"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Records != 2 || c.Failed != 0 || len(c.Losses) != 1 || c.Losses[0].Records != 3 || c.Losses[0].Name != "untraced_calls" || len(c.Notes) != 0 {
		t.Errorf("got %+v", c)
	}
}
