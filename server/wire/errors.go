package wire

import (
	"errors"
	"fmt"
)

// What a request can be refused for. LMCache answers none of these.
var (
	ErrUnknownOp = errors.New("unknown operation")
	ErrNotServed = errors.New("operation not served")
	ErrArity     = errors.New("wrong number of arguments")
	ErrMalformed = errors.New("malformed")
)

// malformed is the error of a frame that holds no value of its type, or bytes
// behind it.
func malformed(what string, frame, rest []byte, err error) error {
	if err == nil {
		return fmt.Errorf("%s: %w: %d bytes after the value", what, ErrMalformed, len(rest))
	}
	return fmt.Errorf("%s of %d bytes: %w: %w", what, len(frame), ErrMalformed, err)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}
