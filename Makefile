# The only list of commands: CI and people call these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS_VENV := .venv-peers
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find src python -name '*.rs' -o -name '*.py' -o -name '*.pyi')
export PYO3_PYTHON := $(abspath $(BIN)/python)
export VIRTUAL_ENV := $(abspath $(VENV))

.DEFAULT_GOAL := help
.PHONY: help setup build dev memcached nutcracker demo demo-cluster test test-rust test-python test-loop test-thread test-event-loops test-sync test-churn test-aiocache test-django test-limits interop soak fuzz sanitize minimal-versions coverage lint msrv fmt types bench bench-rust bench-compare bench-sync bench-table bench-data bench-report bench-parts bench-footprint counts counts-update wheels matrix platforms workflows licenses deny docs alerts prose clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.tools: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "Python's venv module is needed (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -U 'pip>=25.1'
	$(BIN)/python -m pip install -q --group build --group demo --group test --group integrations --group cookbook --group lint
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

nutcracker:
	@tools/install-memcached nutcracker

$(PEERS_VENV)/.installed: benches/python/peers.txt
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install -q --disable-pip-version-check -r benches/python/peers.txt
	touch $@

demo: build memcached $(if $(PEERS),$(PEERS_VENV)/.installed)  ## The main job on a real cluster (PEERS=1: other clients too)
	$(BIN)/python examples/demo.py $(if $(PEERS),--peers $(PEERS_VENV)/bin/python)

NEIGHBOURS := php-cli php-memcached ruby ruby-dalli
demo-cluster: build memcached  ## A cluster that PHP and Ruby share grows under load, and a node dies
	@dpkg -s $(NEIGHBOURS) >/dev/null 2>&1 || tools/install-memcached --packages $(NEIGHBOURS)
	$(BIN)/python examples/cluster_demo.py

test: test-rust test-python  ## All tests

test-rust: $(VENV)/.tools  ## The core without Python
	cargo test -q --no-default-features

# Side by side: both mostly wait. A few tests that fail get a second attempt, alone, and are named.
FAILED := target/failed
test-python: build memcached nutcracker  ## The package on real servers: both drivers, asyncio and uvloop
	@rm -rf $(FAILED)
	@EMCACHE_TEST_FAILED=$(abspath $(FAILED)) $(MAKE) --no-print-directory -k -j2 --output-sync=target test-loop test-thread \
		|| $(BIN)/python tools/second-attempt $(FAILED)

WORKERS := -n 2 --dist worksteal
test-loop: build memcached nutcracker
	$(BIN)/python -m pytest -q $(WORKERS)

test-thread: build memcached nutcracker
	EMCACHE_DRIVER=thread $(BIN)/python -m pytest -q $(WORKERS) -m 'not driver_independent'

SYNC_TESTS := $(addprefix tests/server/test_,commands.py many.py many_results.py meta.py counters.py errors.py)
# Qt alone is 250 MB, so these are not among the tools.
test-event-loops: build memcached  ## Event loops of other projects, such as rloop, qasync and trio-asyncio
	$(BIN)/python -m pip install -q --group event-loops
	$(BIN)/python -m pytest -q -rs tests/integrations/test_other_loops.py

test-sync: build memcached  ## Tests of the commands, with the synchronous client behind them
	EMCACHE_TEST_CLIENT=sync $(BIN)/python -m pytest -q $(WORKERS) $(SYNC_TESTS)

test-churn: build memcached  ## Nodes come and go under load, for a minute
	for driver in loop thread; do \
		EMCACHE_DRIVER=$$driver EMCACHE_TEST_CHURN=60 $(BIN)/python -m pytest -q -o timeout=120 \
			tests/server/test_discovery.py -k under_load || exit 1; \
	done

coverage: $(VENV)/.coverage-tools memcached nutcracker  ## Which lines the tests do not run, Rust and Python (ARGS=tests/... for some)
	$(BIN)/python tools/coverage_report.py $(WORKERS) $(ARGS)

$(VENV)/.coverage-tools: $(VENV)/.tools
	$(BIN)/python -m pip install -q --group coverage
	touch $@

# pip downloads the sources of the version installed; only these run code of other projects.
test-aiocache test-django test-limits: build memcached
	$(BIN)/python tools/$@ $(ARGS)

