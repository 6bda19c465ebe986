"""Any call of the tables with plain arguments, and whether its caller's memory is as it should be afterwards.

Knows kinds of arguments. Must not know what any function does, nor who answers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cryptoki import ULONG, constant, struct

from p11host.tables import Arg, Function

FILL, GUARD = 0x5C, 64
BYTES, ELEMENTS = 64, 16
NONE = (1 << 64) - 1


@dataclass(frozen=True)
class Handles:
    """What a call is about."""

    session: int
    slot: int


@dataclass
class Room:
    """Memory that a call may fill, with a guard behind it."""

    size: int
    memory: Any

    @classmethod
    def of(cls, size: int) -> Room:
        """Make room for so many bytes."""
        return cls(size, (ctypes.c_ubyte * (size + GUARD))(*[FILL] * (size + GUARD)))

    def is_untouched(self, after: int = 0) -> bool:
        """Tell whether what lies behind the first bytes is as it was made."""
        return bytes(self.memory)[after:] == bytes([FILL]) * (self.size + GUARD - after)

    @property
    def number(self) -> int:
        """Return what stands here as a number."""
        return int.from_bytes(bytes(self.memory)[:8], "little")


Wrong = Iterator[str]


class AnyCall:
    """The C arguments of one call, and what they are afterwards."""

    def __init__(self, function: Function, handles: Handles) -> None:
        """Make the arguments."""
        self.function = function
        self._handles = handles
        self._kept: list[Any] = []
        self._checks: list[Callable[[bool], Wrong]] = []
        self.words = [word for arg in function.args for word in self._words(arg)]

    def wrong(self, rv: int) -> list[str]:
        """Say what the call did to memory that it must not have done."""
        return [text for check in self._checks for text in check(rv == 0)]

    def _words(self, arg: Arg) -> list[Any]:
        make = getattr(self, "_" + arg.kind.replace(" ", "_"), None)
        words: list[Any] = make(arg) if make else [None] * len(arg.words)
        return words

    def _room(self, size: int) -> Room:
        room = Room.of(size)
        self._kept.append(room)
        return room

    # ---- inputs; a kind that is not here is NULL ----

    def _session(self, _: Arg) -> list[Any]:
        return [self._handles.session]

    def _slot(self, _: Arg) -> list[Any]:
        return [self._handles.slot]

    def _object(self, _: Arg) -> list[Any]:
        return [0]

    def _ulong(self, _: Arg) -> list[Any]:
        return [1]

    def _bool(self, _: Arg) -> list[Any]:
        return [1]

    def _flags(self, _: Arg) -> list[Any]:
        return [constant("CKF_SERIAL_SESSION") | constant("CKF_DONT_BLOCK")]

    def _bytes(self, _: Arg) -> list[Any]:
        return [b"some bytes", 10]

    def _fixed(self, arg: Arg) -> list[Any]:
        return [bytes(arg.size)]

    def _string(self, _: Arg) -> list[Any]:
        return [b"a string"]

    def _message(self, _: Arg) -> list[Any]:
        return [None, 0]

    def _template(self, _: Arg) -> list[Any]:
        value = ctypes.create_string_buffer(b"label")
        template = (struct("CK_ATTRIBUTE") * 1)()
        template[0].type, template[0].pValue = constant("CKA_LABEL"), ctypes.addressof(value)
        template[0].ulValueLen = 5
        self._kept.append(value)
        return [template, 1]

    def _mechanism(self, _: Arg) -> list[Any]:
        return [ctypes.pointer(struct("CK_MECHANISM")(mechanism=constant("CKM_SHA256")))]

    # ---- outputs ----

    def _filled(self, buffer: Room, size: int, cell: Any, elements: int) -> Callable[[bool], Wrong]:
        """Check a buffer of elements of a size, of which a cell tells how many there are."""

        def check(*successful: bool) -> Wrong:
            count = cell.value if all(successful) else 0
            if count > elements:
                yield f"{count} elements are told of, there is room for {elements}"
            elif not buffer.is_untouched(count * size):
                yield f"more than {count} elements are written"

        return check

    def _out_bytes(self, _: Arg) -> list[Any]:
        buffer, cell = self._room(BYTES), ULONG(BYTES)
        self._checks.append(self._filled(buffer, 1, cell, BYTES))
        return [buffer.memory, ctypes.pointer(cell)]

    def _out_ulongs(self, _: Arg) -> list[Any]:
        buffer, cell = self._room(ELEMENTS * 8), ULONG(ELEMENTS)
        self._checks.append(self._filled(buffer, 8, cell, ELEMENTS))
        return [buffer.memory, ctypes.pointer(cell)]

    _out_slots = _out_ulongs

    def _out_objects(self, _: Arg) -> list[Any]:
        buffer, cell = self._room(ELEMENTS * 8), ULONG(0)
        self._checks.append(self._filled(buffer, 8, cell, ELEMENTS))
        return [buffer.memory, ELEMENTS, ctypes.pointer(cell)]

    def _out_exact(self, _: Arg) -> list[Any]:
        buffer, cell = self._room(BYTES), ULONG(BYTES)
        self._checks.append(self._filled(buffer, 1, cell, BYTES))
        return [buffer.memory, BYTES]

    def _cell(self, arg: Arg) -> list[Any]:
        cell = self._room(8)

        def check(_: object) -> Wrong:
            if not cell.is_untouched(8):
                yield f"{arg.name} is written past its end"

        self._checks.append(check)
        return [cell.memory]

    _out_ulong = _out_slot = _out_object = _cell

    def _out_session(self, arg: Arg) -> list[Any]:
        words = self._cell(arg)
        cell = self._kept[-1]

        def check(*successful: bool) -> Wrong:
            if all(successful) and cell.number == 0:
                yield "a session without a handle is open"

        self._checks.append(check)
        return words

    def _out_struct(self, arg: Arg) -> list[Any]:
        size = ctypes.sizeof(struct(arg.struct))
        room, told = self._room(size), ULONG(size)
        self._checks.append(self._filled(room, 1, told, size))
        return [room.memory]

    def _inout_template(self, _: Arg) -> list[Any]:
        values = [self._room(BYTES), self._room(BYTES)]
        template = (struct("CK_ATTRIBUTE") * 2)()
        for item, value in zip(template, values, strict=True):
            item.type, item.ulValueLen = constant("CKA_LABEL"), BYTES
            item.pValue = ctypes.addressof(value.memory)

        def check(*successful: bool) -> Wrong:
            for item, value in zip(template, values, strict=True):
                length = 0 if item.ulValueLen == NONE else item.ulValueLen
                if all(successful) and length > BYTES:
                    yield f"an attribute of {length} bytes is told of, there is room for {BYTES}"
                elif not value.is_untouched(min(length, BYTES) if all(successful) else 0):
                    yield "an attribute is written past its length"

        self._checks.append(check)
        return [template, 2]
