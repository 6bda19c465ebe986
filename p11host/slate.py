"""A helper's slate: memory where it notes what it is doing, which the broker reads when it has died.

Knows the layout, which shim/slate.h has too. Must not believe what it reads: the helper holds hostile code.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from p11host.limits import limits
from p11host.tables import function_names

_HEAD = struct.Struct("=IIII")
_MARK = struct.Struct("=Q")
_LINE = 64
_COUNT_SHIFT = 16
_PID = struct.Struct("=I")


class Phase(IntEnum):
    """What a helper's main thread is at."""

    BORN = 0
    LOADING = 1
    SPARE = 2
    INITIALIZING = 3
    SERVING = 4
    LEAVING = 5
    DESERTED = 6


class Pin(IntEnum):
    """What became of the PIN that a helper was given."""

    UNUSED = 0
    TRIED = 1
    GOOD = 2
    REFUSED = 3


_PINS = {pin.value: pin for pin in Pin}
_PHASES = {phase.value: phase for phase in Phase}
#: What a helper that dies then was in, in the words of the loader and of Cryptoki.
_IN_PHASE = {
    Phase.LOADING: "dlopen",
    Phase.INITIALIZING: "C_Initialize",
    Phase.LEAVING: "C_Finalize",
}


@dataclass(frozen=True, slots=True)
class Notes:
    """What stood on a slate. `inside` are the functions that had not returned, each once.

    `answered` counts the calls that have; it is 0 for a helper that was never ready. `user`: one has logged
    in, by a call.
    """

    phase: Phase
    inside: tuple[str, ...]
    answered: int
    user: bool = False
    pin: Pin = Pin.UNUSED


@dataclass(frozen=True, slots=True)
class Slate:
    """Owns the descriptor until `close`."""

    descriptor: int

    @classmethod
    def make(cls, above: int) -> "Slate":
        """Return an empty slate, with a descriptor above that number. Nobody can change its size."""
        first = os.memfd_create("p11host-slate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(first, _pids_at() + _PID.size * limits().channels)
            seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(first, fcntl.F_ADD_SEALS, seals)
            return cls(fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, above + 1))
        finally:
            os.close(first)

    def read(self) -> Notes:
        """Return what stands there now."""
        number, _, user, pin = self._head()
        phase = _PHASES.get(number, Phase.SERVING)
        words = list(self._words()) if phase >= Phase.SERVING else []
        inside = tuple(dict.fromkeys(name for word in words if (name := _function_in(word))))
        if phase in _IN_PHASE:
            inside = (_IN_PHASE[phase],)
        answered = sum(word >> _COUNT_SHIFT for word in words)
        # What is no known state of a PIN is no good sign.
        return Notes(phase, inside, answered, bool(user), _PINS.get(pin, Pin.REFUSED))

    def phase(self) -> Phase:
        """Return what the main thread is at now."""
        return _PHASES.get(self._head()[0], Phase.SERVING)

    def pids(self) -> list[int]:
        """Return the processes that are served now; none of whom nothing is known."""
        count = self._head()[1]
        data = os.pread(self.descriptor, _PID.size * min(count, limits().channels), _pids_at())
        return [pid for (pid,) in _PID.iter_unpack(data) if pid]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def _head(self) -> tuple[int, int, int, int]:
        phase, served, user, pin = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, 0))
        return phase, served, user, pin

    def _words(self) -> Iterator[int]:
        """Yield the marks of channels that have been used."""
        data = os.pread(self.descriptor, _pids_at() - _LINE, _LINE)
        for at in range(0, len(data), _LINE):
            if word := _MARK.unpack_from(data, at)[0]:
                yield word


def _pids_at() -> int:
    return _LINE * (1 + limits().channels)


def _function_in(word: int) -> str | None:
    """Return the function that a mark says is being called."""
    number = (word & ((1 << _COUNT_SHIFT) - 1)) >> 1
    names = function_names()
    return names[number - 1] if word & 1 and 1 <= number <= len(names) else None
