# make lists the targets. Variables: FUZZTIME (10s), BENCH (.), BENCHTIME (1s), VERSION.

GO        ?= go
FUZZTIME  ?= 10s
BENCH     ?= .
BENCHTIME ?= 1s
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)
DEMO      := build/demo

.DEFAULT_GOAL := help
.PHONY: help build demo test check race fuzz bench golden cover clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## build/lmcache, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.linkedVersion=$(VERSION)' -o build/lmcache ./cmd/lmcache

demo: build ## record a workload, inspect it, replay it with a small and a large L1, side by side
	@rm -rf $(DEMO) && mkdir -p $(DEMO)/small $(DEMO)/large
	LMCACHE_LOG_LEVEL=WARNING build/lmcache bench storage --workload mooncake:testdata/workloads/conversation_trace.jsonl.gz \
	  --duration 10m --virtual-time --l1-size-gb 64 --eviction-policy LRU \
	  --trace-level storage --trace-output $(DEMO)/conversation.lct
	build/lmcache trace info $(DEMO)/conversation.lct
	build/lmcache trace dump $(DEMO)/conversation.lct --limit 5
	LMCACHE_LOG_LEVEL=ERROR build/lmcache trace replay $(DEMO)/conversation.lct --virtual-time \
	  --l1-size-gb 64 --eviction-policy LRU --json --output-dir $(DEMO)/small > $(DEMO)/small/table.txt
	LMCACHE_LOG_LEVEL=ERROR build/lmcache trace replay $(DEMO)/conversation.lct --virtual-time \
	  --l1-size-gb 1024 --eviction-policy LRU --json --output-dir $(DEMO)/large > $(DEMO)/large/table.txt
	@echo && echo "L1 of 64 GiB and of 1 TiB:" && pr -m -t -w 134 $(DEMO)/small/table.txt $(DEMO)/large/table.txt

test: ## all tests
	$(GO) test ./...

check: ## what must hold before a commit: format, vet, staticcheck, tests (the import arrows are one)
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test ./...

race: ## all tests under the race detector
	$(GO) test -race ./...

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
	  for target in $$($(GO) test -list '^Fuzz' $$dir | grep '^Fuzz'); do \
	    echo "$$dir $$target"; \
	    $(GO) test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
	  done; \
	done

bench: ## benchmarks that match BENCH, each for BENCHTIME
	$(GO) test ./... -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME)

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
