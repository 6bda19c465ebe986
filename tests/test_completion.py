"""`completion`: what real shells make of the scripts, each as its user would press Tab."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hand import PATIENCE, Hand, hand

#: How each shell shows what it makes of the words before it, with p11host on its PATH.
SHELLS = {
    "bash": """
        source /dev/stdin <<< "$(p11host completion bash)"
        for words in 'set' 'sign --pre' 'restart s'; do
            COMP_WORDS=(p11host $words) COMPREPLY=()
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _p11host_completion p11host
            echo "${COMPREPLY[@]}"
        done
    """,
    "fish": """
        p11host completion fish | source
        for words in 'set' 'sign --pre' 'restart s'
            complete -C "p11host $words" | string replace -r '\\t.*' '' | string match -v ''
        end
    """,
    # Its completion is its line editor's, which wants a terminal.
    "zsh": """
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'autoload -Uz compinit; compinit -u -D; source <(p11host completion zsh); echo rea""dy'
        zpty -r -m shell seen '*ready*'
        for words whole in set set-pin 'sign --pre' --prehashed 'restart s' soft; do
            zpty -w -n shell "p11host $words"$'\t'
            zpty -r -m shell seen "*$whole*"
            zpty -w -n shell $'\\C-u'
            echo $whole
        done
    """,
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Return a configuration with a module of the name `soft`."""
    with hand(tmp_path_factory.mktemp("mine")) as it:
        yield it


@pytest.mark.parametrize("shell", SHELLS)
def test_completed(mine: Hand, tmp_path: Path, shell: str) -> None:
    """In a real shell, commands, options and names of modules are completed."""
    program = tmp_path / "p11host"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m p11host "$@"\n')
    program.chmod(0o755)
    own = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "xterm"}
    done = subprocess.run(
        [shell, *(["--norc"] if shell == "bash" else []), "-c", SHELLS[shell]],
        cwd=tmp_path,
        env=os.environ
        | dict(mine.env)
        | own
        | {"P11HOST_CONFIG": str(mine.directory.parent / "p11host.toml")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert ["set-pin", "--prehashed", "soft"] == done.stdout.split(), done.stderr
