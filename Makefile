# The only list of commands: CI and people call these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS_VENV := .venv-peers
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find src python -name '*.rs' -o -name '*.py' -o -name '*.pyi')
export PYO3_PYTHON := $(abspath $(BIN)/python)
export VIRTUAL_ENV := $(abspath $(VENV))

.DEFAULT_GOAL := help
.PHONY: help setup build dev memcached demo test test-rust test-python test-loop test-thread test-churn lint fmt types bench bench-rust bench-compare clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.tools: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "Python's venv module is needed (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -U 'pip>=25.1'
	$(BIN)/python -m pip install -q --group build --group demo --group test --group lint
	touch $@

setup: $(VENV)/.tools  ## A virtual environment with the tools

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(BIN)/maturin develop -q --release
	touch $@

build: $(VENV)/.built  ## The release build, in .venv

dev: $(VENV)/.tools  ## A build for iterating: thin LTO, half the wait
	$(BIN)/maturin develop -q --profile thin
	touch $(VENV)/.built

memcached:
	@tools/install-memcached

$(PEERS_VENV)/.installed: benches/python/peers.txt
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install -q --disable-pip-version-check -r benches/python/peers.txt
	touch $@

demo: build memcached $(if $(PEERS),$(PEERS_VENV)/.installed)  ## The main job on a real cluster (PEERS=1: other clients too)
	$(BIN)/python examples/demo.py $(if $(PEERS),--peers $(PEERS_VENV)/bin/python)

test: test-rust test-python  ## All tests

test-rust: $(VENV)/.tools  ## The core without Python
	cargo test -q --no-default-features

# Side by side: both mostly wait.
test-python: build memcached  ## The package on real servers: both drivers, asyncio and uvloop
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-loop test-thread

test-loop: build memcached
	$(BIN)/python -m pytest -q

test-thread: build memcached
	EMCACHE_DRIVER=thread $(BIN)/python -m pytest -q -m 'not driver_independent'

test-churn: build memcached  ## Nodes come and go under load, for a minute
	for driver in loop thread; do \
		EMCACHE_DRIVER=$$driver EMCACHE_TEST_CHURN=60 $(BIN)/python -m pytest -q -o timeout=120 \
			tests/server/test_discovery.py -k under_load || exit 1; \
	done

lint: $(VENV)/.tools  ## Formatting and lints
	cargo fmt --check
	cargo clippy -q --all-targets -- -D warnings
	cargo clippy -q --all-targets --no-default-features -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

fmt: $(VENV)/.tools  ## Format everything
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only -q .

types: build  ## mypy --strict, and the stub against the extension
	$(BIN)/mypy
	cd python && ../$(BIN)/python -m mypy.stubtest emcache._emcache --allowlist ../tests/typing/stubtest-allowlist.txt

bench: build memcached  ## Our own numbers, in a minute
	$(BIN)/python benches/python/compare.py --clients emcache,floor --cases get,set,get_many --tasks 1,32,256 --loops asyncio --rounds 3 --seconds 0.7

bench-rust: ## The core's hot functions (criterion)
	cargo bench -q --no-default-features

bench-compare: build memcached $(PEERS_VENV)/.installed  ## Against other clients, interleaved (ARGS=... see --help)
	$(BIN)/python benches/python/compare.py --peers $(PEERS_VENV)/bin/python $(ARGS)

clean:  ## Remove what was built
	rm -rf target $(VENV) $(PEERS_VENV) dist