test-aiocache:  ## aiocache's own tests on emcache.contrib.aiocache
test-django:  ## Django's own cache tests on emcache.contrib.django
test-limits:  ## The own tests of limits' memcached storage, with this client

interop: build memcached  ## Clients of PHP, Ruby, Perl, Java, Go and Python against ours, on three servers
	$(BIN)/python tools/interop --install $(ARGS)

soak: build memcached  ## Random calls with faults, checked by an oracle (MINUTES=10 SEED=1 SOAK="--faults kills")
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(or $(MINUTES),1) $(if $(SEED),--seed $(SEED)) $(SOAK)

fuzz:  ## Random inputs for the core's decoders and rules, on stable Rust (SECONDS=60 for each target)
	$(PYTHON) tools/fuzz --seconds $(or $(SECONDS),60) $(TARGETS)

sanitize: $(VENV)/.tools memcached  ## AddressSanitizer: the core's tests with leaks, and tests of the extension, 15 minutes
	$(BIN)/python tools/sanitize $(ARGS)

# In a folder of its own, because it writes another Cargo.lock.
minimal-versions: $(VENV)/.tools  ## Compile with the oldest version of each crate that Cargo.toml allows
	rm -rf target/minimal && mkdir -p target/minimal && cp -r Cargo.toml src benches tests target/minimal
	cd target/minimal && RUSTC_BOOTSTRAP=1 cargo -Z direct-minimal-versions generate-lockfile -q
	cargo check -q --locked --all-targets --manifest-path target/minimal/Cargo.toml
	cargo check -q --locked --all-targets --no-default-features --manifest-path target/minimal/Cargo.toml

lint: $(VENV)/.tools  ## Formatting and lints
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy -q --all-targets -- -D warnings
	cargo clippy -q --all-targets --no-default-features -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# A toolchain file would make rustup download a compiler on every machine, so the oldest one is asked for here only.
MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: $(VENV)/.tools  ## Compile with the oldest supported Rust (INSTALL=1: let rustup download it)
	@rustup run $(if $(INSTALL),--install) $(MSRV) rustc --version $(if $(INSTALL),,2>/dev/null) \
		|| { echo "Rust $(MSRV) is not installed: make msrv INSTALL=1" >&2; exit 1; }
	rustup run $(MSRV) cargo check -q --locked --all-targets --target-dir target/msrv
	rustup run $(MSRV) cargo check -q --locked --all-targets --no-default-features --target-dir target/msrv

fmt: $(VENV)/.tools  ## Format everything
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only -q .

types: build  ## mypy --strict, pyright, and the stub against the extension
	$(BIN)/mypy
	$(BIN)/pyright
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python tools/verify-types
	cd python && ../$(BIN)/python -m mypy.stubtest emcache._emcache --allowlist ../tests/typing/stubtest-allowlist.txt

bench: build memcached  ## Our own numbers, in a minute
	$(BIN)/python benches/python/compare.py --clients emcache,floor --cases get,set,get_many --tasks 1,32,256 --loops asyncio --rounds 3 --seconds 0.7

# What `make bench-rust SAVE=1` kept is what the others are compared with.
bench-rust:  ## The core's hot functions (criterion), against what SAVE=1 kept
	cargo bench -q --no-default-features --bench codec --bench pipeline --bench connection --bench routing -- --noplot \
		$(if $(SAVE),--save-baseline kept,--baseline-lenient kept) $(ARGS)

bench-compare: build $(PEERS_VENV)/.installed  ## Against other clients, interleaved (ARGS=... see --help)
	@tools/install-memcached redis-server
	$(BIN)/python benches/python/compare.py --peers $(PEERS_VENV)/bin/python $(ARGS)

bench-sync: build $(PEERS_VENV)/.installed  ## The synchronous client and Django's backends against others (ARGS=... see --help)
	@tools/install-memcached redis-server
	$(BIN)/python benches/python/sync.py --peers $(PEERS_VENV)/bin/python $(ARGS)

bench-table: build $(PEERS_VENV)/.installed  ## The table of what is to be reached, 12 minutes (ARGS=... see --help)
	@tools/install-memcached valgrind
	$(BIN)/python benches/python/reach.py --peers $(PEERS_VENV)/bin/python $(ARGS)

