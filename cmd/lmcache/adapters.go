package main

import (
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/l2/mock"
	"github.com/lmcache/lmcache-go/l2/resp"
)

// adapterKinds are the L2 adapters of this program.
var adapterKinds = l2.Registry{"mock": mock.Kind, "resp": resp.Kind, "valkey": resp.Valkey}
