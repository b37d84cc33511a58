package kv_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// TestEnumNames goes through the names in order, as traces carry them.
func TestEnumNames(t *testing.T) {
	for i, name := range []string{"new", "update", "all"} {
		if m, ok := kv.ParseWriteMode(name); !ok || m != kv.WriteMode(i) || m.String() != name {
			t.Errorf("mode %s is %d, %v", name, m, ok)
		}
	}
	for i, name := range []string{"prefix", "full", "segmented_prefix"} {
		if p, ok := kv.ParseFetchPolicy(name); !ok || p != kv.FetchPolicy(i) || p.String() != name {
			t.Errorf("policy %s is %d, %v", name, p, ok)
		}
	}
	for i, name := range []string{"LOCK", "NO_LOCK"} {
		if m, ok := kv.ParseLockMode(name); !ok || m != kv.LockMode(i) || m.String() != name {
			t.Errorf("lock mode %s is %d, %v", name, m, ok)
		}
	}
	for _, name := range []string{"", "NEW", "lock", "(3)"} {
		_, a := kv.ParseWriteMode(name)
		_, b := kv.ParseFetchPolicy(name)
		_, c := kv.ParseLockMode(name)
		if a || b || c {
			t.Errorf("%q is a mode %v, a policy %v, a lock mode %v; want none", name, a, b, c)
		}
	}
	if got := kv.WriteMode(3).String() + kv.FetchPolicy(9).String() + kv.LockMode(2).String(); got != "(3)(9)(2)" {
		t.Errorf("values without a name print %s", got)
	}
}

// Source: reference storage-manager.md, section 1.5.
func TestPrefetchSpecValidate(t *testing.T) {
	row := func(chunks int, window int32) kv.KeyGroup {
		return kv.KeyGroup{Keys: make([]kv.ObjectKey, chunks), Window: window}
	}
	rows := func(g ...kv.KeyGroup) []kv.KeyGroup { return g }
	cases := []struct {
		name   string
		spec   kv.PrefetchSpec
		chunks int
		want   string // "" is valid
	}{
		{"one row", kv.PrefetchSpec{Groups: rows(row(3, -1)), Readers: 1}, 3, ""},
		{"windows", kv.PrefetchSpec{Groups: rows(row(3, 1), row(3, 128), row(3, -1)), Readers: 4, Policy: kv.FetchFull, Lock: kv.NoLock}, 3, ""},
		{"no chunks", kv.PrefetchSpec{Groups: rows(row(0, -1), row(0, 2)), Readers: 1}, 0, ""},
		{"no rows", kv.PrefetchSpec{Readers: 1}, 0, "no key groups"},
		{"no readers", kv.PrefetchSpec{Groups: rows(row(3, -1))}, 3, "0 readers"},
		{"negative readers", kv.PrefetchSpec{Groups: rows(row(3, -1)), Readers: -2}, 3, "-2 readers"},
		{"ragged", kv.PrefetchSpec{Groups: rows(row(3, -1), row(3, 1), row(2, -1)), Readers: 1}, 3, "group 2 has 2 keys, group 0 has 3"},
		{"window 0", kv.PrefetchSpec{Groups: rows(row(3, 0)), Readers: 1}, 3, "group 0 has window 0"},
		{"window -2", kv.PrefetchSpec{Groups: rows(row(3, -1), row(3, -2)), Readers: 1}, 3, "group 1 has window -2"},
		{"policy", kv.PrefetchSpec{Groups: rows(row(3, -1)), Readers: 1, Policy: 3}, 3, "policy (3)"},
		{"lock mode", kv.PrefetchSpec{Groups: rows(row(3, -1)), Readers: 1, Lock: 2}, 3, "lock mode (2)"},
	}
	for _, c := range cases {
		err := c.spec.Validate()
		if c.want == "" && err != nil {
			t.Errorf("%s: %v; want no error", c.name, err)
		}
		if c.want != "" && (!errors.Is(err, kv.ErrSpec) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want ErrSpec with %q", c.name, err, c.want)
		}
		if got := c.spec.Chunks(); got != c.chunks {
			t.Errorf("%s: %d chunks; want %d", c.name, got, c.chunks)
		}
	}
}
