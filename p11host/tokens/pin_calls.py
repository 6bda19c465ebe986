"""The Cryptoki calls that take a PIN, made on the shim with the PIN in memory that can be wiped.

python-pkcs11 takes PINs as strings, which nobody can wipe, and has no C_InitToken. Knows four functions by
their prototypes. Must not know where a PIN comes from.
"""

import ctypes
from functools import cache
from typing import Final

from p11host import shim_path

CKU_SO: Final = 0
CKU_USER: Final = 1
#: Bytes of CK_TOKEN_INFO's label, which C_InitToken takes padded with spaces and not terminated.
LABEL_BYTES: Final = 32

Pin = bytearray | None
"""None: the token has a keypad of its own (CKF_PROTECTED_AUTHENTICATION_PATH)."""


def login(session: int, user: int, pin: Pin) -> int:
    """Return what C_Login returns."""
    return _call("C_Login", ctypes.c_ulong(session), ctypes.c_ulong(user), *_bytes(pin))


def init_token(slot: int, so_pin: Pin, label: bytes) -> int:
    """Return what C_InitToken returns. It erases all that the token holds."""
    padded = ctypes.create_string_buffer(label.ljust(LABEL_BYTES), LABEL_BYTES)
    return _call("C_InitToken", ctypes.c_ulong(slot), *_bytes(so_pin), padded)


def init_pin(session: int, pin: Pin) -> int:
    """Return what C_InitPIN returns."""
    return _call("C_InitPIN", ctypes.c_ulong(session), *_bytes(pin))


def set_pin(session: int, old: Pin, new: Pin) -> int:
    """Return what C_SetPIN returns."""
    return _call("C_SetPIN", ctypes.c_ulong(session), *_bytes(old), *_bytes(new))


def _bytes(pin: Pin) -> tuple[object, ctypes.c_ulong]:
    """Return a PIN where it is as an address and a length; no copy is made of it."""
    if pin is None:
        return None, ctypes.c_ulong(0)
    return (ctypes.c_char * len(pin)).from_buffer(pin), ctypes.c_ulong(len(pin))


def _call(function: str, *arguments: object) -> int:
    entry = getattr(_shim(), function)
    entry.restype = ctypes.c_ulong
    return int(entry(*arguments))


@cache
def _shim() -> ctypes.CDLL:
    """Return the shim, which python-pkcs11 has initialised: a second dlopen gives the same library."""
    return ctypes.CDLL(str(shim_path()))
