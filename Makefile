# The two commands are `make lab` and `make test`; the rest are their parts.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv/bin
LAB ?= lab
export LAB_UPSTREAM ?= $(realpath ../shared/upstream)

.PHONY: help setup lab lab-down test test-fast test-long bench lint lock clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what the lab and the tests need (Debian packages, virtual environment, pinned binaries)
	@scripts/setup.sh

lab: setup ## Rehearse the whole rollout on simulated hosts, and leave the lab up
	@scripts/lab.sh $(LAB)

lab-down: ## Stop the lab; nothing of it stays
	@lab/ctl --name $(LAB) down

test: setup ## Everything that must pass, cheapest first
	@scripts/test.sh all

test-fast: ## What to run while working: lint and unit tests, under two minutes
	@scripts/test.sh fast

test-long: setup ## The tests that take too long for every change
	@scripts/test.sh long

bench: setup ## Measure, and write docs/benchmarks.md (BENCH=NAME for one of them)
	@$(VENV)/python -m tests.bench $(BENCH)

lint: ## ruff, mypy, yamllint, ansible-lint, shellcheck
	@scripts/test.sh lint

lock: ## Write the hash-locked requirement files from the .in files
	$(VENV)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-annotate --no-header --allow-unsafe --strip-extras -o requirements.txt requirements.in
	$(VENV)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-annotate --no-header --allow-unsafe --strip-extras -o requirements-dev.txt requirements-dev.in

clean: lab-down ## Stop the lab and remove what the tests wrote into the tree
	rm -rf reports credentials tests/output .ansible .mypy_cache .pytest_cache .ruff_cache
