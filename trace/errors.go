package trace

import (
	"errors"
	"fmt"
)

// ErrNotNative says that a file is no trace of the native format.
var ErrNotNative = errors.New("not a native trace file")

// ErrTruncatedHeader says that a file ends inside its header.
var ErrTruncatedHeader = errors.New("truncated header")

// ErrUndefined says that a record refers to something that the file does not
// define: what defined it is lost.
var ErrUndefined = errors.New("not defined in the file")

// ErrTooLarge says that a call exceeds a limit of the format.
var ErrTooLarge = errors.New("call too large for the trace format")

// VersionError reports a file of a version that this build does not read.
type VersionError struct {
	Field     string // "format_version" or "trace_schema_version"
	Got, Want uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("unsupported %s %d (this build reads %d)", e.Field, e.Got, e.Want)
}

// CorruptError reports bytes that are present but wrong. All before Offset is
// intact.
type CorruptError struct {
	Offset int64  // of the frame, from the start of the file; 0 for the header
	Field  string // "header", "length", "checksum", "block", "definition", "nodes" or "args"
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt %s at offset %d: %v", e.Field, e.Offset, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
