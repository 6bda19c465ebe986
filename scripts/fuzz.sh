#!/usr/bin/env bash
# Runs every fuzz target of tests/fuzz over its corpus, FUZZ_SECONDS each, two at a time.
# What a target finds is left in .cache/fuzz/TARGET/.
#
# usage: scripts/fuzz.sh [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/say.sh
source scripts/say.sh
export PATH=$PWD/.venv/bin:$PATH
seconds=${FUZZ_SECONDS:-30}

targets=("$@")
if ((${#targets[@]} == 0)); then
    targets=(tests/fuzz/fuzz_*.c)
    targets=("${targets[@]#tests/fuzz/}")
    targets=("${targets[@]%.c}")
fi
[[ -f build-fuzz/build.ninja ]] ||
    run env CC=clang meson setup build-fuzz --buildtype=debug -Doptimization=1 -Dfuzz=true -Dhelper32=disabled \
        -Db_sanitize=address,undefined -Db_lundef=false -Dc_args=-fsanitize=fuzzer-no-link
# The targets and their corpus alone: clang puts the sanitizers into programs, not into libraries.
run meson compile -C build-fuzz fuzz

export ASAN_OPTIONS=abort_on_error=1:detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

# What was found once comes first, with the seeds from the tables and what earlier runs have kept.
fuzz() {
    local target=$1 found=.cache/fuzz/$1 corpora
    mkdir -p "$found/corpus"
    corpora=("$found/corpus" build-fuzz/tests/fuzz/*corpus/"$target")
    [[ ! -d tests/fuzz/regressions/$target ]] || corpora+=("tests/fuzz/regressions/$target")
    build-fuzz/tests/fuzz/"$target" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$found/" "${corpora[@]}" >"$found/log" 2>&1 ||
        { tail -n 60 "$found/log"; fail "$target found something: $found"; }
    say "$target: $(stat_of number_of_executed_units "$found/log") executions," \
        "$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$found/log" | tail -n 1)"
}

stat_of() { sed -n "s/^stat::$1: *//p" "$2"; }

trap 'kill $(jobs -p) 2>/dev/null || :' EXIT
say "$seconds s each: ${targets[*]}"
running=()
for target in "${targets[@]}"; do
    fuzz "$target" &
    running+=($!)
    if ((${#running[@]} == 2)); then
        wait "${running[0]}"
        running=("${running[@]:1}")
    fi
done
for pid in "${running[@]}"; do wait "$pid"; done
