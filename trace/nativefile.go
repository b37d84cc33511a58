package trace

import "github.com/lmcache/lmcache-go/mmapio"

// nativeFile gives the bytes of a native trace file, which may still grow.
type nativeFile interface {
	// Bytes returns the file as it is, valid until Remap returns true, or Close.
	Bytes() []byte
	// Remap takes in what the file grew by and reports whether there was
	// anything.
	Remap() (grown bool, err error)
	Close() error
}

// openNativeFile maps the file at path. The guard runs what touches its bytes,
// and returns an error where they could not be had.
func openNativeFile(path string) (file nativeFile, guard func(func()) error, err error) {
	m, err := mmapio.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return m, mmapio.Guard, nil
}

// unguarded runs f over bytes that cannot fault.
func unguarded(f func()) error {
	f()
	return nil
}

// bytesFile is a file that is all in memory already.
type bytesFile []byte

func (b bytesFile) Bytes() []byte        { return b }
func (b bytesFile) Remap() (bool, error) { return false, nil }
func (b bytesFile) Close() error         { return nil }
