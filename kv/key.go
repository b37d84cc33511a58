package kv

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxHash is the longest chunk hash in bytes. LMCache's hash functions give 8
// (builtin), 32 (sha256, blake3) or, in its tests, 4 bytes.
const MaxHash = 32

// ErrKey is wrapped by every error about a part of a key that LMCache refuses.
var ErrKey = errors.New("invalid object key")

// ObjectKey names one KV object: a chunk of tokens, of one group of layers, of
// one rank of one model, for one tenant. It is comparable, holds no pointer, and
// equality uses all of it.
//
// Source: reference storage-manager.md, section 1.1.
type ObjectKey struct {
	Hash    [MaxHash]byte // chunk hash, zero-padded behind HashLen
	Rank    uint64        // packed parallelism position, see Rank
	Scope   Scope         // model and salt
	Group   uint32        // object group id: which group of layers
	HashLen uint8         // bytes of Hash that count
}

// NewObjectKey returns the key of a chunk. It fails if hash is longer than
// MaxHash.
func NewObjectKey(hash []byte, scope Scope, rank uint64, group uint32) (ObjectKey, error) {
	if len(hash) > MaxHash {
		return ObjectKey{}, fmt.Errorf("%w: chunk hash of %d bytes, at most %d", ErrKey, len(hash), MaxHash)
	}
	k := ObjectKey{Rank: rank, Scope: scope, Group: group, HashLen: uint8(len(hash))}
	copy(k.Hash[:], hash)
	return k, nil
}

// ChunkHash returns the bytes of the chunk hash; they belong to k.
func (k *ObjectKey) ChunkHash() []byte { return k.Hash[:k.HashLen] }

// String gives the key in the form of LMCache's wire keys:
// model@rank@group@hash, and @salt where there is one.
//
// Source: reference storage-manager.md, section 8.3.
func (k ObjectKey) String() string {
	s := fmt.Sprintf("%s@%08x@%x@%x", k.Scope.Model(), k.Rank, k.Group, k.ChunkHash())
	if salt := k.Scope.Salt(); salt != "" {
		s += "@" + salt
	}
	return s
}

// PackRank packs a parallelism position as LMCache does: world size, global
// rank, local world size, local rank, eight bits each from the top. Fields are
// not masked: one above 255 spills into its neighbour, as it does there.
//
// Source: reference storage-manager.md, section 1.2.
func PackRank(world, global, localWorld, local uint64) uint64 {
	return world<<24 | global<<16 | localWorld<<8 | local
}

// Scope is an interned pair of model name and cache salt. The zero Scope is
// the empty model without a salt.
type Scope uint32

type scopeValue struct {
	model, salt string
	saltID      Salt
}

var scopes interner[scopeValue]

// Salt is an interned cache salt: a small number, from 1 on in the order of
// first use, for tables by salt. The zero Salt is the empty one.
type Salt uint32

var salts interner[string]

// InternSalt returns the Salt of a text. It fails, wrapping ErrKey, where LMCache
// refuses a key with it: @, /, \ or NUL in it, or more than 128 characters.
//
// Source: reference storage-manager.md, section 1.1.
func InternSalt(salt string) (Salt, error) {
	if strings.ContainsAny(salt, "@/\\\x00") {
		return 0, fmt.Errorf("%w: cache salt %q contains @, /, \\ or NUL", ErrKey, salt)
	}
	if n := utf8.RuneCountInString(salt); n > 128 {
		return 0, fmt.Errorf("%w: cache salt of %d characters, at most 128", ErrKey, n)
	}
	if salt == "" {
		return 0, nil
	}
	return Salt(salts.intern(salt, func() *string { s := strings.Clone(salt); return &s })), nil
}

// String returns the salt's text.
func (s Salt) String() string {
	if v := salts.lookup(uint32(s)); v != nil {
		return *v
	}
	return ""
}

// InternScope returns the scope of model and salt. It fails, wrapping ErrKey,
// where LMCache refuses a key: a model with @, a salt with @, /, \ or NUL, or
// of more than 128 characters.
//
// Source: reference storage-manager.md, section 1.1.
func InternScope(model, salt string) (Scope, error) {
	if strings.Contains(model, "@") {
		return 0, fmt.Errorf("%w: model name %q contains @", ErrKey, model)
	}
	saltID, err := InternSalt(salt)
	if err != nil {
		return 0, err
	}
	if model == "" && salt == "" {
		return 0, nil
	}
	id := scopes.intern(model+"@"+salt, func() *scopeValue {
		return &scopeValue{strings.Clone(model), saltID.String(), saltID}
	})
	return Scope(id), nil
}

// Model returns the model name.
func (s Scope) Model() string {
	if v := scopes.lookup(uint32(s)); v != nil {
		return v.model
	}
	return ""
}

// Salt returns the cache salt, "" where there is none.
func (s Scope) Salt() string {
	if v := scopes.lookup(uint32(s)); v != nil {
		return v.salt
	}
	return ""
}

// SaltID returns the salt as a number.
func (s Scope) SaltID() Salt {
	if v := scopes.lookup(uint32(s)); v != nil {
		return v.saltID
	}
	return 0
}
