"""A process that shares its helper with its children (`fork = "inherit"`), and what it has there."""

import ctypes
from typing import Any

from application import Shim
from cryptoki import ULONG, constant, struct

GONE = "CKR_SESSION_HANDLE_INVALID"
NO_OBJECT = "CKR_OBJECT_HANDLE_INVALID"
PIN = b"123456"
MAC_BYTES = 16


class Family(Shim):
    """A process that has logged in and made a key that only its user may see."""

    def __init__(self) -> None:
        super().__init__()
        self.session = self.begin()
        self.slot = self.slots()[0]
        self.must("C_Login", self.session, 1, PIN, len(PIN))
        self.key = self.make_key()

    def make_key(self) -> int:
        """Make a private AES key for this session."""
        numbers = {"CKA_VALUE_LEN": 16}
        flags = {"CKA_PRIVATE": 1, "CKA_SENSITIVE": 1, "CKA_SIGN": 1, "CKA_TOKEN": 0}
        values: list[tuple[int, Any]] = [(constant(name), ULONG(value)) for name, value in numbers.items()]
        values += [(constant(name), ctypes.c_ubyte(value)) for name, value in flags.items()]
        template = (struct("CK_ATTRIBUTE") * len(values))()
        for entry, (type_, value) in zip(template, values, strict=True):
            entry.type, entry.pValue, entry.ulValueLen = type_, ctypes.addressof(value), ctypes.sizeof(value)
        mechanism = struct("CK_MECHANISM")(constant("CKM_AES_KEY_GEN"), None, 0)
        key = ULONG()
        self.must(
            "C_GenerateKey",
            self.session,
            ctypes.byref(mechanism),
            template,
            len(values),
            ctypes.byref(key),
        )
        return key.value

    def begin_mac(self, session: int, key: int | None = None) -> str:
        """Begin a signature; return the name of the CK_RV."""
        mechanism = struct("CK_MECHANISM")(constant("CKM_AES_CMAC"), None, 0)
        return self.rv("C_SignInit", session, ctypes.byref(mechanism), self.key if key is None else key)

    def end_mac(self, session: int, data: bytes = b"data") -> str:
        """End it; return the signature, or the name of the CK_RV."""
        room, length = (ctypes.c_ubyte * MAC_BYTES)(), ULONG(MAC_BYTES)
        rv = self.rv("C_Sign", session, data, len(data), room, ctypes.byref(length))
        return bytes(room).hex() if rv == "CKR_OK" else rv

    def mac(self, session: int | None = None, data: bytes = b"data") -> str:
        """Sign; return the signature, or the name of the CK_RV."""
        session = self.session if session is None else session
        rv = self.begin_mac(session)
        return self.end_mac(session, data) if rv == "CKR_OK" else rv

    def state(self) -> str:
        """Tell whether our session is logged in, or why it is none."""
        info = struct("CK_SESSION_INFO")()
        rv = self.rv("C_GetSessionInfo", self.session, ctypes.byref(info))
        return (
            rv if rv != "CKR_OK" else "user" if info.state == constant("CKS_RW_USER_FUNCTIONS") else "public"
        )


def count_sessions(shim: Shim) -> int:
    """Return how many sessions the odd provider has open."""
    info = struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", shim.slots()[0], ctypes.byref(info))
    return int(info.ulSessionCount)
