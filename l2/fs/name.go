package fs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lmcache/lmcache-go/kv"
)

const (
	fileSuffix = ".data"
	tempSuffix = ".tmp"
	slash      = "-SEP-" // stands for a slash in a model's name
)

// maxName is the longest name of a file, in bytes, on every file system that
// Linux has for disks.
const maxName = 255

var errName = errors.New("the key has no file name that leads back to it")

// fileName returns the name of an object's file without its folder:
// model@0xrank@group@hash.data, with @salt before the suffix where there is one.
//
// A model's name that has -SEP- in it would share a file with the one that has
// a slash there; such a key is refused, where LMCache gives back the other's
// bytes. So is one whose name is too long or has a NUL.
func fileName(k *kv.ObjectKey) (string, error) {
	var b strings.Builder
	model, salt := k.Scope.Model(), k.Scope.Salt()
	b.Grow(len(model) + len(salt) + 2*int(k.HashLen) + 40)
	b.WriteString(strings.ReplaceAll(model, "/", slash))
	fmt.Fprintf(&b, "@0x%08x@%x@%x", k.Rank, k.Group, k.ChunkHash())
	if salt != "" {
		b.WriteString("@" + salt)
	}
	b.WriteString(fileSuffix)
	name := b.String()
	if len(name) > maxName || strings.ReplaceAll(name[:strings.IndexByte(name, '@')], slash, "/") != model || strings.IndexByte(name, 0) >= 0 {
		return "", errName
	}
	return name, nil
}

// parseName returns the key of a file name. It takes only the form that
// fileName gives: a file under another name is never looked up.
func parseName(name string) (kv.ObjectKey, bool) {
	stem, ok := strings.CutSuffix(name, fileSuffix)
	if !ok || len(name) > maxName {
		return kv.ObjectKey{}, false
	}
	parts := strings.Split(stem, "@")
	if len(parts) != 4 && len(parts) != 5 {
		return kv.ObjectKey{}, false
	}
	digits, ok := strings.CutPrefix(parts[1], "0x")
	if !ok || strings.Contains(parts[0], "/") {
		return kv.ObjectKey{}, false
	}
	rank, err1 := strconv.ParseUint(digits, 16, 64)
	group, err2 := strconv.ParseUint(parts[2], 16, 32)
	hash, err3 := hex.DecodeString(parts[3])
	if errors.Join(err1, err2, err3) != nil || len(hash) > kv.MaxHash {
		return kv.ObjectKey{}, false
	}
	salt := ""
	if len(parts) == 5 {
		salt = parts[4]
	}
	scope, err := kv.InternScope(strings.ReplaceAll(parts[0], slash, "/"), salt)
	if err != nil {
		return kv.ObjectKey{}, false
	}
	k, err := kv.NewObjectKey(hash, scope, rank, uint32(group))
	if err != nil {
		return kv.ObjectKey{}, false
	}
	again, err := fileName(&k)
	return k, err == nil && again == name
}

// mark tells our temporary files from LMCache's, which have none: a salt may
// end in digits.
const mark = ".go-"

// tempName returns the name under which a file is written: the one that LMCache
// uses, with a random part so that no two writers share it.
func tempName(name string, random uint64) string {
	temp := fmt.Sprintf("%s%s%016x%s", strings.TrimSuffix(name, fileSuffix), mark, random, tempSuffix)
	return temp[max(0, len(temp)-maxName):]
}

// isTempName reports whether a file may be what an unfinished write of an
// object left; ours says whether by this package, which locks it while it writes.
func isTempName(name string) (ours, ok bool) {
	stem, ok := strings.CutSuffix(name, tempSuffix)
	if !ok {
		return false, false
	}
	if at := len(stem) - len(mark) - 16; at >= 0 && stem[at:at+len(mark)] == mark && strings.Trim(stem[at+len(mark):], "0123456789abcdef") == "" {
		_, ok = parseName(stem[:at] + fileSuffix)
		return true, ok || len(name) == maxName // its beginning was cut off
	}
	_, ok = parseName(stem + fileSuffix)
	return false, ok
}
