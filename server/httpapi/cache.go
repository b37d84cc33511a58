package httpapi

import (
	"encoding/hex"
	"fmt"
	"net/http"

	"github.com/lmcache/lmcache-go/kv"
)

func (a *API) clear(w http.ResponseWriter, r *http.Request) {
	b, ok := readBody(w, r, true)
	if !ok {
		return
	}
	tier := b.choice("tier", "l1", "l2")
	force := b.flag("force")
	if !b.ok(w) {
		return
	}
	if tier != "l1" {
		refuse(w, http.StatusBadRequest, "tier 'l2' not supported; only 'l1'")
		return
	}
	if err := a.opt.Engine.Clear(force); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	type cleared struct {
		Tier string `json:"tier"`
	}
	answer(w, http.StatusOK, struct {
		Status  string  `json:"status"`
		Cleared cleared `json:"cleared"`
	}{"ok", cleared{tier}})
}

// checksums is of blocks in the memory of clients, which only the transfer by
// handles maps.
func (a *API) checksums(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusNotImplemented, "checksum not supported for this engine type")
}

// keyJSON is an object key as LMCache's JSON has it.
type keyJSON struct {
	Hash  string  `json:"chunk_hash_hex"`
	Model string  `json:"model_name"`
	Rank  uint64  `json:"kv_rank"`
	Group uint32  `json:"object_group_id"`
	Salt  *string `json:"cache_salt"`
}

func (k *keyJSON) key() (key kv.ObjectKey, err error) {
	hash, err := hex.DecodeString(k.Hash)
	if err != nil || len(hash) == 0 || len(hash) > kv.MaxHash {
		return key, fmt.Errorf("chunk_hash_hex %q is not 1 to %d bytes in hex", k.Hash, kv.MaxHash)
	}
	salt := ""
	if k.Salt != nil {
		salt = *k.Salt
	}
	scope, err := kv.InternScope(k.Model, salt)
	if err != nil {
		return key, err
	}
	key = kv.ObjectKey{Rank: k.Rank, Scope: scope, Group: k.Group, HashLen: uint8(len(hash))}
	copy(key.Hash[:], hash)
	return key, nil
}

// Limits of /cache/objects.
const (
	defaultPage   = 500
	maxPage       = 5000
	maxDeleteKeys = 10000
)

func (a *API) listObjects(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	tier := q.Get("tier")
	if tier != "" && tier != "l2" && tier != "l1" {
		unprocessable(w, notOneOf([]any{"query", "tier"}, tier, []string{"l1", "l2"}))
		return
	}
	if _, ok := queryInt(w, r, "page_size", defaultPage, 1, maxPage); !ok {
		return
	}
	switch {
	case tier == "l1":
		refuse(w, http.StatusBadRequest, "tier 'l1' not supported; only 'l2'")
	case len(a.opt.Storage.AdapterUsage()) == 0:
		refuse(w, http.StatusServiceUnavailable, "no L2 adapters configured")
	default:
		refuse(w, http.StatusNotImplemented, "the L2 adapter does not list its objects")
	}
}

func (a *API) deleteObjects(w http.ResponseWriter, r *http.Request) {
	b, ok := readBody(w, r, false)
	if !ok {
		return
	}
	list := field[[]keyJSON](b, "keys", true, "list_type", "Input should be a valid list of object keys")
	tier := b.choice("tier", "l2", "l1", "all")
	b.flag("force")
	adapter, chosen := b.number("adapter", false), b.has("adapter")
	if len(list) > maxDeleteKeys {
		b.problems = append(b.problems, problem{Type: "too_long", Loc: []any{"body", "keys"},
			Msg: fmt.Sprintf("List should have at most %d items after validation, not %d", maxDeleteKeys, len(list)), Input: len(list)})
	}
	if !b.ok(w) {
		return
	}
	keys := make([]kv.ObjectKey, len(list))
	for i := range list {
		var err error
		if keys[i], err = list[i].key(); err != nil {
			unprocessable(w, problem{Type: "value_error", Loc: []any{"body", "keys", i}, Msg: err.Error(), Input: list[i]})
			return
		}
	}
	stores := len(a.opt.Storage.AdapterUsage())
	if chosen && (adapter < 0 || adapter >= stores) {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("no L2 adapter %d, there are %d", adapter, stores))
		return
	}
	deleted := 0
	if tier != "l1" {
		for i := range stores {
			if chosen && i != adapter {
				continue
			}
			n, err := a.opt.Storage.DeleteL2(i, keys)
			if err != nil {
				refuse(w, http.StatusInternalServerError, err.Error())
				return
			}
			deleted += n
		}
	}
	answer(w, http.StatusOK, struct {
		Deleted int  `json:"deleted"`
		Skipped int  `json:"skipped"`
		OK      bool `json:"ok"`
	}{deleted, max(len(keys)-deleted, 0), true})
}
