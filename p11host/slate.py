"""A helper's slate: memory where it notes what it is doing and counts its calls, which the broker reads.

Knows the layout, which shim/slate.h has too. Must not believe what it reads: the helper holds hostile code.
"""

import fcntl
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from p11host.counts import BUCKETS, Count
from p11host.limits import limits
from p11host.tables import function_names

_HEAD = struct.Struct("=IIII")
_MARK = struct.Struct("=Q")
_LINE = 64
#: Threads of the watch, each with a mark.
_WATCHERS = 2
_COUNT_SHIFT = 16
_PID = struct.Struct("=I")
#: A place for each function: on a page of each channel, and on those that all have in common.
_FUNCTIONS = 128
_PAGE = 4096
_TALLY = struct.Struct("=QQQQ")
_GAUGE = struct.Struct(f"=QQ{BUCKETS}Q")
#: What counts as more is nonsense, and would not fit a message.
_MOST = (1 << 63) - 1


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

    `watching` are those that the helper's watch was in, which is nobody's call. `answered` counts the calls
    that have; it is 0 for a helper that was never ready. `user`: one has logged in, by a call.
    """

    phase: Phase
    inside: tuple[str, ...]
    answered: int
    user: bool = False
    pin: Pin = Pin.UNUSED
    watching: tuple[str, ...] = ()

    @property
    def where(self) -> Mapping[str, str]:
        """Return what a log event says of it: whose calls were in which functions."""
        found = {"function": self.inside, "watch": self.watching}
        return {whose: ",".join(names) for whose, names in found.items() if names}


@dataclass(frozen=True, slots=True)
class Slate:
    """Owns the descriptor until `close`."""

    descriptor: int

    @classmethod
    def make(cls, above: int) -> "Slate":
        """Return an empty slate, with a descriptor above that number. Nobody can change its size."""
        first = os.memfd_create("p11host-slate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(first, _tallies_at() + _PAGE * limits().channels)
            seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(first, fcntl.F_ADD_SEALS, seals)
            return cls(fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, above + 1))
        finally:
            os.close(first)

    def read(self) -> Notes:
        """Return what stands there now."""
        number, _, user, pin = self._head()
        phase = _PHASES.get(number, Phase.SERVING)
        serves = phase >= Phase.SERVING
        words = [word for _, word in self._words()] if serves else []
        inside = (_IN_PHASE[phase],) if phase in _IN_PHASE else _functions_in(words)
        watching = _functions_in(self._watch()) if serves else ()
        answered = sum(word >> _COUNT_SHIFT for word in words)
        # What is no known state of a PIN is no good sign.
        return Notes(phase, inside, answered, bool(user), _PINS.get(pin, Pin.REFUSED), watching)

    def phase(self) -> Phase:
        """Return what the main thread is at now."""
        return _PHASES.get(self._head()[0], Phase.SERVING)

    def pids(self) -> list[int]:
        """Return the processes that are served now; none of whom nothing is known."""
        count = self._head()[1]
        data = os.pread(self.descriptor, _PID.size * min(count, limits().channels), _pids_at())
        return [pid for (pid,) in _PID.iter_unpack(data) if pid]

    def counts(self) -> dict[str, Count]:
        """Return what was counted until now, of the functions that were called."""
        words = dict(self._words()) if self.phase() >= Phase.SERVING else {}
        inside = Counter(name for word in words.values() if (name := _function_in(word)))
        calls, errors = Counter[str](), Counter[str]()
        for place in words:
            page = os.pread(
                self.descriptor, _TALLY.size * len(function_names()), _tallies_at() + _PAGE * place
            )
            for name, (called, failed, _, _) in zip(function_names(), _TALLY.iter_unpack(page), strict=False):
                if called:
                    calls[name] += called
                    errors[name] += failed
        return {
            name: self._count(at, calls[name], errors[name], inside[name])
            for at, name in enumerate(function_names())
            if calls[name] or inside[name]
        }

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def _head(self) -> tuple[int, int, int, int]:
        phase, served, user, pin = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, 0))
        return phase, served, user, pin

    def _count(self, function: int, calls: int, errors: int, inside: int) -> Count:
        gauge = os.pread(self.descriptor, _GAUGE.size, _gauges_at() + _GAUGE.size * function)
        nanoseconds, _, *buckets = (min(number, _MOST) for number in _GAUGE.unpack(gauge))
        return Count(min(calls, _MOST), min(errors, _MOST), inside, nanoseconds, tuple(buckets))

    def _words(self) -> Iterator[tuple[int, int]]:
        """Yield the places of channels that have been used, and the marks there."""
        data = os.pread(self.descriptor, _pids_at() - _LINE, _LINE)
        for place in range(len(data) // _LINE):
            if word := _MARK.unpack_from(data, place * _LINE)[0]:
                yield place, word

    def _watch(self) -> list[int]:
        """Return the marks of the watch's threads."""
        data = os.pread(self.descriptor, _LINE * _WATCHERS, _watchers_at())
        return [_MARK.unpack_from(data, _LINE * place)[0] for place in range(_WATCHERS)]


def _pids_at() -> int:
    return _LINE * (1 + limits().channels)


def _watchers_at() -> int:
    return _pids_at() + _PID.size * limits().channels


def _gauges_at() -> int:
    return -(-(_watchers_at() + _LINE * _WATCHERS) // _PAGE) * _PAGE


def _tallies_at() -> int:
    return _gauges_at() + _GAUGE.size * _FUNCTIONS


def _functions_in(words: Iterable[int]) -> tuple[str, ...]:
    """Return the functions that marks say are being called, each once."""
    return tuple(dict.fromkeys(name for word in words if (name := _function_in(word))))


def _function_in(word: int) -> str | None:
    """Return the function that a mark says is being called."""
    number = (word & ((1 << _COUNT_SHIFT) - 1)) >> 1
    names = function_names()
    return names[number - 1] if word & 1 and 1 <= number <= len(names) else None
