// Package rawblock is an L2 store of equal slots on one block device or file,
// with its own index: LMCache's adapter raw_block, by positioned reads and
// writes.
//
// The layout is LMCache's version 1: two alternating checkpoints of the index,
// then the slots, each a header and an object. The checkpoint is as old as the
// last one that was written, and LMCache's slot headers have no checksum, so
// ours have a record of our own in a part of the header that it leaves empty:
// key, sequence number, and checksums of the header and of the object. After a
// crash the index is read back from the slots; a torn or overwritten slot is a
// miss.
//
//	0                   meta_total_bytes
//	+---------+---------+------+------+------+-- .. -+
//	| copy 0  | copy 1  | slot | slot | slot |       |
//	+---------+---------+------+------+------+-- .. -+
//
//	copy: 0 magic, 8 u32 version, 12 u64 sequence, 20 u64 payload length,
//	      28 u32 CRC-32 of the payload; the payload, JSON, at block_align
//	slot: 0 "LMCBLK01", 8 u64 identity of the key, 16 u64 object length,
//	      64 record (slot.go); the object at header_bytes
//
// All numbers are little-endian.
//
// Source: reference storage-manager.md, section 8.11.
package rawblock
