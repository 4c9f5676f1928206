# Gatehouse. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
GO ?= go
export GOTOOLCHAIN := local
# no_fs_access: the firewall's engine writes no temporary files. The others leave
# out what is never used, and would keep the linker from dropping more: the pages
# in which gRPC's library shows calls, and an operator that rules may not have.
TAGS := no_fs_access,grpcnotrace,coraza.disabled_operators.validateSchema
export GOFLAGS := -tags=$(TAGS) $(GOFLAGS)
BIN := bin/gatehouse
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL := $(GO) tool -modfile=tools/go.mod
PKGS := ./...

.DEFAULT_GOAL := help
.PHONY: help build demo test test-fast test-long race fuzz bench lint fmt gen image setup clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/gatehouse
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/gatehouse

demo: build ## two sample upstreams and the gateway on loopback, with commands to try
	$(BIN) demo

setup: ## install what the tests and benchmarks need (Debian packages), where missing
	scripts/setup.sh

# Concurrent packages: tested under the race detector, and without it where that
# would hide something (test/repo knows the names of those tests).
RACED := ./discovery/... ./gateway/... ./plugins/... ./ratelimit/... ./telemetry/... ./control/... ./mesh/...

test: lint race ## everything a change must pass (< 15 minutes on 2 cores)
	$(GO) test -timeout 8m $$(comm -23 <($(GO) list ./... | grep -v /test | sort) <($(GO) list $(RACED) | sort))
	$(GO) test -count=1 -run 'Alloc|Memory' $(RACED) | { grep -v 'no test' || true; }
	$(GO) test -count=1 -timeout 20m ./test/...

test-fast: ## unit tests; needs nothing but Go
	$(GO) vet $(PKGS)
	$(GO) test -timeout 8m $$($(GO) list ./... | grep -v /test)

race: ## unit tests of the concurrent packages under the race detector
	$(GO) test -race -timeout 10m $(RACED)

# The registries come last and alone: their servers take long to build.
test-long: ## soak, floods, the large corpora, containers where an engine works, real registries (up to an hour)
	timeout 300 scripts/setup.sh containers || echo 'setup: no container engine; the test says so too'
	$(GO) test -count=1 -tags long,$(TAGS) -timeout 20m -v -run '^TestContainers$$' ./test/e2e
	$(GO) test -count=1 -tags long,$(TAGS) -timeout 60m -skip '^TestContainers$$' $$($(GO) list ./gateway/... ./waf/... ./test/... | grep -v /test/registries)
	$(GO) test -count=1 -tags long,$(TAGS) -timeout 60m ./test/registries

FUZZTIME ?= 30s
fuzz: ## every fuzz target for FUZZTIME each
	scripts/fuzz.sh $(FUZZTIME)

bench: build ## side by side with nginx and HAProxy (needs make setup)
	scripts/setup.sh bench
	$(GO) run ./bench -gatehouse $(BIN)

lint: ## vet, formatting, staticcheck
	$(GO) vet $(PKGS)
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofumpt-ed (make fmt):"; echo "$$out"; exit 1; fi
	$(TOOL) staticcheck $(PKGS)

fmt: ## format every Go file
	$(TOOL) gofumpt -w $$(git ls-files '*.go')

gen: ## regenerate the configuration reference, schema and metric list
	$(GO) generate ./...

image: ## a container image from a static binary (needs a container engine)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/gatehouse ./cmd/gatehouse
	docker build -t gatehouse:$(VERSION) -t gatehouse:latest -f deploy/Dockerfile .

clean: ## remove what was built
	rm -rf bin dist
