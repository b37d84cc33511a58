package kv_test

import (
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// FuzzParseKey: what is taken for a key's name is exactly that.
func FuzzParseKey(f *testing.F) {
	f.Add("meta-llama/Llama-3.1-8B@02010201@b@00112233445566778899aabbccddeeff")
	f.Add("@12c01ff0803@ffffffff@@alice")
	f.Add("m@00000001@0@00@a@b")
	f.Fuzz(func(t *testing.T, name string) {
		if k, ok := kv.ParseKey(name); ok && k.String() != name {
			t.Errorf("%q is read as %v", name, k)
		}
	})
}

func TestParseKey(t *testing.T) {
	for _, c := range [][2]string{{"meta-llama/Llama-3.1-8B", ""}, {"m", "alice"}, {"", "é ü"}} {
		scope, err := kv.InternScope(c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, rank := range []uint64{0, kv.PackRank(1, 0, 1, 0), kv.PackRank(300, 299, 8, 3)} {
			for _, group := range []uint32{0, 11, 1<<32 - 1} {
				k, err := kv.NewObjectKey([]byte{1, 0xab}, scope, rank, group)
				if err != nil {
					t.Fatal(err)
				}
				if got, ok := kv.ParseKey(k.String()); !ok || got != k {
					t.Errorf("%v is read as %v, %t", k, got, ok)
				}
			}
		}
	}
	for _, name := range []string{"", "m", "m@1@0@00", "m@01000100@0", "m@01000100@0@0", "m@01000100@00@00", "m@01000100@0@AA",
		"m@01000100@0@00@", "m@01000100@0@00@a/b", "m@01000100@100000000@00", "m@01000100@0@" + strings.Repeat("00", 33)} {
		if k, ok := kv.ParseKey(name); ok {
			t.Errorf("%q is read as %v", name, k)
		}
	}
}
