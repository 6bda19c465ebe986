"""The memory of a call, described once and laid out for each way of making it.

Knows places in an image, pointers between them and handles. Must not know what any of them is for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

WORD = 8
GUARD = 32
ALIGN = 16
#: Every byte that nobody gave has a value that depends on its place: what strays is seen.
FILLING = bytes((37 * i + 11) % 251 + 1 for i in range(1 << 16))


@dataclass(frozen=True)
class Handle:
    """A handle by its place in a pool of the mirror's: slots, sessions or objects."""

    pool: str
    place: int


@dataclass(frozen=True)
class At:
    """A pointer to a place in the image."""

    offset: int


Value = int | Handle | At | None


@dataclass
class Image:
    """The memory a call is given, all in one block."""

    data: bytearray = field(default_factory=bytearray)
    pointers: list[tuple[int, int]] = field(default_factory=list)
    """Cells that hold a pointer, and the place it leads to."""
    handles: list[tuple[int, Handle]] = field(default_factory=list)
    """Cells that hold a handle."""
    named: list[tuple[int, str]] = field(default_factory=list)
    """Cells into which a handle of that pool may be written."""
    signature: int = -1
    """Place of a signature that may be a CK_OTP_SIGNATURE_INFO, -1 for none."""
    rooms: list[tuple[int, int]] = field(default_factory=list)
    """Place and size of all that is the caller's to be written: the rest is guards."""
    withheld: list[tuple[int, int]] = field(default_factory=list)
    """Cells, and the flags that the shim never shows."""

    def room(self, size: int) -> int:
        """Return the place of `size` bytes that nobody has set, with guards on both sides."""
        start = -(-(len(self.data) + GUARD) // ALIGN) * ALIGN
        end = start + size + GUARD
        while len(FILLING) < end - len(self.data):
            self.data += FILLING
        self.data += FILLING[: end - len(self.data)]
        self.rooms.append((start, size))
        return start

    def guards(self, memory: bytes) -> bytes:
        """Return memory without the rooms in it."""
        rest = bytearray(memory)
        for start, size in self.rooms:
            rest[start : start + size] = bytes(size)
        return bytes(rest)

    def copy(self, value: bytes) -> int:
        """Return the place of a copy of `value`."""
        offset = self.room(len(value))
        self.data[offset : offset + len(value)] = value
        return offset

    def number(self, offset: int, value: int) -> None:
        """Set a CK_ULONG."""
        struct.pack_into("<Q", self.data, offset, value)

    def set(self, offset: int, value: Value) -> None:
        """Set a word: a number, a handle, a pointer or NULL."""
        if isinstance(value, At):
            self.pointers.append((offset, value.offset))
        elif isinstance(value, Handle):
            self.handles.append((offset, value))
            self.named.append((offset, value.pool))
        else:
            self.number(offset, value or 0)

    def at(self, base: int, numbers: Mapping[Handle, int]) -> bytearray:
        """Return the memory as it is at an address, with these numbers for handles."""
        data = bytearray(self.data)
        for offset, target in self.pointers:
            struct.pack_into("<Q", data, offset, base + target)
        for offset, handle in self.handles:
            struct.pack_into("<Q", data, offset, numbers[handle])
        return data

    def canonical(self, data: bytearray, base: int, places: Mapping[tuple[str, int], Handle]) -> bytes:
        """Return memory that was at an address, without all in which two ways may differ."""
        for offset, _ in self.pointers:
            (value,) = struct.unpack_from("<Q", data, offset)
            if base <= value < base + len(data):
                struct.pack_into("<Q", data, offset, value - base)
        for offset, pool in self.named:
            (value,) = struct.unpack_from("<Q", data, offset)
            if (pool, value) in places:
                struct.pack_into("<Q", data, offset, 0xABCD_0000 + places[pool, value].place)
        for offset, flag in self.withheld:
            (value,) = struct.unpack_from("<Q", data, offset)
            struct.pack_into("<Q", data, offset, value & ~flag)
        return bytes(data)
