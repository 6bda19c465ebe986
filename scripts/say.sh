# shellcheck shell=bash
# Sourced by the other scripts: they print what they run.
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '%s%s:%s %s\n' "$bold" "$(basename "$0" .sh)" "$plain" "$*"; }
fail() { say "$*" >&2; exit 1; }
run() { printf '+ %s\n' "$*"; "$@"; }
