package kv_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/lmcache/lmcache-go/kv"
)

// TestInternConcurrently lets goroutines intern the same values, each in an
// order of its own, and read each other's at once. Under -race it also holds the
// publication of the value table to its promise.
func TestInternConcurrently(t *testing.T) {
	const workers, values = 8, 300
	var mu sync.Mutex
	scopes := map[string]kv.Scope{}
	layouts := map[string]kv.Layout{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range values {
				n := (i*7 + w*101) % values
				model, salt := fmt.Sprintf("concurrent-%d", n), fmt.Sprint("salt-", n%3)
				s, err := kv.InternScope(model, salt)
				if err != nil {
					t.Error(err)
					return
				}
				if s.Model() != model || s.Salt() != salt {
					t.Errorf("scope %d of %s, %s gives %s, %s", s, model, salt, s.Model(), s.Salt())
				}
				d := kv.LayoutDesc{Shapes: [][]int64{{int64(n), 1 << 20}}, DTypes: []kv.DType{1}}
				l, err := kv.InternLayout(d)
				if err != nil {
					t.Error(err)
					return
				}
				if l.Bytes() != int64(n)<<23 {
					t.Errorf("layout %d of %s has %d bytes; want %d", l, d, l.Bytes(), int64(n)<<23)
				}
				// Reading ids that others have just got: anything but a
				// torn value is right.
				if m := (s + 1).Model(); len(m) > 64 {
					t.Errorf("scope %d has the model %q", s+1, m)
				}
				mu.Lock()
				if other, ok := scopes[model]; ok && other != s {
					t.Errorf("%s is scope %d and %d", model, s, other)
				}
				if other, ok := layouts[d.String()]; ok && other != l {
					t.Errorf("%s is layout %d and %d", d, l, other)
				}
				scopes[model], layouts[d.String()] = s, l
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	ids := map[kv.Scope]bool{}
	for _, s := range scopes {
		ids[s] = true
	}
	if len(ids) != values {
		t.Errorf("%d scopes for %d models", len(ids), values)
	}
}
