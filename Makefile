# Everything lands in .venv/ and .cache/; `make clean` removes both. Needs Python >= 3.11 with venv, git and the package index.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Test processes; 0 = in this one. The tests use ports and directories of their own.
JOBS ?= 2
PYTEST_ARGS ?=
BUF_VERSION := 1.75.0
BIN := .venv/bin
READY := .venv/.ready
# pip and buf keep what they fetched inside the checkout
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export BUF_VERSION

.PHONY: help demo test check fault slow bench proto servers lock format settings-reference clean

help: ## this list
	@grep -E '^[.a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 22

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python >= 3.11 with venv; try PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv: $(READY) ## the virtual environment, from the locked dependencies

demo: $(READY) ## two managers, two nodes, real files, kill -9 of each; LOGS='/path/*.log' to choose, KEEP=1 to leave it running
	$(BIN)/python -m tests.e2e.demo $(if $(LOGS),--logs '$(LOGS)')

test: $(READY) ## the tests; what is skipped, and why, stands at the end
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: $(READY) ## formatting, lint, types, proto lint and compatibility, generated files, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	tests/support/proto.sh drift
	tests/support/proto.sh lint
	$(BIN)/python -m pytest -q tests/unit/test_layers.py tests/unit/test_reference.py

fault: $(READY) ## the long storms: kills, power cuts, full disks
	JLOGD_LONG=1 $(BIN)/python -m pytest tests/fault -m "fault or not fault" --timeout 7200 $(PYTEST_ARGS)

slow: $(READY) ## what needs heavy servers or minutes
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

bench: $(READY) ## speed against rsyslog, in one interleaved run
	$(BIN)/python -m tests.bench.pipeline $(BENCH_ARGS)

proto: $(READY) ## generate the stubs from proto/
	tests/support/proto.sh generate .

servers: ## real servers for tests and benches (apt); says where they are
	tests/support/servers.sh

settings-reference: $(READY) ## write docs/settings.md from the settings models
	$(BIN)/python -m tests.support.reference

format: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## choose newest allowed dependencies again (needs uv); no index address ends up in the files
	uv pip compile --quiet --upgrade --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-annotate --no-header pyproject.toml -o requirements.lock
	uv pip compile --quiet --upgrade --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-annotate --no-header --extra dev pyproject.toml -o requirements-dev.lock
	! grep -nE '://|^-|^\.|^/' requirements.lock requirements-dev.lock

clean: ## remove .venv/ and .cache/
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
