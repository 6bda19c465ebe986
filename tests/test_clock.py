"""The system's time may jump at any moment: nothing that waits or measures goes by it."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, start_threads
from board import Board
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
