"""The system's time may jump at any moment: nothing that waits or measures goes by it."""

import ast
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, start_threads
from board import Board
from brokers import ROOT
from life import Hosting, Workshop, jumping_clock
from test_events import begin, wait

pytest_plugins = ["life_fixtures"]

#: Milliseconds: a look at the slots, and how long a call may take.
OFTEN, SOON = 20, 2000
YEAR = 365 * 24 * 3600


def test_time_jumps(
    hosting: Hosting, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While time jumps in application, broker and helper, events come, and calls end when they should."""
    clock = jumping_clock(workshop)
    board, provider = Board(tmp_path / "board", 2), workshop.provider("readers")
    keys: dict[str, Any] = {"event-interval": OFTEN, "deadlines": {"short": SOON}}
    monkeypatch.setenv("LD_PRELOAD", clock)
    host = hosting(board.module("one", provider, env={"LD_PRELOAD": clock}, **keys))

    assert [True, 1, 2, "CKR_OK", "CKR_DEVICE_ERROR", "CKR_OK"] == host.play(act, str(board.path))


def act(path: str) -> list[Any]:
    """Wait for an event that is there, and for one that comes; call in time, for ever, and anew."""
    board, shim = Board(Path(path)), begin()
    mapped = Path(f"/proc/{helpers()['one']}/maps").read_text()
    jumps = abs(time.time() - time.time()) > YEAR and os.environ["LD_PRELOAD"] in mapped
    board.put(0, 1)
    found: list[Any] = [jumps, wait(shim)]
    waiting = start_threads([partial(wait, shim)])
    board.put(1, 1)
    found += [*waiting(), info(shim)]
    board.stick(stuck=True)
    found.append(info(shim))
    board.stick(stuck=False)
    return [*found, info(shim)]


def info(shim: Shim) -> str:
    """Ask for a slot."""
    return shim.rv("C_GetSlotInfo", 1, bytes(512))


#: What shows a time to people, or compares it with a certificate's; by these alone the system's time is read.
SHOWS_TIME = {"cli/calls.py", "cli/events.py", "cli/list.py", "tokens/describe.py"}


def test_nothing_depends_on_the_clock_that_is_set() -> None:
    """What waits or measures does so by the monotonic clock: the system's may jump."""
    package = ROOT / "p11host"
    reading = {str(path.relative_to(package)) for path in package.rglob("*.py") if reads_the_time(path)}
    assert SHOWS_TIME == reading


def reads_the_time(path: Path) -> bool:
    """Tell whether a file asks for the system's time."""
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return bool(used & {"time.time", "time.time_ns", "datetime.now", "time.localtime", "time.gmtime"})
