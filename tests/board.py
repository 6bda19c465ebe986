"""A board: what is in the slots of tests/providers/readers.c, as somebody who tests it wants.

The layout is that of tests/providers/board.h.
"""

import ctypes
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brokers import module

SLOTS = 1024
FIRST_SLOT = 100
_CALLS = ("", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_WaitForSlotEvent")
_FUTEX, _WAKE, _ALL = 202 if os.uname().machine == "x86_64" else 98, 1, 0x7FFFFFFF
_LIBC = ctypes.CDLL(None)


class _Slot(ctypes.Structure):
    _fields_ = (("token", ctypes.c_uint32), ("changes", ctypes.c_uint32))


class _Board(ctypes.Structure):
    _fields_ = (
        ("bell", ctypes.c_uint32),
        ("n_slots", ctypes.c_uint32),
        ("stuck", ctypes.c_uint32),
        ("looks", ctypes.c_uint32),
        ("waits", ctypes.c_uint32),
        ("deadly", ctypes.c_uint32),
        ("apart", ctypes.c_uint32 * 10),
        ("slots", _Slot * SLOTS),
    )


class Board:
    """A board in a file, which is made if it is not there."""

    def __init__(self, path: Path, slots: int = 1) -> None:
        self.path = path
        new = not path.exists()
        with path.open("w+b" if new else "r+b") as file:
            file.truncate(ctypes.sizeof(_Board))
            self._board = _Board.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_Board)))
        if new:
            self._board.n_slots = slots

    @property
    def looks(self) -> int:
        """How often a list of slots was asked for."""
        return int(self._board.looks)

    @property
    def waits(self) -> int:
        """How often C_WaitForSlotEvent was called."""
        return int(self._board.waits)

    @property
    def stuck(self) -> bool:
        """Whether calls stand still."""
        return bool(self._board.stuck)

    def put(self, slot: int, token: int) -> None:
        """Put a token with this serial number into a slot, in the place of what is there; 0 is none."""
        self._board.slots[slot].token = token
        self._board.slots[slot].changes += 1
        self.ring()

    def touch(self, slot: int) -> None:
        """Pull a token out of its slot and push it again, faster than anybody can look."""
        self.put(slot, self._board.slots[slot].token)

    def resize(self, slots: int) -> None:
        """Have so many slots from now on."""
        self._board.n_slots = slots
        self.ring()

    def stick(self, *, stuck: bool) -> None:
        """Let every call about slots stand still, or go on."""
        self._board.stuck = int(stuck)

    def kill_in(self, function: str) -> None:
        """Let the next call of this function, and no other, end the provider's process."""
        self._board.deadly = _CALLS.index(function)

    def ring(self) -> None:
        """Wake those who wait for a change."""
        self._board.bell += 1
        at = ctypes.c_void_p(ctypes.addressof(self._board))
        _LIBC.syscall(_FUTEX, at, _WAKE, _ALL, None, None, 0)

    def module(
        self,
        name: str,
        provider: Path,
        wait: str = "none",
        *,
        slow: bool = False,
        env: Mapping[str, str] | None = None,
        **keys: Any,
    ) -> str:
        """Return the table of a module with these slots, whose own wait is of some kind."""
        own = {"READERS_BOARD": str(self.path), "READERS_WAIT": wait} | (
            {"READERS_SLOW": "1"} if slow else {}
        )
        return module(name, provider, env=own | dict(env or {}), sandbox="off", **keys)
