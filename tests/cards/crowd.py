"""More readers than pcscd has places for, in a libpcsclite of our own, which is crowd.c."""

import mmap
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cards.vpcd import PATIENCE_S
from p11host.cards.reader import EMPTY, PRESENT

SOURCE = Path(__file__).with_suffix(".c")
_MOST, _COUNT, _READER = 128, struct.Struct("=I"), struct.Struct("=I60s")


class Crowd:
    """Readers, by their places, and the environment of a program that is to see these and no others."""

    def __init__(self, directory: Path) -> None:
        library, board = directory / "libpcsclite.so.1", directory / "crowd"
        command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-isystem", "/usr/include/PCSC"]
        subprocess.run([*command, "-o", library, SOURCE], check=True, timeout=PATIENCE_S)
        board.write_bytes(bytes(_COUNT.size + _MOST * _READER.size))
        with board.open("r+b") as file:
            self._board = mmap.mmap(file.fileno(), 0)
        self.env: Mapping[str, str] = {"LD_LIBRARY_PATH": str(directory), "PCSC_CROWD": str(board)}

    def plug(self, names: Sequence[bytes]) -> None:
        """Have these readers and no others, all empty."""
        _COUNT.pack_into(self._board, 0, 0)
        for place, name in enumerate(names):
            _READER.pack_into(self._board, _at(place), EMPTY, name)
        _COUNT.pack_into(self._board, 0, len(names))

    def move(self, place: int) -> None:
        """Put a card in, or take it out."""
        (state,) = _COUNT.unpack_from(self._board, _at(place))
        now = (state >> 16) + 1 << 16 | (PRESENT if state & EMPTY else EMPTY)
        _COUNT.pack_into(self._board, _at(place), now & 0xFFFFFFFF)


def _at(place: int) -> int:
    return _COUNT.size + place * _READER.size
