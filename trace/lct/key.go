package lct

import (
	"errors"
	"fmt"
	"math"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/tinylib/msgp/msgp"
)

// minKeySize is the least that a wrapped ObjectKey takes in a file. It bounds
// what is allocated for a list because of its length.
const minKeySize = 54

// keyReader decodes object keys. It finds the scope of a model name again
// without allocating.
type keyReader struct {
	lastModel string // model of lastScope, without salt
	lastScope kv.Scope
	scopes    map[string]kv.Scope // by model@salt
	scratch   []byte
}

// maxScopes bounds the cache; what is not in it is found by kv.InternScope.
const maxScopes = 1024

// list appends the keys of the list at the head of b to dst.
func (d *keyReader) list(dst []kv.ObjectKey, b []byte) (_ []kv.ObjectKey, rest []byte, err error) {
	n, b, after, err := list(b)
	if err != nil {
		return dst, nil, err
	}
	if room := min(int(n), len(b)/minKeySize); cap(dst)-len(dst) < room {
		grown := make([]kv.ObjectKey, len(dst), len(dst)+room)
		copy(grown, dst)
		dst = grown
	}
	for range n {
		var k kv.ObjectKey
		if rest, ok := d.plain(b, &k); ok {
			b = rest
		} else if b, err = d.any(b, &k); err != nil {
			return dst, nil, fmt.Errorf("key %d: %w", len(dst), err)
		}
		dst = append(dst, k)
	}
	if after != nil {
		b = after
	}
	return dst, b, nil
}

// plain decodes a key that is encoded as the releases write it. It reports
// false, having decided nothing, for every other form and for what is wrong.
func (d *keyReader) plain(b []byte, k *kv.ObjectKey) (rest []byte, ok bool) {
	p, ok := splitKey(b)
	if !ok || len(p.hash) > kv.MaxHash {
		return nil, false
	}
	k.HashLen = uint8(copy(k.Hash[:], p.hash))
	k.Rank, k.Group = p.rank, p.group
	if string(p.model) == d.lastModel {
		k.Scope = d.lastScope
		return p.rest, true
	}
	s, err := d.scope(p.model, nil)
	k.Scope = s
	return p.rest, err == nil
}

// plainKey is what an encoded key is made of; the slices point into it.
type plainKey struct {
	hash, model []byte
	rank        uint64
	group       uint32
	rest        []byte // behind the key
}

// splitKey takes apart a wrapped key that is encoded as the releases write it,
// with object_group_id or without, and reports whether b begins with one. Keys
// are nearly all of a file: this is the short way for them, in checking a frame
// as in decoding it. It does not look into hash and model.
func splitKey(b []byte) (p plainKey, ok bool) {
	const (
		begin3 = "\x82\xa5__t__\xa9ObjectKey\xa1v\x83\xaachunk_hash\xc4"
		begin4 = "\x82\xa5__t__\xa9ObjectKey\xa1v\x84\xaachunk_hash\xc4"
		model  = "\xaamodel_name"
		rank   = "\xa7kv_rank"
		group  = "\xafobject_group_id"
	)
	if len(b) <= len(begin4) {
		return p, false
	}
	grouped := string(b[:len(begin4)]) == begin4
	if !grouped && string(b[:len(begin3)]) != begin3 {
		return p, false
	}
	n := int(b[len(begin4)])
	b = b[len(begin4)+1:]
	if len(b) < n+len(model)+1 || string(b[n:n+len(model)]) != model {
		return p, false
	}
	p.hash = b[:n]
	b = b[n+len(model):]
	switch c := b[0]; {
	case c&0xe0 == 0xa0:
		n, b = int(c&0x1f), b[1:]
	case c == 0xd9 && len(b) > 1:
		n, b = int(b[1]), b[2:]
	default:
		return p, false
	}
	if len(b) < n+len(rank)+1 || string(b[n:n+len(rank)]) != rank {
		return p, false
	}
	p.model = b[:n]
	if p.rank, b, ok = plainUint(b[n+len(rank):]); !ok {
		return p, false
	}
	if grouped {
		if len(b) <= len(group) || string(b[:len(group)]) != group {
			return p, false
		}
		var g uint64
		if g, b, ok = plainUint(b[len(group):]); !ok {
			return p, false
		}
		p.group = uint32(g)
	}
	p.rest = b
	return p, true
}

