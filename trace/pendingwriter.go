package trace

import "errors"

// The writer of the native format, as the recorder meets it.

type appendFile interface {
	Next(n int) ([]byte, error)
	Publish(word uint32)
	Offset() int64
	Head() []byte
	Sync() error
	Close() error
}

type writerOptions struct{ BlockBytes int64 }

type writer struct{ frameWriter }

func newWriter(f appendFile, h *Header, opt writerOptions) (*writer, error) {
	return nil, errors.New("native format: not merged")
}
