# SPDX-License-Identifier: Apache-2.0
# Each target has its help after ##; `make help` lists them.

PREFIX  ?= /usr
DESTDIR ?=
FUZZTIME ?= 30s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

# The names that scripts, daemon.json files and docker know.
RUNTIME_NAMES = nvidia-container-runtime nvidia-container-runtime.cdi nvidia-container-runtime.legacy \
	nvidia-container-runtime-hook nvidia-container-toolkit nvidia-cdi-hook nvidia-container-cli
DAVIT_NAMES   = nvidia-ctk

.PHONY: all build test e2e engines bench demo lint fuzz install deb clean help

all: build

build: ## static programs in bin/
	$(GOBUILD) -o bin/ ./cmd/...

test: ## all tests, real engines included; the last line counts them
	@set -o pipefail; go build -o bin/.summary ./test/summary && \
	{ loaders=$$(test/e2e/loaders.sh build/loaders >&2 && echo "$$PWD/build/loaders" || true); \
	DAVIT_LOADERS=$$loaders go test -json -count=1 -timeout 40m ./... | bin/.summary; } ; s=$$?; test/e2e/engines/down.sh --all; exit $$s

e2e: ## the tests with real engines alone
	@set -o pipefail; go build -o bin/.summary ./test/summary && \
	{ go test -json -count=1 -timeout 40m ./test/e2e | bin/.summary; } ; s=$$?; test/e2e/engines/down.sh --all; exit $$s

engines: ## every engine and way with a real container; prints the table and puts it into docs/engines.md
	@set -o pipefail; go build -o bin/.enginetable ./test/enginetable && \
	{ go test -json -count=1 -timeout 40m ./test/e2e -run '^TestDocker$$/./^(build|gpus-flag|runtime|default-runtime)$$|^TestCDI$$/docker/^names$$|^TestPodman$$|^TestRootless$$|^TestContainerd$$' | \
	bin/.enginetable docs/engines.md; } ; s=$$?; test/e2e/engines/down.sh --all; exit $$s

bench: ## what a GPU costs a container's start, on simulated hosts; BENCH="--only shim --rounds 20"; as root
	@mkdir -p build/bench/bin
	$(GOBUILD) -o build/bench/bin/ ./cmd/davit ./cmd/davit-runtime ./test/gpu/floor ./test/bench
	build/bench/bin/bench --bin build/bench/bin --instructions --commit "$(VERSION)" $(BENCH)

demo: ## a GPU in containers, shown with a real engine; simulated where there is no GPU
	@test/e2e/demo.sh

lint: ## gofmt, go vet, staticcheck, shellcheck (if installed)
	@files=$$(gofmt -l *.go cmd internal test); [ -z "$$files" ] || { echo "run gofmt -w on" $$files; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	@if command -v shellcheck >/dev/null; then shellcheck -S warning -x -P SCRIPTDIR .ci/run packaging/deb/make.sh packaging/deb/p* $$(find test -name '*.sh' -not -path '*/build/*'); fi

fuzz: ## each fuzz target for FUZZTIME (30s)
	@set -e; for d in $$(grep -rl --include='*_test.go' '^func Fuzz' internal cmd | xargs -n1 dirname | sort -u); do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$d/*_test.go); do \
			echo "== $$d $$f"; go test "./$$d" -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME); done; done

install: build ## programs and their other names below DESTDIR and PREFIX (/usr)
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 0755 bin/davit bin/davit-runtime "$(DESTDIR)$(PREFIX)/bin/"
	for n in $(RUNTIME_NAMES); do ln -sfn davit-runtime "$(DESTDIR)$(PREFIX)/bin/$$n"; done
	for n in $(DAVIT_NAMES); do ln -sfn davit "$(DESTDIR)$(PREFIX)/bin/$$n"; done

deb: ## a Debian package in bin/, of this machine's architecture (ARCH=arm64 for another)
	@RUNTIME_NAMES="$(RUNTIME_NAMES)" DAVIT_NAMES="$(DAVIT_NAMES)" packaging/deb/make.sh "$(VERSION)" $(ARCH)

clean: ## remove all that was built, test engines too
	test/e2e/engines/down.sh --all
	rm -rf --one-file-system bin build

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

SHELL = /bin/bash
