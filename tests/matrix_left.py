"""What is left of a helper when the application has no more use for it: processes, however they are hidden.

Knows /proc. Must not know what a helper did.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Seconds in which helpers end after C_Finalize: a provider has two for its own.
FAREWELL = 4.0
PAUSE = 0.01


@dataclass(frozen=True)
class Process:
    """A process, as /proc tells of it."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    command: bytes

    def is_helper_of(self, provider: Path) -> bool:
        """Tell whether it has a helper's command line: it is one, or was forked from one."""
        program, *words = self.command.split(b"\0")
        return b"p11host-helper" in program and str(provider).encode() in words


def all_processes() -> Iterator[Process]:
    """Yield every process that has not ended."""
    for place in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(") ")
            state, parent, _, session, *_ = rest.split()
            if state not in "ZX":
                command = (place / "cmdline").read_bytes()
                yield Process(int(place.name), name, state, int(parent), int(session), command)


def processes_of(helpers: Collection[int], provider: Path, broker: int) -> list[Process]:
    """Return helpers, whoever is in their sessions, and whoever has left these."""
    return [
        each
        for each in all_processes()
        if each.pid in helpers
        or each.session in helpers
        or (each.parent != broker and each.is_helper_of(provider))
    ]


def end_what_is_left(find: Callable[[], list[Process]]) -> list[str]:
    """Wait for the end of processes; name those that stay, and end them."""
    end = time.monotonic() + FAREWELL
    while (left := find()) and time.monotonic() < end:
        time.sleep(PAUSE)
    for each in left:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    return [f"{each.name} ({each.pid}, {each.state}) is left" for each in left]
