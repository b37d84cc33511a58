package lct

import "os"

// fileBytes is a whole file as bytes.
type fileBytes interface {
	Bytes() []byte
	Close() error
}

// openFile gives the bytes of the file at path, and guard runs a function that
// touches them: it returns an error where the file cannot be had any more.
var (
	openFile = func(path string) (fileBytes, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return readBytes(b), nil
	}
	guard = func(f func()) error { f(); return nil }
)

type readBytes []byte

func (b readBytes) Bytes() []byte { return b }
func (b readBytes) Close() error  { return nil }
