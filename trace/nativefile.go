package trace

import (
	"io"
	"os"
)

// nativeFile gives the bytes of a native trace file, which may still grow.
type nativeFile interface {
	// Bytes returns the file as it is, valid until Remap returns true, or Close.
	Bytes() []byte
	// Remap takes in what the file grew by and reports whether there was
	// anything.
	Remap() (grown bool, err error)
	Close() error
}

// openNativeFile opens the file at path. The guard runs what touches its bytes,
// and returns an error where they could not be had.
func openNativeFile(path string) (file nativeFile, guard func(func()) error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	h := &heapFile{f: f}
	if _, err := h.Remap(); err != nil {
		f.Close()
		return nil, nil, err
	}
	return h, unguarded, nil
}

func unguarded(f func()) error {
	f()
	return nil
}

// heapFile is a file read into memory.
type heapFile struct {
	f    *os.File
	data []byte
}

func (h *heapFile) Bytes() []byte { return h.data }

func (h *heapFile) Remap() (bool, error) {
	before := len(h.data)
	data, err := io.ReadAll(io.NewSectionReader(h.f, 0, 1<<62))
	h.data = data
	return len(data) != before, err
}

func (h *heapFile) Close() error { return h.f.Close() }

// bytesFile is a file that is all in memory already.
type bytesFile []byte

func (b bytesFile) Bytes() []byte        { return b }
func (b bytesFile) Remap() (bool, error) { return false, nil }
func (b bytesFile) Close() error         { return nil }
