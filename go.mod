module github.com/lmcache/lmcache-go

go 1.26
