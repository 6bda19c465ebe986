#!/usr/bin/env bash
# The linters, as in CI: any finding fails.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/say.sh
source scripts/say.sh
export PATH=$PWD/.venv/bin:$PATH

run ruff check .
run ruff format --check .
run mypy
run shellcheck -x scripts/*.sh .ci/run
