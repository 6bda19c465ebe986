"""PC/SC for readers whose names are not ASCII: the calls in which pyscard cannot hand a name over.

Knows libpcsclite's functions and struct. A context is the process's own, whoever asked for it. Names are text
in which what is no UTF-8 is escaped.
"""

import ctypes
from collections.abc import Sequence
from functools import cache

from p11host.cards.codes import error_of

_LIBRARY = "libpcsclite.so.1"
_OK, _TIMEOUT = 0, 0x8010000A
_ATR = 33


class _State(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
        ("known", ctypes.c_ulong),
        ("now", ctypes.c_ulong),
        ("atr_size", ctypes.c_ulong),
        ("atr", ctypes.c_ubyte * _ATR),
    )


def names(context: int) -> list[str]:
    """Return the names of all readers."""
    size = ctypes.c_ulong(0)
    _call("SCardListReaders", ctypes.c_long(context), None, None, ctypes.byref(size))
    room = ctypes.create_string_buffer(size.value)
    _call("SCardListReaders", ctypes.c_long(context), None, room, ctypes.byref(size))
    found = room.raw[: size.value].split(b"\0")
    return [name.decode(errors="surrogateescape") for name in found if name]


def wait(context: int, milliseconds: int, known: Sequence[tuple[str, int]]) -> list[tuple[str, int, bytes]]:
    """Return names, states and ATRs once a state is another than is known, or after some time."""
    states = (_State * len(known))(*(_State(_encoded(name), None, state) for name, state in known))
    words = ctypes.c_long(context), ctypes.c_ulong(milliseconds), states, ctypes.c_ulong(len(known))
    _call("SCardGetStatusChange", *words, empty=_TIMEOUT)
    return [
        (name, state.now, bytes(state.atr[: min(state.atr_size, _ATR)]))
        for (name, _), state in zip(known, states, strict=True)
    ]


def try_card(context: int, name: str, mode: int, protocols: int, leave: int) -> None:
    """Connect to a card, and let go of it again."""
    card, protocol = ctypes.c_long(), ctypes.c_ulong()
    how = ctypes.c_ulong(mode), ctypes.c_ulong(protocols)
    found = ctypes.byref(card), ctypes.byref(protocol)
    _call("SCardConnect", ctypes.c_long(context), _encoded(name), *how, *found)
    _call("SCardDisconnect", card, ctypes.c_ulong(leave))


def _encoded(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _call(function: str, *arguments: object, empty: int = _OK) -> None:
    status = getattr(_library(), function)(*arguments) & 0xFFFFFFFF
    if status not in (_OK, empty):
        raise error_of(status)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(_LIBRARY)
