package wire

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// The fields of a key that have no default, as bits.
const (
	keyModel = 1 << iota
	keyWorld
	keyWorker
	keyTokens
	keyStart
	keyEnd
	keyRequest
	keyRequired = 1<<iota - 1
)

// decodeKey reads a frame that holds a key. What it cannot know, such as whether
// the range fits the chunk size, it leaves to the service; what no key can be,
// it refuses.
func decodeKey(frame []byte) (Key, error) {
	var k Key
	seen := 0
	rest, err := readFields(frame, func(name, b []byte) (rest []byte, err error) {
		switch string(name) {
		case "model_name":
			seen |= keyModel
			k.Model, rest, err = readText(b)
		case "world_size":
			seen |= keyWorld
			k.WorldSize, rest, err = readInt(b)
		case "worker_id":
			seen |= keyWorker
			if msgp.IsNil(b) {
				k.Worker = AllWorkers
				return b[1:], nil
			}
			if k.Worker, rest, err = readInt(b); err == nil && k.Worker < 0 {
				err = errRange
			}
		case "token_ids":
			seen |= keyTokens
			k.Tokens, rest, err = readTokens(b)
		case "start":
			seen |= keyStart
			k.Start, rest, err = readInt(b)
		case "end":
			seen |= keyEnd
			k.End, rest, err = readInt(b)
		case "request_id":
			seen |= keyRequest
			k.RequestID, rest, err = readText(b)
		case "cache_salt":
			k.Salt, rest, err = readText(b)
		case "num_kv_readers":
			if k.Readers, rest, err = readInt(b); err == nil && k.Readers < 0 {
				err = errRange
			}
		default:
			err = errUnknownField
		}
		if err != nil && err != errUnknownField {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return rest, err
	})
	switch {
	case err != nil || len(rest) > 0:
		return Key{}, malformed("key", frame, rest, err)
	case seen != keyRequired:
		return Key{}, fmt.Errorf("key: %w", invalid("a field is missing"))
	case len(k.Salt) > maxSalt && utf8.RuneCountInString(k.Salt) > maxSalt || strings.ContainsAny(k.Salt, "@/\\\x00"):
		return Key{}, fmt.Errorf("key: %w", invalid("cache_salt %.20q", k.Salt))
	}
	return k, nil
}

// maxSalt is the longest salt, in characters.
const maxSalt = 128

// AppendKey appends k with the fields of release 0.5.6, in its order.
func AppendKey(b []byte, k *Key) []byte {
	b = msgp.AppendMapHeader(b, 10)
	b = msgp.AppendString(b, "model_name")
	b = msgp.AppendString(b, k.Model)
	b = msgp.AppendString(b, "world_size")
	b = appendInt(b, k.WorldSize)
	b = msgp.AppendString(b, "worker_id")
	if k.Worker == AllWorkers {
		b = msgp.AppendNil(b)
	} else {
		b = appendInt(b, k.Worker)
	}
	b = msgp.AppendString(b, "token_ids")
	b = appendTokens(b, k.Tokens)
	b = msgp.AppendString(b, "start")
	b = appendInt(b, k.Start)
	b = msgp.AppendString(b, "end")
	b = appendInt(b, k.End)
	b = msgp.AppendString(b, "request_id")
	b = msgp.AppendString(b, k.RequestID)
	b = msgp.AppendString(b, "cache_salt")
	b = msgp.AppendString(b, k.Salt)
	b = msgp.AppendString(b, "request_configs")
	b = msgp.AppendNil(b)
	b = msgp.AppendString(b, "num_kv_readers")
	return appendInt(b, k.Readers)
}
