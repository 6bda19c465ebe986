"""What a helper writes to its standard error, as lines for the log: bounded in length and in number.

Knows bytes and a clock. Must not know where the bytes come from.
"""

from collections.abc import Callable, Iterator

from p11host.limits import limits

#: Lines a second, and at once after a silence.
RATE = 50
BURST = 200


class Lines:
    """Cuts bytes into lines, and counts instead of keeping them when they come too fast."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._line = bytearray()
        self._credit = float(BURST)
        self._since = clock()
        self._dropped = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that `data` completes and that may still be logged."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._keep(part)
            yield from self._finish()
        self._keep(rest)

    def end(self) -> Iterator[str]:
        """Yield what was written after the last newline."""
        if self._line:
            yield from self._finish()

    def take_dropped(self) -> int:
        """Return how many lines were dropped since last asked."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _keep(self, part: bytes) -> None:
        self._line += part[: limits().line - len(self._line)]

    def _finish(self) -> Iterator[str]:
        line = self._line.decode(errors="backslashreplace").rstrip("\r")
        self._line.clear()
        if not self._may_log():
            self._dropped += 1
        elif line:
            yield line

    def _may_log(self) -> bool:
        now = self._clock()
        self._credit = min(BURST, self._credit + (now - self._since) * RATE)
        self._since = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