bench-parts: build memcached  ## What the optional parts cost a get, off and on, 2 minutes (ARGS=... see --help)
	$(BIN)/python benches/python/parts.py $(ARGS)

bench-footprint: build memcached $(PEERS_VENV)/.installed  ## Start-up time and memory, beside emcache 1.3.3, a minute
	$(BIN)/python benches/python/footprint.py --with 1.3.3=$(PEERS_VENV)/bin/python $(ARGS)

CURVED := emcache,emcache 1.3.3,emcache 1.3.3 autobatching,aiomcache,memcachio,libmc,pylibmc,pymemcache,floor
CURVES := --clients '$(CURVED)' --cases get --tasks 1,8,32,128,256,1024 --quantiles --rounds 5 --seconds 0.5
bench-data: build memcached $(PEERS_VENV)/.installed  ## What the figures of docs/performance.md are made of, 10 minutes
	$(BIN)/python benches/python/compare.py --peers $(PEERS_VENV)/bin/python $(CURVES) --json benches/python/results/curves.json $(ARGS)
	$(BIN)/python benches/python/breakdown.py --json benches/python/results/breakdown.json

bench-report: $(VENV)/.bench-tools  ## Remakes the figures of docs/performance.md from the results
	$(BIN)/python benches/python/report.py docs/performance
	$(BIN)/python benches/python/bars.py docs/performance/gets.svg

$(VENV)/.bench-tools: $(VENV)/.tools
	$(BIN)/python -m pip install -q --group bench
	touch $@

counts:  ## Instructions and allocations of the core's operations, against benches/counts.txt
	@tools/install-memcached valgrind
	$(PYTHON) benches/counts.py

counts-update:  ## Takes what is counted now for benches/counts.txt
	@tools/install-memcached valgrind
	$(PYTHON) benches/counts.py --update

# -a: Sphinx forgets the index entries of pages that it does not write again (findings/sphinx_search_index_entries.sh).
docs: build $(VENV)/.docs-tools  ## The documentation site, in target/docs; a warning is an error
	$(BIN)/sphinx-build -q -a -W --keep-going -n -d target/doctrees docs target/docs
	EMCACHE_TEST_SITE=1 $(BIN)/python -m pytest -q tests/docs/test_site.py
	@echo target/docs/index.html

$(VENV)/.docs-tools: $(VENV)/.tools
	$(BIN)/python -m pip install -q --group docs
	touch $@

$(VENV)/.dist-tools: $(VENV)/.tools
	$(BIN)/python -m pip install -q --group dist
	touch $@

alerts:  ## Check the Prometheus rules with promtool, and run their tests
	@tools/install-memcached prometheus
	promtool check rules deploy/prometheus/emcache.rules.yml
	promtool test rules deploy/prometheus/emcache.rules.test.yml

prose:  ## Sentences without a subject, in docs, comments and docstrings, per 1,000 (ARGS=paths)
	@$(PYTHON) tools/prose $(ARGS)

wheels: $(VENV)/.dist-tools memcached  ## dist/: wheels and the source distribution, each tried (PYTHONS="python3.11 python3.13")
	tools/wheels $(PYTHONS)

matrix:  ## The suite on other Pythons and memcacheds, an hour and more (SUITES="trixie sid"; see tools/matrix)
	tools/matrix $(SUITES)

platforms: $(VENV)/.dist-tools  ## Wheels and tests for other processors under qemu, as root on Debian 12 (PLATFORMS="arm64"; see tools/platforms)
	tools/platforms $(PLATFORMS)

workflows: $(VENV)/.dist-tools  ## Check .github: the schemas of workflows and issue forms, and unsafe steps
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/zizmor -q --offline .github/workflows

licenses: $(VENV)/.tools  ## THIRD-PARTY-LICENSES: those of the crates in the wheels
	$(BIN)/python tools/licenses.py

# Without the advisories: their database is not in every place that the crates are in.
deny:  ## The crates' licences, and where they are from, against deny.toml (builds cargo-deny where it is missing)
	@command -v cargo-deny >/dev/null || test -x target/tools/bin/cargo-deny \
		|| cargo install -q --locked --root target/tools cargo-deny@0.20.2
	PATH="$$PATH:$(abspath target/tools/bin)" cargo deny --locked check licenses bans sources

clean:  ## Remove what was built
	rm -rf target $(VENV) $(PEERS_VENV) dist
