"""What became of a helper: how it ended, in which function, and whether that was in order.

Knows exits, signals and slates. Must not know who had it, nor what follows from it.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from p11host.slate import Notes, Phase

#: An exit that is in order happens then: also of a spare one, and of one that nobody waited for any more.
_IN_ORDER = {Phase.LEAVING, Phase.SPARE, Phase.DESERTED}


@dataclass(frozen=True, slots=True)
class Obituary:
    """A helper's end. `life` in seconds. `wanted`: the broker ended it because somebody asked for that."""

    signal: str | None
    status: int | None
    notes: Notes
    life: float
    wanted: bool = False

    @property
    def in_order(self) -> bool:
        """Tell whether it ended by itself when its work was done."""
        return self.status == 0 and self.notes.phase in _IN_ORDER

    @property
    def at_once(self) -> bool:
        """Tell whether it died before it had answered a single call."""
        return not (self.in_order or self.wanted or self.notes.answered)

    @property
    def cause(self) -> str:
        """Return what it died of, in words: `SIGSEGV in C_Sign`. Its watch is blamed where no call can be."""
        how = self.signal or f"exit {self.status}"
        if self.notes.inside:
            return f"{how} in {', '.join(self.notes.inside)}"
        return f"{how} in the watch's {', '.join(self.notes.watching)}" if self.notes.watching else how

    @property
    def fields(self) -> Mapping[str, object]:
        """Return what a log event says of it."""
        how: dict[str, object] = {"status": self.status} if self.signal is None else {"signal": self.signal}
        return how | dict(self.notes.where) | {"answered": self.notes.answered}


def reap(pidfd: int, pid: int) -> tuple[str | None, int | None]:
    """Take a helper's end from the kernel, which must have come; return signal or status.

    What it had forked dies with it, unless that has left its process group.
    """
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    # While it is not reaped nobody else can have its number.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    if ended is None or ended.si_code == os.CLD_EXITED:
        return None, 0 if ended is None else ended.si_status
    return signal_name(ended.si_status), None


def signal_name(number: int) -> str:
    """Return SIGSEGV for 11, and the number for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
