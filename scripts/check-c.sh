#!/usr/bin/env bash
# Builds the C with a sanitizer in a directory of its own and runs its unit tests.
#
# usage: scripts/check-c.sh asan|tsan [meson test arguments…]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/say.sh
source scripts/say.sh
export PATH=$PWD/.venv/bin:$PATH

which=${1:?asan or tsan}
shift
case $which in
asan) sanitize=address,undefined wrapper=() ;;
tsan)
    sanitize=thread wrapper=()
    # The thread sanitizer of gcc 12 knows no address space as random as today's kernels make it. Some containers do not
    # let us ask for less; then it may work all the same.
    ! setarch -R true 2>/dev/null || wrapper=(--wrapper "setarch -R")
    ;;
*) fail "no sanitizer is called $which: asan or tsan" ;;
esac

export ASAN_OPTIONS=abort_on_error=1:detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
[[ -f build-$which/build.ninja ]] ||
    run meson setup "build-$which" --buildtype=debug -Doptimization=1 -Dtests=true "-Db_sanitize=$sanitize"
run meson compile -C "build-$which"
run meson test -C "build-$which" --no-rebuild --print-errorlogs "${wrapper[@]}" "$@"
