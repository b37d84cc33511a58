package workload

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLine bounds one line. The longest session of the agentic set takes about
// 10 MB as published.
const maxLine = 256 << 20

// LineError reports a workload file that cannot be read on. All lines before
// Line were good.
type LineError struct {
	File string
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns Err.
func (e *LineError) Unwrap() error { return e.Err }

// lines reads a text file, plain or gzip, line by line.
type lines struct {
	name string
	file io.Closer
	in   *bufio.Reader
	line int  // number of the line last read
	some bool // a line was given
	long []byte
}

// openLines opens name. Whether it is compressed is told from its first bytes.
func openLines(name string) (*lines, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err // says open, the name and why
	}
	l, err := newLines(name, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func newLines(name string, r io.ReadCloser) (*lines, error) {
	l := &lines{name: name, file: r, in: bufio.NewReaderSize(r, 64<<10)}
	magic, err := l.in.Peek(2)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", name, bareCause(err))
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(l.in)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, gzipCause(err))
		}
		l.in = bufio.NewReaderSize(z, 64<<10)
	}
	return l, nil
}

// next returns the next line that is not blank, without its end; io.EOF behind
// the last. The bytes are valid until the next call.
func (l *lines) next() ([]byte, error) {
	for {
		b, err := l.read()
		if err == io.EOF && len(b) == 0 {
			if !l.some {
				return nil, l.errorf("no requests in the file")
			}
			return nil, io.EOF
		}
		l.line++
		if err != nil && err != io.EOF {
			return nil, l.fail(gzipCause(err))
		}
		if b = bytes.TrimSpace(b); len(b) > 0 {
			l.some = true
			return b, nil
		}
	}
}

// read returns one raw line. A line that fits the reader's buffer is not copied.
func (l *lines) read() ([]byte, error) {
	b, err := l.in.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return b, err
	}
	l.long = append(l.long[:0], b...)
	for err == bufio.ErrBufferFull {
		if len(l.long) > maxLine {
			return nil, fmt.Errorf("line of more than %d bytes", maxLine)
		}
		b, err = l.in.ReadSlice('\n')
		l.long = append(l.long, b...)
	}
	return l.long, err
}

func (l *lines) fail(err error) error {
	return &LineError{File: l.name, Line: max(l.line, 1), Err: err}
}

func (l *lines) errorf(format string, args ...any) error { return l.fail(fmt.Errorf(format, args...)) }

func (l *lines) Close() error { return l.file.Close() }

// gzipCause says what a decompression error means for the file.
func gzipCause(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the compressed file is cut off: %w", err)
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return fmt.Errorf("the compressed file is damaged: %w", err)
	}
	return bareCause(err)
}

// bareCause takes the path out of a file error: the message names it already.
func bareCause(err error) error {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
