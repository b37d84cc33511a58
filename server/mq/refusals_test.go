package mq

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lmcache/lmcache-go/server/wire"
)

// TestSummaries has a thousand requests of one kind over ten minutes, and two of
// others.
func TestSummaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRefusals(slog.New(slog.NewTextHandler(&log, nil)))
		for i := range 1000 {
			r.add(Failed, wire.OpLookup, []byte{0xcd, 0x01, byte(i)}, 3, fmt.Errorf("reason %d", i))
			time.Sleep(600 * time.Millisecond)
		}
		r.add(Failed, wire.OpClear, nil, 3, errors.New("another operation"))
		r.add(Malformed, wire.OpLookup, []byte("\xa3abc"), 4, errors.New("another reason"))
		r.close()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		// The first, nine summaries by time, that of close, and two of other kinds.
		if len(lines) != 13 {
			t.Errorf("%d lines; want 13:\n%s", len(lines), &log)
		}
		for i, want := range map[int]string{
			0:  `reason=failed op=lookup uid=256 client=3 error="reason 0"`,
			1:  `msg="more requests not answered" reason=failed op=lookup count=100 last="reason 100"`,
			9:  `count=100 last="reason 900"`,
			10: `op=clear uid=0x client=3`,
			11: `reason=malformed op=lookup uid=0xa3616263 client=4`,
			12: `reason=failed op=lookup count=99 last="reason 999"`,
		} {
			if i < len(lines) && !strings.Contains(lines[i], want) {
				t.Errorf("line %d is %s; want %s", i, lines[i], want)
			}
		}
		if n := r.counts[Failed].Load(); n != 1001 {
			t.Errorf("%d failed; want 1001", n)
		}
	})
}
