//go:build !amd64 || race

package trace

import "github.com/lmcache/lmcache-go/kv"

// copyHashes copies the hashes of keys to dst, which is as long, and returns 0 if
// the keys differ in nothing else.
//
//go:nosplit
func copyHashes(dst [][kv.MaxHash]byte, keys []kv.ObjectKey) (diff uint64) {
	first := &keys[0]
	rank, scope, group, hashLen := first.Rank, first.Scope, first.Group, first.HashLen
	for i := range dst {
		k := &keys[i]
		dst[i] = k.Hash
		diff |= k.Rank ^ rank | uint64(k.Scope^scope) | uint64(k.Group^group) | uint64(k.HashLen^hashLen)
	}
	return diff
}
