"""A PC/SC in software: readers that tests add, take away, rename and break, behind the boundary to pyscard.

Knows what p11host.cards.layer asks of it. Its waits wake as PC/SC's do: when a state is another than known.
Beside it readers as a look shows them.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from p11host.cards.codes import error_of
from p11host.cards.layer import NOTIFICATION, Look
from p11host.cards.reader import EMPTY, PRESENT, Reader, Scene

NO_SERVICE, COMM_ERROR, CANCELLED, UNKNOWN_READER = 0x8010001D, 0x80100013, 0x80100002, 0x80100009

#: What a card answers to a reset.
ATR = b"\x3b\x00"


def reader(state: int, atr: bytes = b"", count: int = 0, name: str = "one") -> Reader:
    """Return a reader in that state."""
    return Reader(name, count << 16 | state, atr)


def scene(*names: str, full: str = "") -> Scene:
    """Return a scene with these readers, one of which may have a card."""
    return Scene(
        {name: reader(PRESENT, ATR, 1, name) if name == full else reader(EMPTY, name=name) for name in names}
    )


@dataclass
class FakePcsc:
    """All readers, by their names. `blind`: like pcsc-lite before 2.3, tells of new ones in a wait only."""

    readers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    runs: bool = True
    blind: bool = False
    contexts: set[int] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    established: int = 0
    slept: int = 0

    def __post_init__(self) -> None:
        """Have nobody wait."""
        self._changed = threading.Condition()
        self._cancelled: set[int] = set()
        self._readers_changed = 0

    # ---- what a test does ----

    def add(self, *names: str) -> None:
        """Plug readers in."""
        with self._changed:
            self._readers_changed += 1
            self.readers |= dict.fromkeys(names, (EMPTY, b""))
            self._changed.notify_all()

    def unplug(self, name: str) -> None:
        """Take a reader away."""
        with self._changed:
            self._readers_changed += 1
            del self.readers[name]
            self._changed.notify_all()

    def insert(self, name: str, atr: bytes = b"\x3b\x00") -> None:
        """Put a card in."""
        self.set(name, PRESENT, atr)

    def remove(self, name: str) -> None:
        """Take the card out."""
        self.set(name, EMPTY, b"")

    def set(self, name: str, state: int, atr: bytes, moves: int = 1) -> None:
        """Have a reader be in a state, after so many cards have come or gone."""
        with self._changed:
            count = (self.readers[name][0] >> 16) + moves & 0xFFFF
            self.readers[name] = (count << 16 | state, atr)
            self._changed.notify_all()

    def end(self) -> None:
        """End the service."""
        with self._changed:
            self.runs = False
            self.contexts.clear()
            self.readers.clear()
            self._changed.notify_all()

    def begin(self) -> None:
        """Start it again."""
        self.runs = True

    # ---- the boundary ----

    def establish(self) -> int:
        """Return a new context."""
        with self._changed:
            self.established += 1
            if not self.runs:
                raise error_of(NO_SERVICE)
            self.contexts.add(self.established)
            return self.established

    def release(self, context: int) -> None:
        """End one."""
        self.contexts.discard(context)

    def names(self, context: int) -> list[str]:
        """Return the names of all readers."""
        self._check(context)
        return list(self.readers)

    def wait(self, context: int, seconds: float, known: Sequence[tuple[str, int]]) -> list[Look]:
        """Wait until something is another than it is known."""
        end = time.monotonic() + seconds
        with self._changed:
            self.waits.append(seconds)
            began = self._readers_changed
            while True:
                self._check(context)
                if context in self._cancelled:
                    self._cancelled.discard(context)
                    raise error_of(CANCELLED)
                looks = [self._look(name, state, began) for name, state in known]
                if any(state & 2 for _, state, _ in looks):
                    return looks
                left = end - time.monotonic()
                if left <= 0:
                    return looks
                self.slept += 1
                self._changed.wait(left)

    def cancel(self, context: int) -> None:
        """End a wait."""
        with self._changed:
            self._cancelled.add(context)
            self._changed.notify_all()

    def _look(self, name: str, state: int, began: int) -> Look:
        if name == NOTIFICATION:
            # The counter of pcsc-lite 2.3 tells of what came before the wait too; before that, only the wait.
            now = 0 if self.blind else self._readers_changed << 16
            changed = self._readers_changed != began if self.blind else now != state & ~2
            return name, now | (2 if changed else 0), b""
        if name not in self.readers:
            raise error_of(UNKNOWN_READER)
        now, atr = self.readers[name]
        return name, now | (2 if now != state & ~2 else 0), atr

    def _check(self, context: int) -> None:
        if context not in self.contexts:
            raise error_of(COMM_ERROR)
