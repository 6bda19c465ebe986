#!/usr/bin/env bash
# Makes this checkout ready: missing Debian packages, .venv, p11host built and installed into it.
# Says what it does before it does it, and does nothing where nothing changed.
#
# usage: scripts/setup.sh run|test
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/say.sh
source scripts/say.sh

what=${1:-run}
venv=$PWD/.venv
cache=$PWD/.cache

# --- Debian packages -------------------------------------------------------------------------------------------

# Prints "name why" for each package of $what that is not there.
missing_packages() {
    local who name why
    while read -r who name why; do
        [[ $who == "$what" || ($who == run && $what != cards) ]] || continue
        installed "$name" || printf '%s %s\n' "$name" "$why"
    done < <(grep -v '^#' scripts/packages.txt)
}

installed() {
    case $1 in
    # A python3 that is not Debian's brings its own.
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null && return ;;
    python3-dev) [[ ! -e $(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || return 0
        [[ $what == cards || $(uname -m) != @(x86_64|aarch64) ]] || return 0 ;;
    esac
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

install_packages() {
    local missing
    command -v dpkg-query >/dev/null || { say "not Debian: see scripts/packages.txt for what is needed"; return 0; }
    missing=$(missing_packages)
    [[ -z $missing ]] || install_missing "$missing"
}

# Installs the packages of $1, lines of "name why".
install_missing() {
    local missing=$1 names name why
    mapfile -t names < <(cut -d' ' -f1 <<<"$missing")
    say "these Debian packages are missing and will be installed with apt-get:"
    while read -r name why; do printf '    %-20s %s\n' "$name" "$why"; done <<<"$missing"
    as_root "${names[@]}"
    no_new_services "${names[@]}"
    run "${sudo[@]}" apt-get -q update
    run "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${names[@]}"
}

# What card readers are watched with is built here. Where it cannot be, p11host works without.
install_pyscard() {
    "$venv/bin/python" -c 'import smartcard.scard' 2>/dev/null || (build_pyscard) ||
        say "going on without pyscard: p11host will see modules and tokens, but no card readers"
}

build_pyscard() {
    local missing names
    if command -v dpkg-query >/dev/null; then
        missing=$(what=cards missing_packages)
        [[ -z $missing ]] || install_missing "$missing"
    fi
    say "building pyscard, for card readers"
    run "$venv/bin/pip" install -q "$("$venv/bin/python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["cards"], sep="\n")')"
}

# Sets sudo to what makes a command run as root, or ends with the one line to type.
as_root() {
    sudo=()
    [[ $(id -u) -ne 0 ]] || return 0
    sudo=(sudo)
    command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; } && return
    fail "this needs root; run:  apt-get install $*"
}

# The tests start a sshd, a pcscd and an nginx of their own, for as long as they last. Nobody asked for any that stays.
no_new_services() {
    local unit units=()
    [[ " $* " != *" openssh-server "* ]] || units+=(ssh.service ssh.socket)
    [[ " $* " != *" pcscd "* && " $* " != *" vsmartcard-vpcd "* ]] || units+=(pcscd.service pcscd.socket)
    [[ " $* " != *" nginx "* ]] || units+=(nginx.service)
    [[ ${#units[@]} -gt 0 ]] || return 0
    if [[ -d /run/systemd/system ]]; then
        for unit in "${units[@]}"; do
            # What is there already is somebody's, and stays as it is.
            ! systemctl cat "$unit" >/dev/null 2>&1 || continue
            say "$unit is masked first, so that it does not start (undo: systemctl unmask $unit)"
            run "${sudo[@]}" systemctl mask "$unit"
        done
    elif [[ ! -e /usr/sbin/policy-rc.d ]]; then
        say "a policy-rc.d is in place for the length of the installation, so that no service starts"
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
        trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
        run "${sudo[@]}" chmod +x /usr/sbin/policy-rc.d
    fi
}

# --- Python ----------------------------------------------------------------------------------------------------

find_python() {
    command -v python3 >/dev/null || fail "no python3; run:  apt-get install python3 python3-venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "python3 is $(python3 -V | cut -d' ' -f2), 3.11 or later is needed first on PATH"
}

make_venv() {
    "$venv/bin/python" -c '' 2>/dev/null && return
    say "making .venv with $(python3 -V)"
    run python3 -m venv --clear "$venv"
}

install_requirements() {
    local groups=(--group build)
    fresh "requirements-$what" pyproject.toml scripts/setup.sh && return
    say "installing the Python packages that pyproject.toml names"
    run "$venv/bin/pip" install -q --upgrade 'pip >= 25.1'
    dependencies >"$venv/requirements.txt"
    [[ $what != test ]] || groups+=(--group dev)
    run "$venv/bin/pip" install -q -r "$venv/requirements.txt" "${groups[@]}"
    mark "requirements-$what" pyproject.toml scripts/setup.sh
}

dependencies() {
    "$venv/bin/python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")'
}

install_p11host() {
    local sources=(p11host shim specs conf tests/providers meson.build meson.options pyproject.toml "$venv/narrow")
    note_narrow
    fresh p11host "${sources[@]}" && return
    say "building p11host and installing it into .venv"
    PATH="$venv/bin:$PATH" run pip install -q --no-deps --no-build-isolation -Cbuild-dir=build .
    mark p11host "${sources[@]}"
}

# The build remembers whether the compiler makes programs of 32 bits. Where that has changed, it begins anew.
note_narrow() {
    local before now=no
    before=$(cat "$venv/narrow" 2>/dev/null || :)
    ! cc -m32 -x c -o /dev/null - <<<'#include <stdlib.h>
        int main(void) { return EXIT_SUCCESS; }' 2>/dev/null || now=yes
    [[ -z $before || $before == "$now" ]] || run rm -rf build
    echo "$now" >"$venv/narrow"
}

# The test suite that python-pkcs11 carries in its source distribution, of the version that is installed.
fetch_suite() {
    local version
    version=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("python-pkcs11"))')
    [[ -d $cache/python-pkcs11-$version/tests ]] && return
    say "fetching python-pkcs11 $version's own tests"
    rm -rf "$cache/sdist" && mkdir -p "$cache/sdist"
    run "$venv/bin/pip" download -q --no-deps --no-binary :all: -d "$cache/sdist" "python-pkcs11==$version"
    tar -xzf "$cache"/sdist/python_pkcs11-*.tar.gz -C "$cache/sdist"
    mv "$cache/sdist/python_pkcs11-$version" "$cache/python-pkcs11-$version"
}

# --- stamps: a digest over the contents of what a step was made from -------------------------------------------

digest() {
    { "$venv/bin/python" -V && find "$@" -name __pycache__ -prune -o -type f -print0 | sort -z | xargs -0 sha256sum; } |
        sha256sum | cut -d' ' -f1
}

fresh() { [[ $(cat "$venv/stamp-$1" 2>/dev/null) == "$(digest "${@:2}")" ]]; }
mark() { digest "${@:2}" >"$venv/stamp-$1"; }

install_packages
find_python
make_venv
install_requirements
install_pyscard
install_p11host
[[ $what != test ]] || fetch_suite
