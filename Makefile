# Every target works from a bare clone with python3, git and make: what it needs goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
SUDO := $(shell [ $$(id -u) = 0 ] || echo sudo -n)

.DEFAULT_GOAL := help
.PHONY: help run programs test lint types bench bench-peers soak clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

# Two stamps: running needs little, developing needs all.
.venv/run.stamp: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[fast]'
	touch $@

.venv/test.stamp: setup.cfg pyproject.toml .venv/run.stamp
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

run: .venv/run.stamp  ## serve the simulated market on http://127.0.0.1:8000 (PORT=... for another)
	$(BIN)/marketfeed serve --port $(PORT)

# Clients in JavaScript; without npm the tests that need one are skipped, and say so.
tests/js/node_modules/test.stamp: tests/js/package.json
	if command -v npm >/dev/null; then npm install --prefix tests/js --no-package-lock --no-audit --no-fund --silent; fi
	mkdir -p $(@D) && touch $@

# What pip has not: where apt-get may it installs them, else the tests that need one are skipped, and say so.
programs:
	@for program in chromium curl; do \
		command -v $$program >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -yq --no-install-recommends $$program; } \
			|| echo "$$program is missing: the tests that need it are skipped. Debian: apt-get install $$program" >&2; \
	done

# Three at a time on two cores: most of them wait for a process or a socket.
test: .venv/test.stamp tests/js/node_modules/test.stamp programs  ## run every test
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: .venv/test.stamp  ## ruff: style and likely errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test.stamp tests/js/node_modules/test.stamp  ## mypy --strict over marketfeed and feeds, tsc --strict over the client for pages
	$(BIN)/mypy
	@if [ -x tests/js/node_modules/.bin/tsc ]; then echo tsc --project tests/js; tests/js/node_modules/.bin/tsc --project tests/js; \
		else echo "npm is missing: the types of marketfeed.js are not checked" >&2; fi

bench: .venv/test.stamp  ## micro benchmarks, as tables
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=min,median,ops,rounds --benchmark-sort=name

# A machine without npm still measures the Python peers; the others are skipped by name.
bench/node_modules/bench.stamp: bench/package.json
	if command -v npm >/dev/null; then npm install --prefix bench --no-package-lock --no-audit --no-fund --silent; fi
	mkdir -p $(@D) && touch $@

bench-peers: .venv/test.stamp bench/node_modules/bench.stamp  ## marketfeed beside its peers, over real sockets (half an hour)
	$(BIN)/python -m bench.fanout --json bench-peers.json --plot bench-peers.png

soak: .venv/test.stamp  ## look for rare interleavings of delivery that the tests did not think of (ten minutes)
	MARKETFEED_SOAK=8000 $(BIN)/python -m pytest tests/unit/stream/test_hub_model.py -o timeout=1800

clean:  ## remove what the targets made
	rm -rf .venv build dist *.egg-info bench/node_modules tests/js/node_modules bench-peers.json bench-peers.png .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
