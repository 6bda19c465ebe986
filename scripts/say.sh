# Sourced by the other scripts: they print what they run.
say() { printf '\033[1m%s:\033[0m %s\n' "$(basename "$0" .sh)" "$*"; }
fail() { say "$*" >&2; exit 1; }
run() { printf '+ %s\n' "$*"; "$@"; }
