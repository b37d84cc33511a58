package httpapi

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/sm"
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

type entryJSON struct {
	keyJSON
	Size int64 `json:"size_bytes"`
}

func jsonOf(k *kv.ObjectKey) keyJSON {
	salt := k.Scope.Salt()
	return keyJSON{hex.EncodeToString(k.Hash[:k.HashLen]), k.Scope.Model(), k.Rank, k.Group, &salt}
}

// adapter returns the store that a request means: the first unless it says which.
func (a *API) adapter(w http.ResponseWriter, chosen bool, id int) (store sm.AdapterStatus, ok bool) {
	list := a.opt.Storage.Status().Adapters
	if !chosen && len(list) > 0 {
		return list[0], true
	}
	for _, s := range list {
		if s.ID == id {
			return s, true
		}
	}
	if len(list) == 0 && !chosen {
		refuse(w, http.StatusServiceUnavailable, "no L2 adapters configured")
	} else {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("no L2 adapter %d", id))
	}
	return store, false
}

func (a *API) listObjects(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	tier := q.Get("tier")
	switch tier {
	case "", "l2":
	case "l1":
		refuse(w, http.StatusBadRequest, "tier 'l1' not supported; only 'l2'")
		return
	default:
		unprocessable(w, notOneOf([]any{"query", "tier"}, tier, []string{"l1", "l2"}))
		return
	}
	size, ok := queryInt(w, r, "page_size", defaultPage, 1, maxPage)
	if !ok {
		return
	}
	id, ok := queryInt(w, r, "adapter", 0, 0, math.MaxInt32)
	if !ok {
		return
	}
	store, ok := a.adapter(w, q.Get("adapter") != "", id)
	if !ok {
		return
	}
	page, err := a.opt.Storage.ListL2(store.ID, q.Get("model_name"), q.Get("page_token"), size)
	switch {
	case errors.Is(err, l2.ErrNoListing):
		refuse(w, http.StatusNotImplemented, err.Error())
		return
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	entries := []entryJSON{}
	for i := range page.Objects {
		entries = append(entries, entryJSON{jsonOf(&page.Objects[i].Key), page.Objects[i].SizeBytes})
	}
	var next *string
	if page.Next != "" {
		next = &page.Next
	}
	answer(w, http.StatusOK, struct {
		Adapter int         `json:"adapter"`
		Shared  bool        `json:"shared"`
		Entries []entryJSON `json:"entries"`
		Next    *string     `json:"next_page_token"`
	}{store.ID, store.Shared, entries, next})
}

func (a *API) deleteObjects(w http.ResponseWriter, r *http.Request) {
	b, ok := readBody(w, r, false)
	if !ok {
		return
	}
	list := field[[]keyJSON](b, "keys", true, "list_type", "Input should be a valid list of object keys")
	tier := b.choice("tier", "l2", "l1", "all")
	force := b.flag("force")
	id, chosen := b.number("adapter", false), b.has("adapter")
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
	var deleted, skipped int
	if tier != "l1" {
		stores := a.opt.Storage.Status().Adapters
		if chosen {
			s, ok := a.adapter(w, true, id)
			if !ok {
				return
			}
			stores = []sm.AdapterStatus{s}
		}
		for _, s := range stores {
			n, err := a.opt.Storage.DeleteL2(s.ID, keys)
			if err != nil {
				refuse(w, http.StatusServiceUnavailable, err.Error())
				return
			}
			deleted += n
		}
	}
	if tier != "l2" {
		n, locked := a.opt.Storage.DeleteL1(keys, force)
		deleted, skipped = deleted+n, skipped+locked
	}
	answer(w, http.StatusOK, struct {
		Deleted int  `json:"deleted"`
		Skipped int  `json:"skipped"`
		OK      bool `json:"ok"`
	}{deleted, skipped, true})
}
