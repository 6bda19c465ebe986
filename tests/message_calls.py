"""Calls of the message API and of operations that answer late, as an act of a test makes them.

The memory of parameters is the caller's own, so that a test can look at it after any call. Knows ctypes and
the shapes of the parameters; must not know whether it talks to a provider or to the shim.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from application import Shim
from cryptoki import ULONG, Library, constant, struct

DATA = b"some plaintext of two parts"
AAD = b"associated"
#: What of the parameter of a message is a buffer, by its struct, with a length for each.
BUFFERS: Mapping[str, Mapping[str, int]] = {
    "CK_GCM_MESSAGE_PARAMS": {"pIv": 12, "pTag": 16},
    "CK_CCM_MESSAGE_PARAMS": {"pNonce": 13, "pMAC": 8},
    "CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS": {"pNonce": 12, "pTag": 16},
}
NUMBERS: Mapping[str, Mapping[str, int]] = {
    "CK_GCM_MESSAGE_PARAMS": {"ulIvLen": 12, "ulIvFixedBits": 32, "ivGenerator": 1, "ulTagBits": 128},
    "CK_CCM_MESSAGE_PARAMS": {
        "ulDataLen": len(DATA),
        "ulNonceLen": 13,
        "ulNonceFixedBits": 0,
        "nonceGenerator": 1,
        "ulMACLen": 8,
    },
    "CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS": {"ulNonceLen": 12},
}
STRUCTS = {
    "CKM_AES_GCM": "CK_GCM_MESSAGE_PARAMS",
    "CKM_AES_CCM": "CK_CCM_MESSAGE_PARAMS",
    "CKM_CHACHA20_POLY1305": "CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS",
}


class Caller(Shim):
    """The shim, or a provider by its path, by the functions of its CK_FUNCTION_LIST_3_2."""

    def __init__(self, path: str = "") -> None:
        if not path:
            super().__init__()
            return
        Library.__init__(self, Path(path))
        found = ctypes.POINTER(struct("CK_INTERFACE"))()
        assert self._dll.C_GetInterface(None, None, ctypes.byref(found), 0) == 0
        self._list = found.contents.pFunctionList

    def begin_with(self, name: str, session: int, mechanism: str, parameter: Any = None) -> str:
        """Call a function that begins an operation; "" is a NULL mechanism."""
        kind = constant(mechanism) if mechanism else 0
        size = ctypes.sizeof(parameter) if parameter is not None else 0
        given = struct("CK_MECHANISM")(kind, address(parameter), size)
        key = [] if name == "C_DigestInit" else [0]
        return self.rv(name, session, ctypes.byref(given) if mechanism else None, *key)

    def fill(self, name: str, *words: Any, room: int | None = 64, cell: bool = True) -> list[Any]:
        """Call a function whose last arguments are an output; return its CK_RV, the length, the bytes."""
        flags = [words[-1]] if name.endswith("cryptMessageNext") else []
        words = words[: len(words) - len(flags)]
        length = ULONG(room or 0)
        buffer = (ctypes.c_ubyte * (room or 1))() if room is not None else None
        rv = self.rv(name, *words, buffer, ctypes.byref(length) if cell else None, *flags)
        good = rv == "CKR_OK" and buffer is not None and cell
        return [rv, length.value, bytes(buffer or b"")[: length.value].hex() if good else ""]


def address(memory: Any) -> int | None:
    """Return where an object of ctypes lies; None is NULL."""
    return None if memory is None else ctypes.addressof(memory)


class Parameter:
    """The parameter of a message, its buffers and all."""

    def __init__(self, name: str, **numbers: int) -> None:
        self.buffers = {field: (ctypes.c_ubyte * size)() for field, size in BUFFERS[name].items()}
        pointers = {field: address(buffer) for field, buffer in self.buffers.items()}
        self.memory = struct(name)(**pointers, **(dict(NUMBERS[name]) | numbers))

    @property
    def words(self) -> tuple[int | None, int]:
        """Pointer and length, as C arguments."""
        return address(self.memory), ctypes.sizeof(self.memory)

    def contents(self) -> list[str]:
        """Return what its buffers hold."""
        return [bytes(buffer).hex() for buffer in self.buffers.values()]


def raw(content: bytes) -> Any:
    """Return bytes in memory that a library may write."""
    return (ctypes.c_ubyte * len(content)).from_buffer_copy(content)
