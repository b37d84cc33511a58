package invariant_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lmcache/lmcache-go/internal/invariant"
)

func TestCheck(t *testing.T) {
	cases := []struct {
		name string
		run  func()
		want any // what it panics with, nil for no panic
	}{
		{"holds", func() { invariant.Check(true, "n is %d", 1) }, nil},
		{"broken", func() { invariant.Check(false, "n is %d", 1) }, "invariant: n is 1"},
		{"no error", func() { invariant.CheckErr(nil) }, nil},
		{"error", func() { invariant.CheckErr(errors.New("two free neighbours")) }, "invariant: two free neighbours"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if got := recover(); fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("panic %v; want %v", got, c.want)
				}
			}()
			c.run()
		})
	}
}
