package main

import (
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/faultinject"
	"github.com/lmcache/lmcache-go/l2/fs"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/l2/rawblock"
	"github.com/lmcache/lmcache-go/l2/resp"
	"github.com/lmcache/lmcache-go/l2/s3"
)

// adapterKinds are the L2 adapters of this program.
var adapterKinds = func() l2.Registry {
	kinds := l2.Registry{
		"fs":        fs.Kind,
		"fs_native": fs.NativeKind,
		"mock":      mock.Kind,
		"raw_block": rawblock.Kind,
		"resp":      resp.Kind,
		"s3":        s3.Kind,
		"valkey":    resp.Valkey,
	}
	kinds["fault_inject"] = faultinject.Kind(kinds)
	return kinds
}()
