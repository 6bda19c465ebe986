# make demo and make test do all set-up themselves; scripts/ prints what it runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN := .venv/bin

.NOTPARALLEL:
.PHONY: help setup setup-test build demo test lint check-c fuzz pytest bench clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Debian packages that are missing, .venv, p11host built and installed into it
	@scripts/setup.sh run

setup-test: ## the same, and what the tests need
	@scripts/setup.sh test

build: setup ## the same as setup: it builds what changed

demo: setup ## a throw-away token used through p11host.so by programs that nobody here wrote
	@$(BIN)/python scripts/demo.py

test: lint check-c fuzz pytest ## everything

lint: setup-test ## ruff and mypy --strict
	@scripts/lint.sh

check-c: setup-test ## unit tests of the C under the sanitizers
	@scripts/check-c.sh asan
	@scripts/check-c.sh tsan

fuzz: setup-test ## each fuzz target for FUZZ_SECONDS (30)
	@scripts/fuzz.sh

pytest: setup-test ## tests of the Python, and of everything with real clients
	@$(BIN)/pytest -n 2 --dist loadfile

bench: setup-test ## direct, p11host and p11-kit side by side
	@$(BIN)/p11host bench

clean: ## all that these targets made
	rm -rf build build-asan build-tsan build-fuzz .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
