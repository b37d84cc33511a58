package evict_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/evict"
	"github.com/lmcache/lmcache-go/kv"
)

func salt(t *testing.T, text string) kv.Salt {
	t.Helper()
	s, err := kv.InternSalt(strings.Replace(text, evict.DefaultSalt, "", 1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDue: quotas and usage are lists of SALT=BYTES; what is due is
// SALTS:RATIO.
func TestDue(t *testing.T) {
	parse := func(list string) (out []evict.Quota) {
		for _, f := range strings.Fields(list) {
			name, n, _ := strings.Cut(f, "=")
			var q evict.Quota
			q.Salt = salt(t, name)
			if _, err := fmt.Sscan(n, &q.Bytes); err != nil {
				t.Fatal(err)
			}
			out = append(out, q)
		}
		return out
	}
	text := func(list []evict.Due) string {
		var out []string
		for _, d := range list {
			var names []string
			for _, s := range d.Salts {
				names = append(names, evict.SaltName(s))
			}
			out = append(out, fmt.Sprintf("%s:%v", strings.Join(names, "+"), d.Ratio))
		}
		return strings.Join(out, " ")
	}
	const capacity, watermark, ratio = 100, 0.8, 0.2
	for _, c := range []struct{ what, quotas, usage, below, in string }{
		{"nothing there", "a=10", "", "", ""},
		{"below the watermark", "a=10", "a=7", "", ""},
		{"at the watermark", "a=10", "a=8", "a:0.2", "a:0.2"},
		{"a quota of 0", "a=0", "a=1", "a:1", "a:1"},
		{"each for itself", "a=10 b=20", "a=9 b=15", "a:0.2", "a:0.2"},
		{"no quota shares what is left", "a=60", "b=16 c=16", "b:1 c:1", "b+c:0.2"},
		{"and is below it", "a=60", "b=16 c=15", "b:1 c:1", ""},
		{"the empty salt", "_default=10 a=10", "_default=9 a=3", "_default:0.2", "_default:0.2"},
		{"no quotas at all", "", "a=50 b=30", "a:1 b:1", "a+b:0.2"},
		{"nothing is left", "a=60 b=60", "a=10 c=1", "c:1", "c:1"},
		{"quotas beyond the capacity, tier full", "a=60 b=90", "a=40 b=50", "", "a:0.2"},
		{"quotas beyond the capacity, tier not full", "a=60 b=90", "a=30 b=49", "", ""},
		{"a quota above everything", "a=1000 b=1000", "a=79 b=1", "", "a:0.2"},
	} {
		var q evict.Quotas
		for _, l := range parse(c.quotas) {
			if err := q.Set(l.Salt, l.Bytes); err != nil {
				t.Fatal(err)
			}
		}
		var usage []evict.SaltUsage
		for _, u := range parse(c.usage) {
			usage = append(usage, evict.SaltUsage(u))
		}
		if got := text(q.DueBelow(usage, watermark, ratio)); got != c.below {
			t.Errorf("%s: due in a store %q; want %q", c.what, got, c.below)
		}
		if got := text(q.DueIn(usage, capacity, watermark, ratio)); got != c.in {
			t.Errorf("%s: due in memory %q; want %q", c.what, got, c.in)
		}
	}
}

func TestQuotas(t *testing.T) {
	var q evict.Quotas
	a, b := salt(t, "a"), salt(t, "b")
	if err := q.Set(a, -1); err == nil || err.Error() != "quota of salt a: -1 bytes, must be 0 or more" {
		t.Errorf("a negative quota: %v", err)
	}
	for _, l := range []evict.Quota{{b, 1}, {0, 2}, {a, 3}, {b, 4}} {
		if err := q.Set(l.Salt, l.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := q.List(), []evict.Quota{{0, 2}, {a, 3}, {b, 4}}; !slices.Equal(got, want) {
		t.Errorf("quotas %v; want %v", got, want)
	}
	if !q.Delete(a) || q.Delete(a) {
		t.Error("a quota is deleted once")
	}
	if bytes, ok := q.Get(a); ok || bytes != 0 {
		t.Errorf("a deleted quota is %d, %v", bytes, ok)
	}
}
