"""Children forked while eight threads are inside calls of every kind: each does what it should in time.

The whole storm, 10,000 children over each provider, is a command of its own:
`P11HOST_STORM=2000 .venv/bin/pytest tests/test_storm.py`.
"""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from board import Board
from brokers import module
from life import Host, Workshop, hosted
from shims import Shims
from test_nss import LIBRARY as SOFTOKN
from test_nss import RESERVED

from p11host import shim_path
from p11host.client import Door
from p11host.throwaway import make_token

pytest_plugins = ["life_fixtures"]

#: Children of each provider and case; by default each way and sort of child once.
CHILDREN = int(os.environ.get("P11HOST_STORM", "20"))
#: Children of one program: no more than it has time for.
AT_ONCE = 100
PATIENCE = 30
SANITIZED = {"TSAN_OPTIONS": "die_after_fork=0:halt_on_error=1"}
#: A provider's slots are looked at so often, in milliseconds.
OFTEN: dict[str, Any] = {"event-interval": 20}

Provider = Callable[[Path, str], str]


@pytest.fixture
def provider(request: pytest.FixtureRequest, mirror: Path) -> Provider:
    """Return what writes a module's table for a directory and a mode."""

    def table(directory: Path, fork: str) -> str:
        if request.param == "mirror":
            return module("mirror", mirror, env={"MIRROR_SESSIONS": "own"}, fork=fork)
        if request.param == "nss":
            return module("nss", SOFTOKN, reserved=RESERVED.format(directory), fork=fork)
        token = make_token(directory)
        return module("soft", token.provider, env=dict(token.env), fork=fork)

    return table


CASES = [("page", fork) for fork in ("reinit", "inherit", "strict")] + [("pid", "reinit"), ("pid", "inherit")]


@pytest.mark.timeout(max(300, CHILDREN))
@pytest.mark.parametrize(("detection", "fork"), CASES)
@pytest.mark.parametrize("provider", ["mirror", "softhsm", "nss"], indirect=True)
def test_storm(provider: Provider, fork: str, detection: str, workshop: Workshop, tmp_path: Path) -> None:
    """No child hangs, crashes or finds anything wrong; none disturbs its parent, and no helper is left."""
    with ExitStack() as stack:
        host = stack.enter_context(hosted(tmp_path, provider(tmp_path, fork)))
        for begun in range(0, CHILDREN, AT_ONCE):
            children = str(min(AT_ONCE, CHILDREN - begun))
            words: list[str | Path] = [workshop.program("storm"), shim_path(), fork, children]
            printed = host.run(*words, env={"P11HOST_FORK_DETECTION": detection})
            assert f"{children}\n" == printed

        assert all_have_ended(host)


@pytest.mark.timeout(max(300, CHILDREN))
@pytest.mark.parametrize("fork", ["reinit", "inherit"])
@pytest.mark.parametrize("provider", ["nss"], indirect=True)
def test_races(provider: Provider, fork: str, workshop: Workshop, tmp_path: Path) -> None:
    """The thread sanitizer finds no race between the threads, nor between them and a fork."""
    children = str(max(4, CHILDREN // 10))
    program = workshop.program("storm", "-fsanitize=thread", "-g")
    words: list[str | Path] = [program, Shims(workshop).with_sanitizer(), fork, children, "sanitized"]
    with hosted(tmp_path, provider(tmp_path, fork)) as host:
        assert f"{children}\n" == host.run(*still_addresses(), *words, env=SANITIZED)


@pytest.mark.timeout(max(300, CHILDREN))
def test_races_of_waits(workshop: Workshop, tmp_path: Path) -> None:
    """Threads that wait for slot events race with no call, fork or end, and nothing is left."""
    rounds = str(max(4, CHILDREN // 20))
    program = workshop.program("waits", "-fsanitize=thread", "-g")
    board = Board(tmp_path / "board", 4)
    with hosted(tmp_path, board.module("one", workshop.provider("readers"), "good", **OFTEN)) as host:
        words: list[str | Path] = [program, Shims(workshop).with_sanitizer(), board.path, rounds, "sanitized"]
        assert int(host.run(*still_addresses(), *words, env=SANITIZED)) > 0


@pytest.mark.timeout(max(300, CHILDREN))
def test_waits_that_are_cancelled(workshop: Workshop, tmp_path: Path) -> None:
    """A thread that is cancelled while it waits hinders no other, and leaves nothing."""
    rounds = str(max(4, CHILDREN // 20))
    board = Board(tmp_path / "board", 4)
    with hosted(tmp_path, board.module("one", workshop.provider("readers"), "good", **OFTEN)) as host:
        assert int(host.run(workshop.program("waits"), shim_path(), board.path, rounds)) > 0


def still_addresses() -> list[str]:
    """Return what runs a program in an address space that the sanitizer knows, as scripts/check-c.sh does."""
    command = ["setarch", "-R"]
    return (
        command
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
        else []
    )


@pytest.mark.parametrize("detection", ["page", "pid"])
@pytest.mark.parametrize("fork", ["reinit", "inherit"])
@pytest.mark.parametrize("provider", ["softhsm"], indirect=True)
def test_fork_in_a_signal_handler(
    provider: Provider, fork: str, detection: str, workshop: Workshop, tmp_path: Path
) -> None:
    """A handler may fork within a call: the parent's is answered, the child's ends, and the child goes on."""
    with hosted(tmp_path, provider(tmp_path, fork)) as host:
        words: list[str | Path] = [workshop.program("interrupted"), shim_path(), fork, "10"]
        assert "10\n" == host.run(*words, env={"P11HOST_FORK_DETECTION": detection})


def all_have_ended(host: Host) -> bool:
    """Wait until no helper is left; tell whether that is so."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with Door.of_broker(Path(host.env["P11HOST_SOCKET"])) as door, door.open() as channel:
            if not channel.call("status", [{}])["applications"]:
                return True
        time.sleep(0.05)
    return False
