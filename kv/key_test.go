package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

func mustScope(t *testing.T, model, salt string) kv.Scope {
	t.Helper()
	s, err := kv.InternScope(model, salt)
	if err != nil {
		t.Fatalf("InternScope(%q, %q): %v", model, salt, err)
	}
	return s
}

func mustKey(t *testing.T, hash []byte, scope kv.Scope, rank uint64, group uint32) kv.ObjectKey {
	t.Helper()
	k, err := kv.NewObjectKey(hash, scope, rank, group)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNewObjectKey(t *testing.T) {
	scope := mustScope(t, "m", "")
	for _, n := range []int{0, 4, 8, 31, 32} {
		hash := bytes.Repeat([]byte{0xab}, n)
		k := mustKey(t, hash, scope, 1, 2)
		if !bytes.Equal(k.ChunkHash(), hash) {
			t.Errorf("hash of %d bytes comes back as %x", n, k.ChunkHash())
		}
		clear(hash) // the key has its own copy
		if n > 0 && k.ChunkHash()[0] != 0xab {
			t.Errorf("hash of %d bytes is shared with the caller", n)
		}
	}
	if _, err := kv.NewObjectKey(make([]byte, 33), scope, 1, 2); !errors.Is(err, kv.ErrKey) || !strings.Contains(err.Error(), "33 bytes") {
		t.Errorf("hash of 33 bytes: %v; want ErrKey with the length", err)
	}
}

// TestObjectKeyEquality varies every part of a key: each makes another key.
func TestObjectKeyEquality(t *testing.T) {
	a, salted, other := mustScope(t, "model", ""), mustScope(t, "model", "alice"), mustScope(t, "other", "")
	keys := map[kv.ObjectKey]string{}
	for name, k := range map[string]kv.ObjectKey{
		"base":        mustKey(t, []byte{1, 2, 0, 0}, a, 7, 1),
		"hash":        mustKey(t, []byte{1, 3, 0, 0}, a, 7, 1),
		"hash length": mustKey(t, []byte{1, 2, 0}, a, 7, 1), // the same but for the zero padding
		"salt":        mustKey(t, []byte{1, 2, 0, 0}, salted, 7, 1),
		"model":       mustKey(t, []byte{1, 2, 0, 0}, other, 7, 1),
		"rank":        mustKey(t, []byte{1, 2, 0, 0}, a, 8, 1),
		"group":       mustKey(t, []byte{1, 2, 0, 0}, a, 7, 2),
	} {
		if same, ok := keys[k]; ok {
			t.Errorf("%s and %s are one key", name, same)
		}
		keys[k] = name
	}
	if again := mustKey(t, []byte{1, 2, 0, 0}, mustScope(t, "model", ""), 7, 1); keys[again] != "base" {
		t.Errorf("the same parts give the key %q; want base", keys[again])
	}
}

// TestObjectKeyString pins the wire keys.
//
// Source: reference storage-manager.md, section 8.3.
func TestObjectKeyString(t *testing.T) {
	hash := []byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	const model = "meta-llama/Llama-3.1-8B"
	cases := []struct {
		salt  string
		rank  uint64
		group uint32
		want  string
	}{
		{"", 0x02010201, 11, model + "@02010201@b@00112233445566778899aabbccddeeff"},
		{"alice", 0x02010201, 11, model + "@02010201@b@00112233445566778899aabbccddeeff@alice"},
		{"", 1, 0, model + "@00000001@0@00112233445566778899aabbccddeeff"},
		{"", 0x12_0001_0203, 255, model + "@1200010203@ff@00112233445566778899aabbccddeeff"},
	}
	for _, c := range cases {
		if got := mustKey(t, hash, mustScope(t, model, c.salt), c.rank, c.group).String(); got != c.want {
			t.Errorf("got %s; want %s", got, c.want)
		}
	}
}

// Source: reference storage-manager.md, section 1.2.
func TestPackRank(t *testing.T) {
	for _, c := range []struct{ world, global, localWorld, local, want uint64 }{
		{1, 0, 1, 0, 16777472},
		{2, 1, 2, 1, 33620481},
		{4, 3, 4, 3, 67306499},
		{8, 5, 4, 1, 134546433},
		{300, 299, 8, 3, 300<<24 | 299<<16 | 8<<8 | 3}, // wider than 32 bits, and 299 spills
	} {
		if got := kv.PackRank(c.world, c.global, c.localWorld, c.local); got != c.want {
			t.Errorf("PackRank(%d, %d, %d, %d) = %#x; want %#x", c.world, c.global, c.localWorld, c.local, got, c.want)
		}
	}
}

func TestInternScope(t *testing.T) {
	for _, c := range []struct{ model, salt string }{
		{"meta-llama/Llama-3.1-8B", ""}, {"meta-llama/Llama-3.1-8B", "alice"}, {"", "alice"}, {"modell", ""}, {"model", "l"},
		{`back\slash and a space`, ""}, {"m", strings.Repeat("x", 128)}, {"m", strings.Repeat("ü", 128)},
	} {
		s := mustScope(t, c.model, c.salt)
		if s == 0 || s.Model() != c.model || s.Salt() != c.salt {
			t.Errorf("scope %d of %q, %q gives %q, %q", s, c.model, c.salt, s.Model(), s.Salt())
		}
		if again := mustScope(t, strings.Clone(c.model), strings.Clone(c.salt)); again != s {
			t.Errorf("%q, %q is scope %d, then %d", c.model, c.salt, s, again)
		}
	}
	if s := mustScope(t, "", ""); s != 0 || s.Model() != "" || s.Salt() != "" {
		t.Errorf("the empty scope is %d, %q, %q; want 0", s, s.Model(), s.Salt())
	}
	if s := kv.Scope(1 << 31); s.Model() != "" || s.Salt() != "" {
		t.Errorf("a scope never given has %q, %q; want nothing", s.Model(), s.Salt())
	}
}

func TestInternScopeErrors(t *testing.T) {
	for _, c := range []struct{ model, salt, want string }{
		{"a@b", "", "model name"},
		{"@", "alice", "model name"},
		{"m", "a@b", "contains @"},
		{"m", "a/b", "contains @, /"},
		{"m", `a\b`, "contains @, /"},
		{"m", "a\x00b", "NUL"},
		{"m", strings.Repeat("ü", 129), "129 characters"},
	} {
		if s, err := kv.InternScope(c.model, c.salt); !errors.Is(err, kv.ErrKey) || !strings.Contains(fmt.Sprint(err), c.want) || s != 0 {
			t.Errorf("InternScope(%q, %q) = %d, %v; want ErrKey with %q", c.model, c.salt, s, err, c.want)
		}
	}
}
