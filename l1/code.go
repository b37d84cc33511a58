package l1

// Code is the outcome of an operation for one key.
//
// Source: reference storage-manager.md, section 1.4 (L1Error); the numbers are
// upstream's.
type Code uint8

const (
	Success         Code = iota + 1
	KeyNotExist          // no resident object; staging does not count
	KeyNotReadable       // no live read lock
	KeyNotWritable       // mode, lock or presence forbids the reservation
	KeyInWrongState      // not in the state that a finish needs
	KeyIsLocked          // delete of a locked object
	OutOfMemory          // the batch did not fit
)

var codeNames = [...]string{"UNKNOWN", "SUCCESS", "KEY_NOT_EXIST", "KEY_NOT_READABLE", "KEY_NOT_WRITABLE",
	"KEY_IN_WRONG_STATE", "KEY_IS_LOCKED", "OUT_OF_MEMORY"}

// String returns upstream's name.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return codeNames[0]
}

// Object is the memory of one object. It is the caller's to use while it holds
// the lock that it got with it: a reservation, or a read lock.
type Object struct {
	Offset int64  // in the arena, a multiple of the alignment
	Bytes  []byte // the logical size; a view of scratch memory where payloads do not count
}

// WriteResult is the outcome of a reservation for one key.
type WriteResult struct {
	Code   Code
	Object Object // set on Success
}
