package rawblock

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/crypto/blake2b"

	"github.com/lmcache/lmcache-go/kv"
)

// encodeKey returns the key as LMCache 0.5.6 writes it: the model escaped, so
// that it has no slash, then rank, group, hash and, where there is one, salt.
func encodeKey(k *kv.ObjectKey) string {
	var b strings.Builder
	for _, c := range []byte(k.Scope.Model()) {
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("_.-~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	fmt.Fprintf(&b, "@0x%08x@%x@%x", k.Rank, k.Group, k.ChunkHash())
	if salt := k.Scope.Salt(); salt != "" {
		b.WriteString("@" + salt)
	}
	return b.String()
}

// decodeKey is the reverse. It takes only what encodeKey gives.
func decodeKey(text string) (kv.ObjectKey, bool) {
	parts := strings.Split(text, "@")
	if len(parts) != 4 && len(parts) != 5 {
		return kv.ObjectKey{}, false
	}
	digits, ok := strings.CutPrefix(parts[1], "0x")
	model, err0 := url.PathUnescape(parts[0])
	rank, err1 := strconv.ParseUint(digits, 16, 64)
	group, err2 := strconv.ParseUint(parts[2], 16, 32)
	hash, err3 := hex.DecodeString(parts[3])
	if !ok || errors.Join(err0, err1, err2, err3) != nil {
		return kv.ObjectKey{}, false
	}
	salt := ""
	if len(parts) == 5 {
		salt = parts[4]
	}
	scope, err := kv.InternScope(model, salt)
	if err != nil {
		return kv.ObjectKey{}, false
	}
	k, err := kv.NewObjectKey(hash, scope, rank, uint32(group))
	return k, err == nil && encodeKey(&k) == text
}

// identity returns what a slot's header has of an encoded key.
func identity(encoded string) uint64 {
	h, err := blake2b.New(8, nil)
	if err != nil {
		panic(err) // 8 is a size
	}
	h.Write([]byte(encoded))
	return binary.LittleEndian.Uint64(h.Sum(nil))
}