// plainUint decodes an int of 0 or more of at most 32 bits.
func plainUint(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	switch c := b[0]; {
	case c < 0x80:
		return uint64(c), b[1:], true
	case c == 0xcc && len(b) >= 2:
		return uint64(b[1]), b[2:], true
	case c == 0xcd && len(b) >= 3:
		return uint64(b[1])<<8 | uint64(b[2]), b[3:], true
	case c == 0xce && len(b) >= 5:
		return uint64(b[1])<<24 | uint64(b[2])<<16 | uint64(b[3])<<8 | uint64(b[4]), b[5:], true
	}
	return 0, nil, false
}

// any decodes a key in any form.
//
// Source: reference lct-v1.md, sections 2.2 and 2.3. The place of cache_salt is
// that of an upstream proposal; no release writes it.
func (d *keyReader) any(b []byte, k *kv.ObjectKey) (rest []byte, err error) {
	b, after, err := codec(b, tagKey)
	if err != nil {
		return nil, err
	}
	n, b, err := fields(b)
	if err != nil {
		return nil, err
	}
	var hash, model, salt []byte
	var rank uint64
	var group int64
	const hasHash, hasModel, hasRank = 1, 2, 4
	seen := 0
	for i := uint32(0); i < n && err == nil; i++ {
		var name []byte
		if name, b, err = mapKey(b); err != nil {
			break
		}
		switch string(name) {
		case "chunk_hash":
			seen |= hasHash
			if !isKind(b, kindBin) {
				return nil, fmt.Errorf("chunk_hash: expected bytes, got %s", kindName(b))
			}
			hash, b, err = msgp.ReadBytesZC(b)
		case "model_name":
			seen |= hasModel
			model, b, err = readStr(b)
		case "kv_rank":
			seen |= hasRank
			if !isKind(b, kindInt) {
				return nil, fmt.Errorf("kv_rank: expected int, got %s", kindName(b))
			}
			rank, b, err = msgp.ReadUint64Bytes(b)
		case "object_group_id":
			if group, b, err = readInt(b); err == nil && (group < 0 || group > math.MaxUint32) {
				err = fmt.Errorf("%w: object_group_id %d", kv.ErrKey, group)
			}
		case "cache_salt":
			if msgp.IsNil(b) {
				salt, b = nil, b[1:]
			} else {
				salt, b, err = readStr(b)
			}
		default:
			b, err = msgp.Skip(b)
		}
		if err != nil && len(name) > 0 {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case seen&hasHash == 0:
		return nil, errors.New("missing chunk_hash")
	case seen&hasModel == 0:
		return nil, errors.New("missing model_name")
	case seen&hasRank == 0:
		return nil, errors.New("missing kv_rank")
	}
	scope, err := d.scope(model, salt)
	if err != nil {
		return nil, err
	}
	if *k, err = kv.NewObjectKey(hash, scope, rank, uint32(group)); err != nil {
		return nil, err
	}
	if after != nil {
		b = after
	}
	return b, nil
}

// scope returns the interned pair of model and salt.
func (d *keyReader) scope(model, salt []byte) (kv.Scope, error) {
	// A model has no @, or InternScope fails and nothing is stored: the text is
	// unambiguous.
	d.scratch = append(append(append(d.scratch[:0], model...), '@'), salt...)
	s, ok := d.scopes[string(d.scratch)]
	if !ok {
		var err error
		if s, err = kv.InternScope(string(model), string(salt)); err != nil {
			return 0, err
		}
		if d.scopes == nil || len(d.scopes) >= maxScopes {
			d.scopes = map[string]kv.Scope{}
		}
		d.scopes[string(d.scratch)] = s
	}
	if len(salt) == 0 && d.lastModel != string(model) {
		d.lastScope, d.lastModel = s, s.Model()
	}
	return s, nil
}
