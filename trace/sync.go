package trace

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// syncFile is a [FrameWriter] whose file can be forced to the disk while another
// goroutine goes on writing it, until it is closed.
type syncFile interface{ Sync() error }

// syncer has a file forced to the disk now and then, so that a power cut loses no
// more than what came since. It has a goroutine of its own: the drain goes on
// meanwhile, and calls never wait for a disk. A file that nothing was added to is
// left alone.
type syncer struct {
	file  syncFile
	moved *atomic.Uint64 // changes when something was written
	log   *slog.Logger
	quit  chan struct{}
	done  chan struct{}
	err   error // the first, and last: what failed to reach the disk is not tried again; read after done
}

// startSyncer syncs file every so often; nil, which is fine to stop, if every is
// zero.
func startSyncer(file syncFile, every time.Duration, moved *atomic.Uint64, log *slog.Logger) *syncer {
	if every <= 0 {
		return nil
	}
	s := &syncer{file: file, moved: moved, log: log, quit: make(chan struct{}), done: make(chan struct{})}
	ticker := time.NewTicker(every)
	go func() {
		defer close(s.done)
		defer ticker.Stop()
		s.run(ticker.C)
	}()
	return s
}

func (s *syncer) run(ticks <-chan time.Time) {
	for synced := uint64(0); ; {
		select {
		case <-s.quit:
			return
		case <-ticks:
		}
		moved := s.moved.Load() // before: what comes meanwhile may be in, or not
		if moved == synced {
			continue
		}
		if err := s.file.Sync(); err != nil {
			s.err = fmt.Errorf("sync: %w", err)
			s.log.Error("trace recorder: sync failed; what a power cut would leave is not known from here on", "err", err)
			return
		}
		synced = moved
	}
}

// stop ends the syncing and returns what went wrong with it.
func (s *syncer) stop() error {
	if s == nil {
		return nil
	}
	close(s.quit)
	<-s.done
	return s.err
}

// syncName forces the entry of a new file in its folder to the disk.
func syncName(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir.Name(), err)
	}
	return nil
}
