package rawblock

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

func mustKey(t testing.TB, hash, model, salt string, rank uint64, group uint32) kv.ObjectKey {
	t.Helper()
	scope, err := kv.InternScope(model, salt)
	if err != nil {
		t.Fatal(err)
	}
	k, err := kv.NewObjectKey([]byte(hash), scope, rank, group)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const hash16 = "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"

// What LMCache 0.5.6 says of these keys.
func TestKeysAreLMCaches(t *testing.T) {
	for _, c := range []struct {
		key      kv.ObjectKey
		encoded  string
		identity uint64
	}{
		{mustKey(t, hash16, "meta-llama/Llama-3.1-8B", "", 0x02010201, 11),
			"meta-llama%2FLlama-3.1-8B@0x02010201@b@00112233445566778899aabbccddeeff", 7837154303662832405},
		{mustKey(t, hash16, "meta-llama/Llama-3.1-8B", "alice", 0x02010201, 11),
			"meta-llama%2FLlama-3.1-8B@0x02010201@b@00112233445566778899aabbccddeeff@alice", 15323707184844094402},
		{mustKey(t, hash16, "a b%c+d?e#f:~é", "é ü%x+~", 1<<40|5, 0),
			"a%20b%25c%2Bd%3Fe%23f%3A~%C3%A9@0x10000000005@0@00112233445566778899aabbccddeeff@é ü%x+~", 17208735534505131044},
		{mustKey(t, "", "", "", 0, 0), "@0x00000000@0@", 7424401187491102885},
		{mustKey(t, hash16[:4], `/a//b-SEP-c\d`, "x", 255, 255), "%2Fa%2F%2Fb-SEP-c%5Cd@0x000000ff@ff@00112233@x", 11766066155853822966},
	} {
		if got := encodeKey(&c.key); got != c.encoded {
			t.Errorf("encoded %s; want %s", got, c.encoded)
		}
		if got := identity(c.encoded); got != c.identity {
			t.Errorf("identity of %s: %d; want %d", c.encoded, got, c.identity)
		}
		if k, ok := decodeKey(c.encoded); !ok || k != c.key {
			t.Errorf("%s decodes to %v, %t", c.encoded, k, ok)
		}
	}
}

// Property: what decodes encodes back to the same text.
func FuzzKey(f *testing.F) {
	for _, s := range []string{"m@0x01000100@0@00", "a%2Fb@0x02010201@b@0011@salt", "@0x00000000@0@", "m@0x1@0@00", "m@0X01000100@0@00",
		"m%2f@0x01000100@0@00", "m@0x01000100@-1@00", "m@0x01000100@0@0", "a@b@c@d@e@f", "%", "m@0x01000100@0@00@", "m@0x010001000000000000@0@00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if k, ok := decodeKey(text); ok && encodeKey(&k) != text {
			t.Errorf("%q decodes to a key that encodes to %q", text, encodeKey(&k))
		}
	})
}

// Property: a record of ours that is read is the one that put gives.
func FuzzSlot(f *testing.F) {
	b := make([]byte, minHeader)
	h := slotHeader{Length: 77, Epoch: 1, Seq: 2, CRC: 3, Key: "m@0x01000100@0@00"}
	h.Identity = identity(h.Key)
	h.put(b)
	f.Add(bytes.Clone(b))
	(&slotHeader{Epoch: 1, Seq: 9}).put(b)
	f.Add(bytes.Clone(b))
	clear(b)
	copy(b, slotMagic)
	f.Add(bytes.Clone(b))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseSlot(b)
		if !ok || !h.Ours {
			return
		}
		again := make([]byte, len(b))
		h.put(again)
		got, ok := parseSlot(again)
		if !ok || got.Key != h.Key || got.Seq != h.Seq || got.Epoch != h.Epoch || got.CRC != h.CRC || h.Key != "" && got != h {
			t.Errorf("%+v reads back as %+v, %t", h, got, ok)
		}
	})
}

// Property: a copy that is taken has a payload within bounds, and what it says
// of slots is within the device or left out (recover does not panic).
func FuzzCheckpoint(f *testing.F) {
	c, err := ParseConfig([]byte(`{"device_path": "d", "slot_bytes": 8192, "capacity_bytes": 65536, "meta_total_bytes": 24576}`))
	if err != nil {
		f.Fatal(err)
	}
	for _, payload := range []string{
		`{"version":1,"block_align":4096,"header_bytes":4096,"slot_bytes":8192,"meta_total_bytes":24576,"data_base_offset":24576,"next_slot":2,"free_slots":[0],"entries":{"m@0x01000100@0@00":{"offset":32768,"size":5}}}`,
		`{"version":1,"block_align":4096,"header_bytes":4096,"slot_bytes":8192,"meta_total_bytes":24576,"data_base_offset":24576,"next_slot":-9,"entries":{"m@0x01000100@0@00":{"offset":-32768,"size":-5}},"lmcache_go":{"epoch":1,"seq":18446744073709551615,"clean":true}}`,
		`{}`, `[`, `null`,
	} {
		f.Add([]byte(payload), uint64(1))
	}
	f.Fuzz(func(t *testing.T, payload []byte, seq uint64) {
		head := make([]byte, copyHeader)
		putCopyHeader(head, c.Magic, seq, payload)
		gotSeq, n, crc, ok := parseCopyHeader(head, c.Magic, c.copyBytes()-c.BlockAlign)
		if ok != (len(payload) > 0 && int64(len(payload)) <= c.copyBytes()-c.BlockAlign) {
			t.Fatalf("payload of %d bytes: taken %t", len(payload), ok)
		}
		if ok && (gotSeq != seq || n != int64(len(payload)) || crc != crc32.ChecksumIEEE(payload)) {
			t.Fatalf("header reads back as %d, %d, %d", gotSeq, n, crc)
		}
		p, err := parseCheckpoint(payload, &c)
		if err != nil {
			return
		}
		s := &Store{c: c, slots: 5, objects: map[kv.ObjectKey]*object{}, dev: &device{align: c.BlockAlign}}
		if err := s.trust(p, false, nil); err != nil {
			t.Fatal(err)
		}
		used := map[int64]bool{}
		for k, o := range s.objects {
			if o.slot < 0 || o.slot >= s.next || s.next > s.slots || used[o.slot] || o.size < 0 || o.size > 4096 {
				t.Errorf("%v is in slot %d of %d with %d bytes", k, o.slot, s.next, o.size)
			}
			used[o.slot] = true
		}
		if len(s.free)+len(used) != int(s.next) {
			t.Errorf("%d free and %d taken of %d slots", len(s.free), len(used), s.next)
		}
	})
}

func TestCopyHeaderIsLMCaches(t *testing.T) {
	b := make([]byte, copyHeader)
	putCopyHeader(b, "LMCIDX01", 7, []byte("{}"))
	want := append([]byte("LMCIDX01\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"),
		binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte("{}")))...)
	if !bytes.Equal(b, want) {
		t.Errorf("header % x; want % x", b, want)
	}
}
