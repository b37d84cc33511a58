package lct

import (
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"github.com/lmcache/lmcache-go/internal/pyfmt"
)

// Tags of the codecs that upstream ever had, beside tuple.
//
// Source: reference lct-v1.md, section 2.2.
const (
	tagTuple       = "tuple"
	tagSet         = "set"
	tagKey         = "ObjectKey"
	tagLayout      = "MemoryLayoutDesc"
	tagTrim        = "TrimPolicy"
	tagMode        = "PrefetchMode"
	tagAttn        = "AttnWindowDesc"
	tagRequestSpec = "PrefetchRequestSpec"
	tagTaskSpec    = "PrefetchTaskSpec"
	tagGroup       = "GroupedObjectKeys"
	tagLock        = "PrefetchLockMode"
	tagMemory      = "MemoryTags"
)

var knownTags = map[string]bool{
	tagTuple: true, tagSet: true, tagKey: true, tagLayout: true, tagTrim: true, tagMode: true, tagAttn: true,
	tagRequestSpec: true, tagTaskSpec: true, tagGroup: true, tagLock: true, tagMemory: true,
	"PrefetchHandle": true, "torch.Size": true, "torch.dtype": true,
}

var errNoPayload = errors.New("trace.codecs: wrapper without v")

// kindName names the type of the object at the head of b.
func kindName(b []byte) string {
	if len(b) == 0 {
		return "nothing"
	}
	return kindNames[heads[b[0]].kind]
}

func isKind(b []byte, k kind) bool { return len(b) > 0 && heads[b[0]].kind == k }

// wrapped opens a codec's wrapper {"__t__": tag, "v": payload} at the head of
// b. tag is nil for every other value, a plain map included. If rest is nil the
// payload stands at the end of the wrapper, as upstream writes it, and what
// follows the payload follows the wrapper.
func wrapped(b []byte) (tag, payload, rest []byte, err error) {
	const begin, between = "\x82\xa5__t__", "\xa1v"
	if len(b) > len(begin) && string(b[:len(begin)]) == begin {
		if tag, payload, err = msgp.ReadStringZC(b[len(begin):]); err == nil &&
			len(payload) > len(between) && string(payload[:len(between)]) == between {
			return tag, payload[len(between):], nil, nil
		}
	}
	if !isKind(b, kindMap) {
		return nil, nil, nil, nil
	}
	n, rest, err := msgp.ReadMapHeaderBytes(b)
	for i := uint32(0); i < n && err == nil; i++ {
		var key []byte
		if key, rest, err = mapKey(rest); err != nil {
			break
		}
		value := rest
		if rest, err = msgp.Skip(rest); err != nil {
			break
		}
		value = value[:len(value)-len(rest)]
		switch string(key) {
		case "__t__":
			tag = nil
			if !msgp.IsNil(value) {
				if tag, _, err = msgp.ReadStringZC(value); err != nil {
					err = errBadTag(value)
				} else if tag == nil {
					tag = []byte{}
				}
			}
		case "v":
			payload = value
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if tag != nil && payload == nil {
		return nil, nil, nil, errNoPayload
	}
	return tag, payload, rest, nil
}

// codec opens the wrapper of the codec called want. rest is as for wrapped.
func codec(b []byte, want string) (payload, rest []byte, err error) {
	tag, payload, rest, err := wrapped(b)
	switch {
	case err != nil:
		return nil, nil, err
	case tag == nil:
		return nil, nil, fmt.Errorf("expected %s, got %s", want, kindName(b))
	case string(tag) != want:
		return nil, nil, wrongTag(tag, want)
	}
	return payload, rest, nil
}

func wrongTag(tag []byte, want string) error {
	if !knownTags[string(tag)] {
		return fmt.Errorf("trace.codecs: unknown tag %s", pyfmt.Repr(string(tag)))
	}
	return fmt.Errorf("expected %s, got %s", want, tag)
}

// list opens a list: an array, or one that is wrapped as a tuple or a set.
func list(b []byte) (n uint32, elems, rest []byte, err error) {
	if !isKind(b, kindArray) {
		tag, payload, after, err := wrapped(b)
		switch {
		case err != nil:
			return 0, nil, nil, err
		case tag == nil:
			return 0, nil, nil, fmt.Errorf("expected array, got %s", kindName(b))
		case string(tag) != tagTuple && string(tag) != tagSet:
			return 0, nil, nil, wrongTag(tag, "array")
		}
		b, rest = payload, after
	}
	n, elems, err = msgp.ReadArrayHeaderBytes(b)
	return n, elems, rest, err
}

// fields opens a payload that is a map.
func fields(b []byte) (n uint32, rest []byte, err error) {
	if !isKind(b, kindMap) {
		return 0, nil, fmt.Errorf("expected object, got %s", kindName(b))
	}
	return msgp.ReadMapHeaderBytes(b)
}

// mapKey reads a key of a map; nil for one that is no string, which names no
// field.
func mapKey(b []byte) (key, rest []byte, err error) {
	if !isKind(b, kindStr) {
		rest, err = msgp.Skip(b)
		return nil, rest, err
	}
	return msgp.ReadStringZC(b)
}

func readInt(b []byte) (v int64, rest []byte, err error) {
	if !isKind(b, kindInt) {
		return 0, nil, fmt.Errorf("expected int, got %s", kindName(b))
	}
	return msgp.ReadInt64Bytes(b)
}

func readStr(b []byte) (v, rest []byte, err error) {
	if !isKind(b, kindStr) {
		return nil, nil, fmt.Errorf("expected str, got %s", kindName(b))
	}
	return msgp.ReadStringZC(b)
}

// checkTags passes over a value that no argument of ours takes, and fails
// where upstream's codecs would not know a tag. It looks at every byte once,
// however deep.
func checkTags(b []byte) (rest []byte, err error) {
	switch {
	case isKind(b, kindArray):
		n, b, err := msgp.ReadArrayHeaderBytes(b)
		for i := uint32(0); i < n && err == nil; i++ {
			b, err = checkTags(b)
		}
		return b, err
	case !isKind(b, kindMap):
		return msgp.Skip(b)
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	var tag []byte // encoded; nil, or that of nil, for a plain map
	payload := false
	for i := uint32(0); i < n && err == nil; i++ {
		var key []byte
		if key, b, err = mapKey(b); err != nil {
			break
		}
		value := b
		if b, err = checkTags(b); err != nil {
			break
		}
		switch string(key) {
		case "__t__":
			tag = value
		case "v":
			payload = true
		}
	}
	if err != nil || tag == nil || msgp.IsNil(tag) {
		return b, err
	}
	name, _, err := readStr(tag)
	switch {
	case err != nil:
		return nil, errBadTag(tag)
	case !payload:
		return nil, errNoPayload
	case !knownTags[string(name)]:
		return nil, wrongTag(name, "")
	}
	return b, nil
}

func errBadTag(tag []byte) error {
	return fmt.Errorf("trace.codecs: unknown tag of type %s", kindName(tag))
}
