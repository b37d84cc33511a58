package zmtp

import "syscall"

// directWriter writes what a socket takes without waiting. One goroutine at a
// time uses it; it exists so that a write allocates nothing.
type directWriter struct {
	raw  syscall.RawConn
	call func(fd uintptr) bool

	b   []byte
	n   int
	err error
}

func newDirectWriter(raw syscall.RawConn) *directWriter {
	w := &directWriter{raw: raw}
	w.call = w.try
	return w
}

// write returns how much of b the socket took. Taking nothing is no error.
func (w *directWriter) write(b []byte) (int, error) {
	w.b, w.n, w.err = b, 0, nil
	err := w.raw.Write(w.call)
	w.b = nil
	if w.err != nil {
		err = w.err
	}
	return w.n, err
}

// try returns true even if the socket took nothing: who writes the rest waits.
func (w *directWriter) try(fd uintptr) bool {
	for w.n < len(w.b) {
		n, err := syscall.Write(int(fd), w.b[w.n:])
		switch {
		case n > 0:
			w.n += n
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return true
		default:
			w.err = err
			return true
		}
	}
	return true
}
