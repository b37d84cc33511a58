package mmapio

import (
	"sync/atomic"
	"unsafe"
)

// Uint64 returns the 8 bytes at b[off:] as an atomic word in the machine's byte
// order. It panics if they are out of bounds or not 8-aligned in memory. The
// word is valid as long as b is.
//
// Safe because: the bytes are in bounds (slicing checks) and aligned (checked
// here), hold no Go pointers, and the pointer that is returned keeps heap memory
// alive; mapped memory lives until its owner unmaps it, which the owner of b
// answers for.
func Uint64(b []byte, off int) *atomic.Uint64 {
	p := unsafe.Pointer(unsafe.SliceData(b[off : off+8 : off+8]))
	if uintptr(p)&7 != 0 {
		panic("mmapio: misaligned word")
	}
	return (*atomic.Uint64)(p)
}

// Uint32 returns the 4 bytes at b[off:] as an atomic word, under the rules of
// [Uint64] with an alignment of 4.
//
// Safe because: as in Uint64.
func Uint32(b []byte, off int) *atomic.Uint32 {
	p := unsafe.Pointer(unsafe.SliceData(b[off : off+4 : off+4]))
	if uintptr(p)&3 != 0 {
		panic("mmapio: misaligned word")
	}
	return (*atomic.Uint32)(p)
}

// Blocks returns the first n blocks of 32 bytes in b, as the memory that b is. It
// panics if there are fewer.
//
// Safe because: the blocks are in bounds (checked here), bytes need no alignment,
// hold no pointers, and the slice that is returned keeps heap memory alive; for
// mapped memory as in Uint64.
func Blocks(b []byte, n int) [][32]byte {
	b = b[: n*32 : n*32]
	return unsafe.Slice((*[32]byte)(unsafe.Pointer(unsafe.SliceData(b))), n)
}
