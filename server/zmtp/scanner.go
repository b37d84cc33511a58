package zmtp

import (
	"fmt"
	"io"
)

const (
	bufferSize = 16 << 10  // what a connection begins with
	bufferKept = 256 << 10 // what it keeps after a large message
	maxCommand = 64 << 10
)

// scanner reads frames off a connection. A message stays whole in the buffer
// until the next is asked for, so its frames are not copied. One goroutine uses
// it.
//
// The buffer grows when it is full and by doubling, never by what a header
// announces: an announced size costs its sender as many bytes.
type scanner struct {
	src       io.Reader
	maxSize   int
	maxFrames int
	idle      func()             // called before src is asked for more
	command   func([]byte) error // takes the body of a command

	buf   []byte
	start int // where the message in hand begins; before it nothing is needed
	next  int // header of the next frame
	end   int // end of what has been read

	spans  []span // frames of the message in hand
	frames [][]byte
}

// span is a frame's body, counted from the scanner's start, which moves.
type span struct{ off, size int }

// message returns the frames of the next message, valid until the next call. An
// error of src leaves the scanner as it is, so a read that timed out can be
// repeated.
func (s *scanner) message() ([][]byte, error) {
	if len(s.frames) > 0 { // the caller is done with them
		s.spans, s.frames = s.spans[:0], s.frames[:0]
		s.release()
	}
	for {
		flags, body, err := s.frame()
		if err != nil {
			return nil, err
		}
		if flags&flagCommand != 0 {
			if err := s.command(s.buf[s.start+body.off : s.start+body.off+body.size]); err != nil {
				return nil, err
			}
			if len(s.spans) == 0 { // else it came amid a message, which libzmq does
				s.release()
			}
			continue
		}
		if len(s.spans) == s.maxFrames {
			return nil, &ProtocolError{fmt.Sprintf("message of more than %d frames", s.maxFrames)}
		}
		s.spans = append(s.spans, body)
		if flags&flagMore == 0 {
			break
		}
	}
	for _, p := range s.spans {
		at := s.start + p.off
		s.frames = append(s.frames, s.buf[at:at+p.size:at+p.size])
	}
	return s.frames, nil
}

// frame reads one frame.
func (s *scanner) frame() (flags byte, body span, err error) {
	for {
		flags, size, n, err := parseHeader(s.buf[s.next:s.end])
		if err != nil {
			return 0, span{}, err
		}
		if n == 0 {
			if err := s.fill(); err != nil {
				return 0, span{}, err
			}
			continue
		}
		if flags&flagCommand != 0 && size > maxCommand {
			return 0, span{}, &ProtocolError{fmt.Sprintf("command of %d bytes", size)}
		}
		used := s.next + n - s.start
		if used > s.maxSize || size > uint64(s.maxSize-used) {
			return 0, span{}, &ProtocolError{fmt.Sprintf("frame of %d bytes in a message of at most %d", size, s.maxSize)}
		}
		for s.end-s.next < n+int(size) {
			if err := s.fill(); err != nil {
				return 0, span{}, err
			}
		}
		body = span{s.next + n - s.start, int(size)}
		s.next += n + int(size)
		return flags, body, nil
	}
}

// release gives up what has been parsed.
func (s *scanner) release() {
	s.start = s.next
	if s.start == s.end {
		s.start, s.next, s.end = 0, 0, 0
		if len(s.buf) > bufferKept {
			s.buf = nil
		}
	}
}

// fill reads at least one byte.
func (s *scanner) fill() error {
	if s.end == len(s.buf) {
		switch {
		case s.start > 0:
			copy(s.buf, s.buf[s.start:s.end])
			s.next -= s.start
			s.end -= s.start
			s.start = 0
		case len(s.buf) == 0:
			s.buf = make([]byte, bufferSize)
		default:
			grown := make([]byte, 2*len(s.buf))
			copy(grown, s.buf)
			s.buf = grown
		}
	}
	s.idle()
	n, err := s.src.Read(s.buf[s.end:])
	s.end += n
	switch {
	case n > 0:
		return nil // an error comes again
	case err == nil:
		return io.ErrNoProgress
	case err == io.EOF && s.end > s.start:
		return io.ErrUnexpectedEOF
	}
	return err
}
