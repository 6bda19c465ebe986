"""Spare helpers: one per module that is in use, started and loaded before the next application asks.

Knows which of them fits what is asked for. Must not know applications: a spare helper has had none, and its
provider has had no call.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from p11host.config import Module
from p11host.helper import Spawned
from p11host.sandbox.confine import Kept

#: A provider's file as it was, and what the provider may do.
Stamp = tuple[tuple[int, ...], Kept]


@dataclass(frozen=True, slots=True)
class Spare:
    """A helper that waits, of a module as it was then and a provider's file as it was then."""

    module: Module
    stamp: Stamp
    spawned: Spawned


class Spares:
    """Owns the doors of the helpers in it: a spare helper whose door is closed ends."""

    def __init__(self) -> None:
        self._waiting: dict[str, Spare] = {}

    def has(self, module: Module) -> bool:
        """Tell whether a helper of a module of that name waits."""
        return module.name in self._waiting

    def keep(self, spare: Spare) -> None:
        """Let a helper wait."""
        self._waiting[spare.module.name] = spare

    def take(self, module: Module, stamp: Stamp) -> Spawned | None:
        """Return the waiting helper, now the caller's, if it lives and is what would be started now."""
        spare = self._waiting.pop(module.name, None)
        if spare is None:
            return None
        shows_the_same = spare.module.selection == module.selection
        if shows_the_same and (spare.module, spare.stamp) == (module, stamp) and _lives(spare.spawned):
            return spare.spawned
        _let_end(spare.spawned)
        return None

    def drop(self, spawned: Spawned) -> None:
        """Forget a helper, if it is one of these: it has ended, or has waited for too long."""
        spare = self._waiting.get(spawned.module)
        if spare is not None and spare.spawned is spawned:
            del self._waiting[spawned.module]
            _let_end(spawned)

    def discard(self, name: str) -> None:
        """Let the helper of a module of that name end, if one waits."""
        if spare := self._waiting.get(name):
            self.drop(spare.spawned)

    def clear(self) -> None:
        """Let all of them end."""
        for spare in list(self._waiting.values()):
            self.drop(spare.spawned)


def _let_end(spawned: Spawned) -> None:
    _end_stopped(spawned)
    spawned.door.close()


def _end_stopped(spawned: Spawned) -> None:
    """Kill a helper whose provider has stopped it: it cannot end by itself."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{spawned.pid}/stat").read_text(errors="replace").rpartition(") ")[2]
        if state.startswith("T"):
            signal.pidfd_send_signal(spawned.pidfd, signal.SIGKILL)


def _lives(spawned: Spawned) -> bool:
    return os.waitid(os.P_PIDFD, spawned.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
