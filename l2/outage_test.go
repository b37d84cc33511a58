package l2_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/l2"
)

func TestOutageIsTwoLines(t *testing.T) {
	var out bytes.Buffer
	env := l2.Env{Log: slog.New(slog.NewTextHandler(&out, nil))}
	var o l2.Outage
	full := errors.New("disk full")
	for range 2 {
		for range 5 {
			if err := o.Report(&env, "fs", full); !errors.Is(err, full) || !errors.Is(err, l2.ErrReported) {
				t.Errorf("error %v; want both what it was and that it is reported", err)
			}
		}
		for range 3 {
			if err := o.Report(&env, "fs", nil); err != nil {
				t.Error(err)
			}
		}
	}
	if got := out.String(); strings.Count(got, "\n") != 4 || strings.Count(got, "fs: disk full;") != 2 || strings.Count(got, "fs: works again after 5 failures") != 2 {
		t.Errorf("two outages are logged as\n%s", got)
	}
	if err := o.Report(&l2.Env{}, "fs", full); !errors.Is(err, full) || errors.Is(err, l2.ErrReported) {
		t.Errorf("without a log: %v", err)
	}
}
