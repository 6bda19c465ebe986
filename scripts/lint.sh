#!/usr/bin/env bash
# The linters, as in CI: any finding fails.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/say.sh
export PATH=$PWD/.venv/bin:$PATH

run ruff check .
run ruff format --check .
run mypy
