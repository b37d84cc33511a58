package kv

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// ParseKey reads what String gave; ok is false for a text that no key has.
//
// Source: reference storage-manager.md, section 8.3.
func ParseKey(name string) (k ObjectKey, ok bool) {
	parts := strings.Split(name, "@")
	salt := ""
	if len(parts) == 5 {
		salt = parts[4]
	} else if len(parts) != 4 {
		return k, false
	}
	rank, err1 := strconv.ParseUint(parts[1], 16, 64)
	group, err2 := strconv.ParseUint(parts[2], 16, 32)
	hash, err3 := hex.DecodeString(parts[3])
	if err1 != nil || err2 != nil || err3 != nil || len(hash) > MaxHash {
		return k, false
	}
	// Compared before the scope is interned: a store may be full of names
	// that only look like keys.
	shape, err := NewObjectKey(hash, 0, rank, uint32(group))
	if err != nil || shape.String() != "@"+strings.Join(parts[1:4], "@") || len(parts) == 5 && salt == "" {
		return k, false
	}
	scope, err := InternScope(parts[0], salt)
	if err != nil {
		return k, false
	}
	shape.Scope = scope
	return shape, true
}
