"""Slots as any application has them: through the shim, by the four functions that waiting for them takes.

Knows where the text in CK_SLOT_INFO and CK_TOKEN_INFO is. Return values stay numbers of Cryptoki, by which a
slot that fails can be told from another: python-pkcs11 has no slots where one of them fails.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p11host.codes import ckr
from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.slot_errors import module_of, slot_error

_OK, _NO_TOKEN = 0, 0xE0
_DESCRIPTION, _MAKER, _LABEL, _SERIAL = slice(0, 64), slice(64, 96), slice(0, 32), slice(80, 96)
#: More than either struct has.
_ROOM = 512


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as it is now: label and serial number of its token, if it has one, or why it is not told.

    `module` is whose it is, where that is all that is known besides an error.
    """

    number: int
    description: str
    token: str | None = None
    serial: str | None = None
    error: str | None = None
    module: str | None = None


class WaitError(P11HostError):
    """C_WaitForSlotEvent has returned something else than an event. `rv` is that."""

    def __init__(self, rv: int) -> None:
        super().__init__(f"C_WaitForSlotEvent: {ckr(rv)}")
        self.rv = rv


class Slots:
    """An application of the shim, from the beginning of a `with` to its end."""

    def __init__(self, shim: Path) -> None:
        self._library = ctypes.CDLL(str(shim))

    def __enter__(self) -> Self:
        """Initialise, so that threads may call."""
        arguments = (ctypes.c_void_p * 6)(None, None, None, None, 2, None)  # CKF_OS_LOCKING_OK
        rv = self._call("C_Initialize", ctypes.byref(arguments))
        if rv != _OK:
            raise P11HostError(f"C_Initialize: {ckr(rv)}")
        return self

    def __exit__(self, *_: object) -> None:
        """Finalise, which ends a wait in another thread."""
        self._call("C_Finalize", None)

    def numbers(self, *, with_token: bool = False) -> list[int]:
        """Return the slots that there are, or those with a token: `wait` then begins with what there is."""
        room = (ctypes.c_ulong * limits().module_slots)()
        count = ctypes.c_ulong(len(room))
        rv = self._call("C_GetSlotList", ctypes.c_byte(with_token), room, ctypes.byref(count))
        return room[: count.value] if rv == _OK else []

    def wait(self) -> Slot:
        """Return the slot of the next event, as it is then. WaitError if there is no waiting for it."""
        return self.slot(self.event())

    def event(self) -> int:
        """Return which slot the next event is about. WaitError if there is no waiting for it."""
        number = ctypes.c_ulong()
        rv = self._call("C_WaitForSlotEvent", ctypes.c_ulong(0), ctypes.byref(number), None)
        if rv != _OK:
            raise WaitError(rv)
        return number.value

    def slot(self, number: int) -> Slot:
        """Return a slot as it is now."""
        rv, info = self._info("C_GetSlotInfo", number)
        if rv != _OK:
            return Slot(number, "", error=f"C_GetSlotInfo: {ckr(rv)}")
        description = _text(info[_DESCRIPTION])
        if failed := slot_error(_text(info[_MAKER]), description):
            return Slot(number, "", error=failed, module=module_of(description))
        rv, info = self._info("C_GetTokenInfo", number)
        if rv == _NO_TOKEN:
            return Slot(number, description)
        if rv != _OK:
            return Slot(number, description, error=ckr(rv))
        return Slot(number, description, _text(info[_LABEL]), _text(info[_SERIAL]))

    def _info(self, function: str, number: int) -> tuple[int, bytes]:
        room = ctypes.create_string_buffer(_ROOM)
        return self._call(function, ctypes.c_ulong(number), room), room.raw

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self._library, name)
        function.restype = ctypes.c_ulong
        return int(function(*arguments))


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\0 ")
