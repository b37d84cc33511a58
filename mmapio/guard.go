package mmapio

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"unsafe"
)

// FaultError reports an access to mapped memory that the kernel could not
// serve: the file became shorter than its mapping, its disk failed, or it is
// sparse and its file system is full.
type FaultError struct {
	Addr uintptr // address of the access
	Path string  // file behind it
	// Offset is from the start of the file. Where a copy of several bytes
	// faulted it is of the first byte that could not be had, or before it.
	Offset int64
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("access %s at offset %d: memory fault (the file shrank, or its disk failed)", e.Path, e.Offset)
}

// Guard runs f and returns a *FaultError if it touched a page of a mapping of
// this package that could not be had. Any other panic passes through, a fault
// at another address included. f's writes up to the fault stay done. It guards
// the calling goroutine only, and costs some 20 ns: guard a batch, not a word.
func Guard(f func()) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		cause := recover()
		if cause == nil {
			return
		}
		if fault := faultOf(cause); fault != nil {
			err = fault
			return
		}
		panic(cause)
	}()
	f()
	return nil
}

// faultOf returns the error for a recovered panic that is a fault in a mapping.
func faultOf(cause any) *FaultError {
	e, ok := cause.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		return nil
	}
	return mappings.find(e.Addr())
}

// mappings holds the file mappings that are alive, so that Guard can tell a
// fault in one of them from a stray pointer.
var mappings registry

type registry struct {
	mu    sync.Mutex
	spans []span // guarded by mu; few: a handful a process
}

type span struct {
	start, size uintptr
	path        string
	offset      int64 // in the file, of start
}

func (r *registry) add(mem []byte, path string, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, span{address(mem), uintptr(len(mem)), path, offset})
}

func (r *registry) remove(mem []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := address(mem)
	for i := range r.spans {
		if r.spans[i].start == start {
			r.spans = append(r.spans[:i], r.spans[i+1:]...)
			return
		}
	}
}

func (r *registry) find(addr uintptr) *FaultError {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if addr-s.start < s.size {
			return &FaultError{Addr: addr, Path: s.path, Offset: s.offset + int64(addr-s.start)}
		}
	}
	return nil
}

// address returns where mem starts.
//
// Safe because: the number is compared, never turned back into a pointer, and
// mapped memory does not move.
func address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
