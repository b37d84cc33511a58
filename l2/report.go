package l2

import (
	"errors"

	"github.com/lmcache/lmcache-go/kv"
)

// Reporter is an Adapter that says more of itself than Usage does.
type Reporter interface{ Report() Report }

// Report is how a store is.
type Report struct {
	Err     error  // what keeps the store from working now; nil if nothing is known to
	Backend string // what the objects are in: a folder, a device, an address; empty for memory
	Objects int64  // that this process knows to be there; -1 if it does not count them
	Locked  int64  // of those, how many lookups have locked; -1 if it is not counted

	Slots, FreeSlots int64 // of a store that has slots
}

// Lister is an Adapter that can list what the store holds.
type Lister interface {
	// List returns up to limit objects of a model, of every model if model is
	// empty. token is empty for the first page, else Page.Next of the page
	// before. Objects that come or go meanwhile may be in the list or not; all
	// others are in it once, except where a store says otherwise. It may wait
	// for the store.
	List(model, token string, limit int) (Page, error)
}

// ErrNoListing says that a store cannot list its objects.
var ErrNoListing = errors.New("the L2 adapter does not list its objects")

// Page is a part of a list.
type Page struct {
	Objects []Listed
	Next    string // token of the next page; empty on the last
}

// Listed is an object of a store.
type Listed struct {
	Key       kv.ObjectKey
	SizeBytes int64
}
