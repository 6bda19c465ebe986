"""The roll of a shared helper: the pids of the processes it serves, in memory that the broker reads.

Knows the layout: 32-bit numbers in native order, first how many there are. Must not believe what it reads:
the helper holds hostile code.
"""

import fcntl
import os
import struct
from dataclasses import dataclass

from p11host.limits import limits

_NUMBER = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Roll:
    """Owns the descriptor until `close`."""

    descriptor: int

    @classmethod
    def make(cls, above: int) -> "Roll":
        """Return an empty roll, with a descriptor above that number."""
        first = os.memfd_create("p11host-roll", os.MFD_CLOEXEC)
        try:
            os.ftruncate(first, _size())
            return cls(fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, above + 1))
        finally:
            os.close(first)

    def pids(self) -> list[int]:
        """Return the processes that are served now; none of whom nothing is known."""
        data = os.pread(self.descriptor, _size(), 0)
        numbers = [number for (number,) in _NUMBER.iter_unpack(data[: len(data) // 4 * 4])]
        return [pid for pid in numbers[1 : 1 + numbers[0]] if pid] if numbers else []

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def _size() -> int:
    return _NUMBER.size * (1 + limits().channels)
