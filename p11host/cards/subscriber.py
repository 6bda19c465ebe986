"""Hearing of readers and cards from a broker, without a gap, also from the broker that comes after it.

Knows the method `readers` of PROTOCOL.md section 6. Must not know what is done with what is heard.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from p11host.client import Channel, Door
from p11host.closing import Closing
from p11host.errors import P11HostError
from p11host.start import open_door
from p11host.wire import ClosedError

#: Seconds in which a broker answers, and after which one that has gone is looked for again, at first and at
#: most.
PATIENCE, FIRST_PAUSE, LONGEST_PAUSE = 15.0, 0.05, 2.0

State = Mapping[str, Any]


class Subscriber(Closing):
    """Has one channel at a time. `connect` opens one to the broker that serves us now."""

    def __init__(self, connect: Callable[[], Channel]) -> None:
        self._connect = connect
        self._channel = connect()
        self._last: int | None = None
        self._ready: list[State] = []

    def begin(self) -> State:
        """Return the state as it is; from now on `hear` tells of every change."""
        said: State = self._channel.call("readers", [{"subscribe": True}], PATIENCE)
        self._last = said["sequence"]
        return said

    def hear(self, seconds: float | None) -> State | None:
        """Return the next change, None if none comes in some seconds.

        After a broker that has not kept what happened meanwhile it is a whole state, with `readers`.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._ready:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            try:
                said = self._channel.hear("readers", left)
            except ClosedError:
                self._resume(end)
                continue
            if said is not None:
                self._ready.append(said)
        said = self._ready.pop(0)
        self._last = said["sequence"]
        return said

    def close(self) -> None:
        """Hear no more."""
        self._channel.close()

    def _resume(self, end: float | None) -> None:
        """Find a broker again, and go on after the last number that was heard."""
        pause = FIRST_PAUSE
        while end is None or time.monotonic() < end:
            with contextlib.suppress(P11HostError, OSError):
                self._ready += self._rejoined()
                return
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _rejoined(self) -> list[State]:
        """Return what was missed, by another channel: changes, or the whole state."""
        self._channel.close()
        self._channel = self._connect()
        params = [{"subscribe": True, "since": self._last}]
        said: State = self._channel.call("readers", params, PATIENCE)
        return said["changes"] if said.get("complete") else [said]


def connector(door: Door, program: str) -> Callable[[], Channel]:
    """Return what opens a channel: through that door, and when its broker has gone to the next."""

    def connect() -> Channel:
        try:
            return door.open(program)
        except ClosedError:
            with open_door(start=True) as another:
                return another.open(program)

    return connect


def apply(readers: dict[bytes, State], said: State) -> None:
    """Have `readers`, by their names, as they are after a change, or after a whole state."""
    if "readers" in said:
        readers.clear()
        readers.update((reader["name"], reader) for reader in said["readers"])
    elif said["change"] == "gone":
        readers.pop(said["reader"]["name"], None)
    elif "reader" in said:
        readers[said["reader"]["name"]] = said["reader"]


def name_of(reader: State) -> str:
    """Return the name of a reader; what of it is no UTF-8 is escaped."""
    name: bytes = reader["name"]
    return name.decode(errors="surrogateescape")
