"""Readers behind a driver of our own: as many as pcscd has places for, and failing as a test says.

The driver is driver.c; a file says what is in each slot.
"""

import mmap
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cards.vpcd import PATIENCE_S, Rack
from p11host.bench.rack import running

SOURCE = Path(__file__).with_suffix(".c")
#: For so many readers pcsc-lite has places.
PLACES = 16
EMPTY, CARD, FAILING = range(3)
_CONF = b'FRIENDLYNAME "%s"\nDEVICENAME %s\nLIBPATH %s\nCHANNELID 1\n'


class Slots:
    """What is in each slot."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes([PLACES]) + bytes(PLACES))
        with path.open("r+b") as file:
            self._board = mmap.mmap(file.fileno(), 0)

    def __setitem__(self, slot: int, state: int) -> None:
        self._board[1 + slot] = state

    def clear(self) -> None:
        """Have all of them empty."""
        self._board[1:] = bytes(PLACES)


@contextmanager
def driven(directory: Path, name: bytes) -> Iterator[tuple[Rack, Slots]]:
    """Run pcscd with all the readers it has places for, of that name."""
    driver, board, conf = directory / "driver.so", directory / "board", directory / "readers"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-isystem", "/usr/include/PCSC"]
    subprocess.run([*command, "-o", driver, SOURCE], check=True, timeout=PATIENCE_S)
    slots = Slots(board)
    conf.mkdir()
    (conf / "ours").write_bytes(_CONF % (name, bytes(board), bytes(driver)))
    with running(Rack(directory, ())) as made:
        yield made, slots
