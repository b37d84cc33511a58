package trace

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// TestClockDrift records with the machine's clock: a sealed file says how far
// that was seen to be off the system's.
func TestClockDrift(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.lct")
	r, err := Create(path, Options{RingDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r.Call(OpFinishWrite, new(Args))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := SummarizeNative(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tsc := s.Header.Clock == "tsc"; s.ClockDriftKnown != tsc || s.ClockDrift < 0 || s.ClockDrift > time.Second {
		t.Errorf("clock %s: drift %v, known %t", s.Header.Clock, s.ClockDrift, s.ClockDriftKnown)
	}
	ft := footer{timed: true, drift: 43, blocks: []blockEntry{{offset: 12288}}}
	var again footer
	if err := again.parse(ft.append(nil)); err != nil || !reflect.DeepEqual(again, ft) {
		t.Errorf("%+v, %v; want %+v", again, err, ft)
	}
}

// FuzzFooter parses footers. Properties: no panic, nothing allocated that the
// payload cannot hold, and what was understood is written and read as the same.
func FuzzFooter(f *testing.F) {
	_, data := write(f, 5, 60, 4096)
	ft := openBytes(f, data).footer()
	f.Add(ft.append(nil))
	ft.timed = false
	f.Add(ft.append(nil))
	ft.timed, ft.drift, ft.drops = true, 1200, []DropRange{{7, 3, 1e9}, {19, 1, -5}}
	ft.outcomes = []OutcomeTotal{{Qualname: "q", Outcomes: 3, Failed: 1, DurationNS: 99, Counts: []NamedCount{{"keys", 4}}}}
	f.Add(ft.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ft, again footer
		if ft.parse(data) != nil {
			return
		}
		if n := len(ft.ops) + len(ft.drops) + len(ft.blocks) + len(ft.outcomes); n > len(data) {
			t.Fatalf("%d entries of %d bytes", n, len(data))
		}
		b := ft.append(nil)
		if err := again.parse(b); err != nil {
			t.Fatalf("written again: %v", err)
		}
		if c := again.append(nil); !bytes.Equal(b, c) {
			t.Fatalf("got %+v; want %+v", again, ft)
		}
	})
}

// FuzzHeader reads headers whose checksum is right. Properties: no panic, and a
// header that was understood is written and read as the same.
func FuzzHeader(f *testing.F) {
	head := make([]byte, 64<<10)
	if err := putHeader(head, &testHeader, 4096); err != nil {
		f.Fatal(err)
	}
	f.Add(head[8:fixedHeaderSize], head[fieldsOffset:fieldsOffset+len(appendFields(nil, &testHeader))], head[countersOffset:countersOffset+countersSize])
	f.Add(head[8:fixedHeaderSize], []byte{48, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3}, []byte{1})
	f.Fuzz(func(t *testing.T, fixed, fields, counters []byte) {
		b := make([]byte, fieldsOffset+len(fields)+4096)
		copy(b, Magic)
		copy(b[8:fixedHeaderSize], fixed)
		copy(b[countersOffset:countersOffset+countersStride], counters)
		copy(b[fieldsOffset:], fields)
		if size := int(binary.LittleEndian.Uint32(b[52:])); size <= len(fields) {
			binary.LittleEndian.PutUint64(b[56:], headerChecksum(b, b[fieldsOffset:fieldsOffset+size]))
		}
		_, _ = parseCounters(b)
		h, body, err := parseHeader(b)
		if err != nil {
			return
		}
		if body < fieldsOffset || body > int64(len(b)) {
			t.Fatalf("body at %d of %d bytes", body, len(b))
		}
		out := make([]byte, headSize(h, 8)+len(b)&^7)
		if err := putHeader(out, h, h.BlockBytes); err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		again, _, err := parseHeader(out)
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("got %+v, %v; want %+v", again, err, h)
		}
	})
}
