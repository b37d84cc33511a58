package logfmt

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"
)

// ErrFull is returned for a line that was left out because what reads the
// lines has stopped to.
var ErrFull = errors.New("log: nobody reads")

const (
	// streamLimit bounds the lines that wait, in bytes; as many may be on
	// their way.
	streamLimit = 4 << 20
	// chunkBytes is what one write of the stream takes, so that a slow reader
	// is told from one that has stopped.
	chunkBytes = 64 << 10
	// gather is how long a line waits for others to share a write with.
	gather = 10 * time.Millisecond
	// idleTicks is after how many gatherings without a line the stream goes to
	// sleep. Waking it costs its caller some µs, adding a line to what it
	// gathers does not.
	idleTicks = 50
	// patience is how long a line waits for a reader that takes nothing.
	patience = time.Second
)

// Stream is an io.Writer that gives lines to another one in the background and
// in their order: a caller pays for a copy. Memory is bounded. A Write that
// finds no room waits for it, and once the reader has taken nothing for a
// second lines are refused with ErrFull, without waiting, until it does again.
// What was accepted is written by Close at the latest; a kill loses the last 10
// ms.
//
// Stream is safe for concurrent use.
type Stream struct {
	hurry chan struct{} // 1 slot; ends a gathering early, or the sleep
	ended chan struct{} // closed when run has

	writing chan struct{} // 1 slot, full while lines are on their way; a lock, taken before mu, that synctest sees through

	mu      sync.Mutex
	w       io.Writer     // guarded by mu; used by who holds writing
	pending []byte        // guarded by mu
	spare   []byte        // guarded by mu; its memory holds the next pending
	queued  int64         // guarded by mu; bytes accepted
	written int64         // guarded by mu; bytes that w was given
	step    chan struct{} // guarded by mu; closed, and replaced, when there is room, and after each write
	asleep  bool          // guarded by mu; run waits for hurry alone
	stuck   bool          // guarded by mu; the reader took nothing for the time of patience
	closing bool          // guarded by mu
	waited  time.Duration // guarded by mu
	err     error         // guarded by mu; the first of w
}

// NewStream starts a stream to w. The caller must Close it.
func NewStream(w io.Writer) *Stream {
	s := &Stream{
		hurry: make(chan struct{}, 1), ended: make(chan struct{}), writing: make(chan struct{}, 1),
		w: w, step: make(chan struct{}),
	}
	go s.run()
	return s
}

// Write accepts one line, or several. After Close it writes them itself.
func (s *Stream) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) > 0 && len(s.pending)+len(line) > streamLimit && !s.closing {
		if s.stuck {
			return 0, ErrFull
		}
		s.wait()
	}
	if s.closing {
		s.mu.Unlock()
		<-s.ended
		s.mu.Lock()
		return s.w.Write(line)
	}
	before := len(s.pending)
	s.pending = append(s.pending, line...)
	s.queued += int64(len(line))
	if s.asleep || before < streamLimit/2 && len(s.pending) >= streamLimit/2 {
		s.asleep = false
		s.wake()
	}
	return len(line), nil
}

// wait gives mu away until there may be room, and notes when the reader has
// taken nothing for too long.
func (s *Stream) wait() {
	step, written, start := s.step, s.written, time.Now()
	s.mu.Unlock()
	s.wake()
	timer := time.NewTimer(patience)
	select {
	case <-step:
	case <-timer.C:
	}
	timer.Stop()
	s.mu.Lock()
	took := time.Since(start)
	s.waited += took
	if took >= patience && s.written == written {
		s.stuck = true
	}
}

func (s *Stream) wake() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// advance tells those who wait; mu is held.
func (s *Stream) advance() {
	close(s.step)
	s.step = make(chan struct{})
}

func (s *Stream) run() {
	defer close(s.ended)
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for idle := 0; ; {
		n, last := s.drain()
		if last {
			return
		}
		if idle++; n > 0 {
			idle = 0
		}
		if s.rest(idle >= idleTicks) {
			<-s.hurry
			idle = 0
			continue
		}
		timer.Reset(gather)
		select {
		case <-timer.C:
		case <-s.hurry:
		}
	}
}

// rest reports whether to sleep: if allowed, and no line has come since.
func (s *Stream) rest(allowed bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asleep = allowed && len(s.pending) == 0 && !s.closing
	return s.asleep
}

// drain writes what waits. last says that no more will come.
func (s *Stream) drain() (n int, last bool) {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, w := s.pending, s.w
	last = s.closing
	if len(batch) == 0 {
		return 0, last
	}
	s.pending, s.spare = s.spare[:0], nil
	s.advance()
	for rest := batch; len(rest) > 0; {
		chunk := rest
		if len(chunk) > chunkBytes {
			chunk = chunk[:chunkBytes]
			if i := bytes.LastIndexByte(chunk, '\n'); i >= 0 {
				chunk = chunk[:i+1]
			}
		}
		rest = rest[len(chunk):]
		s.mu.Unlock()
		_, err := w.Write(chunk)
		s.mu.Lock()
		if err != nil && s.err == nil {
			s.err = err
		}
		s.written += int64(len(chunk))
		s.stuck = false
		s.advance()
	}
	s.spare = batch[:0]
	return len(batch), last
}

// Flush waits until the lines accepted so far are written.
func (s *Stream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for until := s.queued; s.written < until; {
		step := s.step
		s.mu.Unlock()
		s.wake()
		<-step
		s.mu.Lock()
	}
}

// Divert makes next return where lines go from now on, at a moment when none
// is on its way.
func (s *Stream) Divert(next func() io.Writer) {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	w := next()
	s.mu.Lock()
	s.w = w
	s.mu.Unlock()
}

// Waited returns how long calls of Write have waited for room, in all.
func (s *Stream) Waited() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waited
}

// Close writes what was accepted and returns the first error of the writer. It
// may be called twice.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closing = true
	s.asleep = false
	s.advance()
	s.mu.Unlock()
	s.wake()
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
