package fs

import (
	"strings"
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

// The names that LMCache 0.5.6 gives.
func TestNamesAreLMCaches(t *testing.T) {
	for _, c := range []struct {
		key  kv.ObjectKey
		name string
	}{
		{mustKey(t, hash16, "meta-llama/Llama-3.1-8B", "", 0x02010201, 11), "meta-llama-SEP-Llama-3.1-8B@0x02010201@b@00112233445566778899aabbccddeeff.data"},
		{mustKey(t, hash16, "meta-llama/Llama-3.1-8B", "alice", 0x02010201, 11), "meta-llama-SEP-Llama-3.1-8B@0x02010201@b@00112233445566778899aabbccddeeff@alice.data"},
		{mustKey(t, hash16, "a b%c+d?e#f:~é", "é ü%x+~", 1<<40|5, 0), "a b%c+d?e#f:~é@0x10000000005@0@00112233445566778899aabbccddeeff@é ü%x+~.data"},
		{mustKey(t, "", "", "", 0, 0), "@0x00000000@0@.data"},
		{mustKey(t, hash16[:4], `/a//b\d`, "x", 255, 255), `-SEP-a-SEP--SEP-b\d@0x000000ff@ff@00112233@x.data`},
		{mustKey(t, hash16[:1], "m", ".data", 1<<24, 0), "m@0x01000000@0@00@.data.data"},
	} {
		name, err := fileName(&c.key)
		if err != nil || name != c.name {
			t.Errorf("name %q, %v; want %q", name, err, c.name)
		}
		if k, ok := parseName(c.name); !ok || k != c.key {
			t.Errorf("%q is %v, %t", c.name, k, ok)
		}
		if ours, ok := isTempName(tempName(c.name, 0xabc)); !ours || !ok {
			t.Errorf("%q is no temporary name", tempName(c.name, 0xabc))
		}
		if ours, ok := isTempName(strings.TrimSuffix(c.name, ".data") + ".tmp"); ours || !ok {
			t.Errorf("LMCache's temporary name of %q is not known", c.name)
		}
	}
}

// Two keys never share a file, and a file is only found under its own name.
func TestNamesThatAreRefused(t *testing.T) {
	for _, k := range []kv.ObjectKey{
		mustKey(t, "h", "a-SEP-b", "", 1, 0), // the file of a/b
		mustKey(t, "h", "a-SEP/", "", 1, 0),  // -SEP-SEP- reads as /SEP-
		mustKey(t, "h", strings.Repeat("m", 240), "", 1, 0),
		mustKey(t, "h", "m\x00", "", 1, 0),
	} {
		if name, err := fileName(&k); err == nil {
			t.Errorf("%v has the name %q", k, name)
		}
	}
	for _, name := range []string{"m@0x01000100@0@00", "m@0x1@0@00.data", "m@01000100@0@00.data", "m@0x01000100@00.data", "m@0x01000100@0@00@.data",
		"m@0x01000100@0x1@00.data", "m@0x01000100@0@0G.data", "m@0x01000100@0@AB.data", "m@0X01000100@0@ab.data", "m@0x01000100@-1@ab.data",
		"m@0x01000100@0@00.tmp", "@@@.data", "m@0x01000100@0@0.data", "notes.txt", "a@0x01000100@0@00@s@x.data"} {
		if k, ok := parseName(name); ok {
			t.Errorf("%q is %v", name, k)
		}
	}
	long := strings.Repeat("m", 212) + "@0x01000100@0@" + strings.Repeat("0", 24) + ".data"
	if temp := tempName(long, 1); len(temp) > maxName {
		t.Errorf("the temporary name has %d bytes", len(temp))
	} else if ours, ok := isTempName(temp); !ours || !ok {
		t.Errorf("%q is no temporary name", temp)
	}
}

// Property: a name that is a key's is the name of that key, and its temporary
// names are known.
func FuzzName(f *testing.F) {
	for _, s := range []string{"meta-llama-SEP-Llama-3.1-8B@0x02010201@b@00112233445566778899aabbccddeeff@alice.data", "m@0x01000100@0@00.data",
		"@0x00000000@0@.data", "-SEP--SEP-@0x00000000@0@00.data", "m@0x01000100@0@00@.data", "m@0x1@0@00.data", "a/b@0x01000100@0@00.data",
		"m@0xfffffffffffffffff@0@00.data", "m@0x01000100@100000000@00.data", "m@0x01000100@0@00.go-0123456789abcdef.tmp", ".tmp", "@.data"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		isTempName(name)
		k, ok := parseName(name)
		if !ok {
			return
		}
		if got, err := fileName(&k); err != nil || got != name {
			t.Errorf("%q is %v, whose name is %q (%v)", name, k, got, err)
		}
		if strings.ContainsAny(name, "/\x00") {
			t.Errorf("%q is no name of a file", name)
		}
		if ours, ok := isTempName(tempName(name, uint64(len(name)))); !ours || !ok {
			t.Errorf("the temporary name of %q is not known", name)
		}
	})
}
