"""Another program that uses a card: a process of its own, as pcscd knows one from the other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cards.vpcd import PATIENCE_S, Rack

#: Connects, says so, and does what it is told: r resets the card, s looks at it; an end lets it go.
_PROGRAM = """
import sys
import smartcard.scard as pcsc
status, context = pcsc.SCardEstablishContext(pcsc.SCARD_SCOPE_SYSTEM)
mode = pcsc.SCARD_SHARE_EXCLUSIVE if sys.argv[2] == "exclusive" else pcsc.SCARD_SHARE_SHARED
status, card, _ = pcsc.SCardConnect(context, sys.argv[1], mode, 3)
print(status, flush=True)
for line in sys.stdin:
    if line.strip() == "r":
        print(pcsc.SCardReconnect(card, mode, 3, pcsc.SCARD_RESET_CARD)[0], flush=True)
    else:
        print(pcsc.SCardStatus(card)[0], flush=True)
pcsc.SCardDisconnect(card, pcsc.SCARD_LEAVE_CARD)
pcsc.SCardReleaseContext(context)
"""


class Holder:
    """A program that has a card, alone or as one of several."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def reset(self) -> None:
        """Reset the card."""
        self._order("r")
        self.expect_success()

    def look(self) -> int:
        """Look at the card; return what PC/SC answers."""
        self._order("s")
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def _order(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def expect_success(self) -> None:
        """See that what was asked for last has been done."""
        assert self._process.stdout is not None
        assert "0\n" == self._process.stdout.readline()


@contextmanager
def connected(rack: Rack, reader: str, *, exclusive: bool = False) -> Iterator[Holder]:
    """Have another program connected to the card in a reader."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, reader, "exclusive" if exclusive else "shared"],
        env=os.environ | rack.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        holder = Holder(process)
        holder.expect_success()
        yield holder
    finally:
        process.communicate(timeout=PATIENCE_S)
