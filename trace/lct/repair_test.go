package lct

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lmcache/lmcache-go/trace"
)

// repairBytes repairs a file in memory.
func repairBytes(data []byte) (rep *trace.Repair, out []byte, err error) {
	rep = &trace.Repair{Whole: true}
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	rep.Bytes, err = copySound(w, data, "d.lct", rep)
	w.Flush()
	return rep, b.Bytes(), err
}

// splitFile returns the frames of a sound file: the header, then the records.
func splitFile(t testing.TB, data []byte) (frames [][]byte) {
	t.Helper()
	for at := 0; at < len(data); {
		n := prefixSize + frameSize(data[at:])
		frames = append(frames, data[at:at+n])
		at += n
	}
	return frames
}

// checkSound reads a repaired file, which must give no warning.
func checkSound(t *testing.T, what string, rep *trace.Repair, out []byte) {
	t.Helper()
	r, err := NewReader(out, "out.lct", func(m string) { t.Errorf("%s: warning: %s", what, m) })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	n := int64(0)
	for r.Next() {
		n++
	}
	if n != rep.Kept || rep.Bytes != int64(len(out)) || rep.Complete() != (rep.Lost == 0) || rep.Whole != (len(rep.Damage) == 0) {
		t.Fatalf("%s: %d records in %d bytes: %+v", what, n, len(out), rep)
	}
}

func TestRepairCutAnywhere(t *testing.T) {
	for _, name := range []string{"tiny", "real-0.4.6", "real-0.5.6-events"} {
		data, err := os.ReadFile(filepath.Join("../../testdata/lct-v1", name+".lct"))
		if err != nil {
			t.Fatal(err)
		}
		frames := splitFile(t, data)
		end, whole := 0, -1 // of the frames that are whole
		for n := range len(data) + 1 {
			for whole+1 < len(frames) && end+len(frames[whole+1]) <= n {
				whole++
				end += len(frames[whole])
			}
			rep, out, err := repairBytes(data[:n:n])
			if whole < 0 {
				if err == nil {
					t.Fatalf("%s cut at %d: no error", name, n)
				}
				continue
			}
			if err != nil || !bytes.Equal(out, data[:end]) || rep.Kept != int64(whole) || rep.Complete() != (n == end) {
				t.Fatalf("%s cut at %d: %d bytes; want %d, %d records: %+v, %v", name, n, len(out), end, whole, rep, err)
			}
			if n == end {
				checkSound(t, name, rep, out)
			} else if d := rep.Damage[0]; d.Field != "tail" || d.From != int64(end) || d.To != int64(n) || d.Missing != 1 {
				t.Fatalf("%s cut at %d: %+v", name, n, d)
			}
		}
	}
}

// TestRepairFlipAnyBit loses at most the record that was hit, whatever of it was
// hit: its length too.
func TestRepairFlipAnyBit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for _, name := range []string{"tiny", "real-0.5.6"} {
		data, err := os.ReadFile(filepath.Join("../../testdata/lct-v1", name+".lct"))
		if err != nil {
			t.Fatal(err)
		}
		frames := splitFile(t, data)
		at := len(frames[0])
		for i, frame := range frames[1:] {
			for n := range frame {
				b := bytes.Clone(data)
				b[at+n] ^= 1 << rnd.IntN(8)
				rep, out, err := repairBytes(b)
				if err != nil {
					t.Fatal(err)
				}
				checkSound(t, name, rep, out)
				if len(rep.Damage) == 0 { // what was hit is another value now, which nothing can tell
					if !bytes.Equal(out, b) {
						t.Fatalf("%s, record %d, byte %d: the file is another", name, i, n)
					}
					continue
				}
				if rep.Kept != int64(len(frames)-2) || rep.Lost != 1 || len(rep.Damage) != 1 {
					t.Fatalf("%s, record %d, byte %d: %+v", name, i, n, rep)
				}
				if want := append(bytes.Clone(data[:at]), data[at+len(frame):]...); !bytes.Equal(out, want) {
					t.Fatalf("%s, record %d, byte %d: other frames are kept", name, i, n)
				}
			}
			at += len(frame)
		}
	}
}

func TestRepairMalformed(t *testing.T) {
	data, err := os.ReadFile("../../testdata/lct-v1/malformed.lct")
	if err != nil {
		t.Fatal(err)
	}
	rep, out, err := repairBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	checkSound(t, "malformed", rep, out)
	if rep.Kept != 3 || rep.Lost != 3 || len(rep.Damage) != 1 || rep.Damage[0].To-rep.Damage[0].From != int64(len(data)-len(out)) {
		t.Errorf("%+v", rep)
	}
}

func TestRepairFile(t *testing.T) {
	dir := t.TempDir()
	data, err := os.ReadFile("../../testdata/lct-v1/truncated.lct")
	if err != nil {
		t.Fatal(err)
	}
	path, out := filepath.Join(dir, "a.lct"), filepath.Join(dir, "b.lct")
	for p, b := range map[string][]byte{path: data, out: []byte("before")} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := Repair(path, out)
	if err != nil || rep.Kept != 11 || rep.Lost != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, data[:rep.Bytes]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// What cannot be repaired leaves everything as it was.
	if err := os.WriteFile(path, data[:50], 0o600); err != nil {
		t.Fatal(err)
	}
	if rep, err := Repair(path, out); err == nil {
		t.Errorf("repair of half a header: %+v", rep)
	}
	if after, err := os.ReadFile(out); err != nil || !bytes.Equal(got, after) {
		t.Errorf("the file in its place was changed: %v", err)
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "*")); len(list) != 2 {
		t.Errorf("left over: %v", list)
	}
}

// FuzzRepair repairs any bytes. Properties: an end, and a file without a frame
// that a reader complains of, made of the input's bytes.
func FuzzRepair(f *testing.F) {
	for _, name := range []string{"tiny", "malformed", "truncated", "unknown-op", "events"} {
		data, err := os.ReadFile(filepath.Join("../../testdata/lct-v1", name+".lct"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rep, out, err := repairBytes(data)
		if err != nil {
			return
		}
		checkSound(t, "fuzz", rep, out)
		left := int64(len(out))
		for _, d := range rep.Damage {
			left += d.To - d.From
		}
		if left != int64(len(data)) {
			t.Errorf("%d of %d bytes are neither kept nor damaged: %+v", int64(len(data))-left, len(data), rep)
		}
	})
}
