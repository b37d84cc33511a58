# make lists the targets. Variables: FUZZTIME (10s), BENCH (.), BENCHTIME (1s), VERSION.

GO        ?= go
FUZZTIME  ?= 10s
BENCH     ?= .
BENCHTIME ?= 1s
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build demo test check race fuzz bench golden cover clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## build/lmcache, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.linkedVersion=$(VERSION)' -o build/lmcache ./cmd/lmcache

demo: build ## record a workload, inspect it, replay it with a small and a large L1, side by side
	@scripts/demo

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
