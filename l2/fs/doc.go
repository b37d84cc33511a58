// Package fs is an L2 store in a folder: a file an object, named for its key,
// its bytes and nothing else. LMCache's adapters fs and fs_native read what it
// writes, and the reverse; both kinds are this one implementation.
//
// Source: reference storage-manager.md, sections 8.3, 8.5 and 8.6.
package fs
