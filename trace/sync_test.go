package trace

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// syncCounter counts what it is asked for.
type syncCounter struct {
	n   int
	err error
}

func (c *syncCounter) Sync() error { c.n++; return c.err }

func TestSyncInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Uint64
		var log bytes.Buffer
		var c syncCounter
		s := startSyncer(&c, time.Second, &moved, slog.New(slog.NewTextHandler(&log, nil)))
		pass := func(want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if c.n != want {
				t.Errorf("%d syncs; want %d", c.n, want)
			}
		}
		time.Sleep(time.Millisecond) // off the ticks
		pass(0)                      // nothing was written
		moved.Add(1)
		pass(1)
		pass(1)
		moved.Add(3)
		pass(2)
		c.err = errors.New("no disk")
		moved.Add(1)
		pass(3)
		moved.Add(1)
		pass(3) // it has been said; what a later sync said would be a lie
		if err := s.stop(); !errors.Is(err, c.err) || strings.Count(log.String(), "no disk") != 1 {
			t.Errorf("stop: %v, log %s", err, &log)
		}
	})
	if err := startSyncer(nil, 0, nil, nil).stop(); err != nil {
		t.Error(err)
	}
}

// TestRecordWithSync records while the file is being synced all the time.
func TestRecordWithSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.lct")
	r, err := Create(path, Options{RingDir: t.TempDir(), Overflow: OverflowBlock, SyncInterval: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	const calls = 20_000
	for range calls {
		r.Call(OpFinishWrite, new(Args))
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyNative(t.Context(), path); err != nil || !v.OK() || v.Records != calls {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := Create(path, Options{SyncInterval: -1}); err == nil {
		t.Error("a negative interval was accepted")
	}
}

// TestSyncFailureIsReported has a disk that fails while the file is recorded.
func TestSyncFailureIsReported(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, start := heapRecorder(Options{Overflow: OverflowBlock, SyncInterval: time.Microsecond})
	out := &failingSync{err: errors.New("no disk"), asked: make(chan struct{})}
	start(out)
	r.Call(OpFinishWrite, oneKey(0))
	<-out.asked
	if err := r.Close(); !errors.Is(err, out.err) || len(out.calls) != 1 || out.closed != 1 {
		t.Errorf("Close: %v; %d calls, closed %d times", err, len(out.calls), out.closed)
	}
}

// failingSync is a keeper on such a disk.
type failingSync struct {
	keeper
	err   error
	asked chan struct{}
}

func (f *failingSync) Sync() error {
	close(f.asked) // twice would panic: what failed is not tried again
	return f.err
}
