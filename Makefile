# make lists the targets. Variables: FUZZTIME (10s), SIMTIME (1m), SEED, COUNT (1), OLD (main), BENCH (.), VERSION.

GO        ?= go
FUZZTIME  ?= 10s
SIMTIME   ?= 1m
SEED      ?= 0
BENCH     ?= .
OLD       ?= main
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build tools demo test check interop race sim fuzz bench benchcmp golden cover clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## build/lmcache, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.linkedVersion=$(VERSION)' -o build/lmcache ./cmd/lmcache

tools: ## servers that tests start: versitygw (S3) and valkey-server into build/tools, redis-server and prometheus by apt-get
	GOBIN=$(CURDIR)/build/tools CGO_ENABLED=0 $(GO) install -ldflags '-s -w' github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@scripts/redis-servers build/tools
	@scripts/zmq-clients build/tools
	@scripts/prometheus build/tools/prometheus.log

demo: build ## record a workload, inspect it, replay it with a small and a large L1, side by side
	@scripts/demo

test: ## all tests
	$(GO) test ./...

check: ## what must hold before a commit: format, vet, staticcheck, tests (the import arrows are one)
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test ./...

interop: build ## hold this program against LMCache 0.5.6 from its package index; needs Python 3.10 and 6 GB of disk
	@interop/run

race: ## all tests under the race detector
	$(GO) test -race ./...

sim: ## simulate the storage manager with new seeds for SIMTIME, or run SEED again
	$(GO) test ./sm -run '^TestSim(Forced)?$$' -v -timeout 0 -simtime $(SIMTIME) -simseed $(SEED)

fuzz: ## every fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

bench: ## measure the goals, COUNT times each, and print their table
	@mkdir -p build
	@bench/run 2>&1 | tee build/bench.txt | $(GO) run ./bench/table

benchcmp: ## benchmarks that match BENCH in package PKG, here and in the commit OLD, side by side
	@test -n "$(PKG)" || { echo "make benchcmp PKG=./trace [BENCH=.] [OLD=main]"; exit 2; }
	@mkdir -p build && rm -rf build/old && git worktree prune && git worktree add --detach build/old $(OLD) >/dev/null
	@cd build/old && $(GO) test $(PKG) -run '^$$' -bench '$(BENCH)' -count 6 >../old.txt; cd ../.. && git worktree remove --force build/old
	@$(GO) test $(PKG) -run '^$$' -bench '$(BENCH)' -count 6 >build/new.txt
	@$(GO) tool benchstat build/old.txt build/new.txt

golden: ## rewrite the golden files; review the diff
	@set -e; for dir in $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -r -n1 dirname | sort -u); do \
	  $(GO) test $$dir -update; \
	done

cover: ## coverage by package, and build/cover.html
	@mkdir -p build
	$(GO) test ./... -coverprofile build/cover.out -coverpkg ./...
	$(GO) tool cover -func build/cover.out | tail -1
	$(GO) tool cover -html build/cover.out -o build/cover.html

clean: ## remove what make has built
	rm -rf build
