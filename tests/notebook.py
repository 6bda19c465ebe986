"""Calls made by one way to a real provider, all of them written down: its library itself, or the shim.

An act of a test (see application.py) makes its calls through a `Notebook`. Its report holds each call with
its CK_RV, what must be the same both ways, and what is made anew each time, as signatures are.

Knows ctypes and the tables. Must not know which provider it talks to.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Self

from application import Shim
from cryptoki import ULONG, Library, constant, struct
from objects import template

from p11host.tables import tables

#: Bytes for a signature, a ciphertext, an attribute.
ROOM = 4096
UNAVAILABLE = (1 << 64) - 1
#: Counters and clocks of CK_TOKEN_INFO, which change while nobody looks.
CHANGING = ("utcTime", "ulSessionCount", "ulRwSessionCount", "ulFreePublicMemory", "ulFreePrivateMemory")

Rows = list[list[Any]]


class Made(bytes):
    """Bytes that a call has made; where it has made none, `rv` says why, and as text they are that."""

    rv: str

    def __new__(cls, data: bytes = b"", rv: str = "CKR_OK") -> Self:
        """Take bytes, or the CK_RV in their place."""
        made = super().__new__(cls, data)
        made.rv = rv
        return made

    def hex(self) -> str:  # type: ignore[override]
        """Return the bytes as text, or the CK_RV."""
        return super().hex() if self.rv == "CKR_OK" else self.rv


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS as NSS softokn reads it: with one more pointer behind."""

    _fields_ = (("args", struct("CK_C_INITIALIZE_ARGS")), ("after", ctypes.c_void_p))


class Notebook(Shim):
    """A library, by the functions of its newest list, and what came of each call."""

    def __init__(self, path: str, reserved: str = "") -> None:
        """Load the provider at `path`, or the shim if that is "", which has `reserved` from elsewhere."""
        self.calls: list[list[str]] = []
        self.same: dict[str, Any] = {}
        self.made: dict[str, Any] = {}
        self._reserved = ctypes.create_string_buffer(reserved.encode()) if path and reserved else None
        if not path:
            super().__init__()
            return
        Library.__init__(self, path)
        self._list = ctypes.addressof(self._entries.contents)
        place = ctypes.POINTER(struct("CK_INTERFACE"))()
        if (
            hasattr(self._dll, "C_GetInterface")
            and self._dll.C_GetInterface(None, None, ctypes.byref(place), ULONG(0)) == 0
        ):
            self._list = place.contents.pFunctionList

    def report(self) -> dict[str, Any]:
        """Return all that was written down."""
        return {"calls": self.calls, "same": self.same, "made": self.made}

    def rv(self, name: str, *words: Any) -> str:
        """Call a function; write down and return the name of its CK_RV."""
        found = super().rv(name, *words)
        self.calls.append([name, found])
        return found

    def initialize(self) -> None:
        """Call C_Initialize for use by threads, with the provider's string if it wants one."""
        given = InitializeArgs(args=struct("CK_C_INITIALIZE_ARGS")(flags=2))
        given.args.pReserved = None if self._reserved is None else ctypes.addressof(self._reserved)
        self.must("C_Initialize", ctypes.byref(given))

    # ---- slots and tokens ----

    def describe_slots(self) -> None:
        """Write down what the slots and tokens say of themselves, and of every mechanism they have."""
        found = []
        for slot in self.slots(with_token=False):
            about = {
                "slot": self.fields("C_GetSlotInfo", "CK_SLOT_INFO", slot),
                "token": self.fields("C_GetTokenInfo", "CK_TOKEN_INFO", slot),
                "mechanisms": [
                    [kind, self.fields("C_GetMechanismInfo", "CK_MECHANISM_INFO", slot, kind)]
                    for kind in self.mechanisms(slot)
                ],
            }
            found.append(about)
        self.same["slots"] = found

    def fields(self, function: str, name: str, *words: Any) -> Any:
        """Call a function that fills a struct; return its fields, or the CK_RV."""
        value = struct(name)()
        rv = self.rv(function, *words, ctypes.byref(value))
        found = {row.name: getattr(value, row.name) for row in tables().structs[name].fields}
        plain = {
            key: bytes(part).hex() if isinstance(part, ctypes.Array | ctypes.Structure) else part
            for key, part in found.items()
            if key not in CHANGING
        }
        return plain if rv == "CKR_OK" else rv

    def mechanisms(self, slot: int) -> list[int]:
        """Return the mechanisms of a token."""
        found, count = (ULONG * ROOM)(), ULONG(ROOM)
        rv = self.rv("C_GetMechanismList", slot, found, ctypes.byref(count))
        return found[: count.value] if rv == "CKR_OK" else []

    def slot_of(self, label: str) -> int:
        """Return the slot of the token with that label."""
        for slot in self.slots():
            info = struct("CK_TOKEN_INFO")()
            known = self.rv("C_GetTokenInfo", slot, ctypes.byref(info)) == "CKR_OK"
            if known and bytes(info.label).decode().strip() == label:
                return slot
        raise AssertionError(f"no token {label}")

    def login(self, session: int, user: str, pin: bytes) -> str:
        """Call C_Login."""
        return self.rv("C_Login", session, constant(user), pin, len(pin))

    # ---- objects ----

    def find(self, session: int, **values: Any) -> list[int]:
        """Return the objects that match, in their order."""
        rows = array_of(template(**values))
        found, count = (ULONG * ROOM)(), ULONG()
        self.must("C_FindObjectsInit", session, rows, len(rows))
        self.must("C_FindObjects", session, found, ROOM, ctypes.byref(count))
        self.must("C_FindObjectsFinal", session)
        return found[: count.value]

    def attribute(self, session: int, item: int, name: str | int) -> Made:
        """Return an attribute, by its name or number, or the CK_RV: asks for its length, then for it."""
        kind = constant(f"CKA_{name}") if isinstance(name, str) else name
        row = struct("CK_ATTRIBUTE")(kind, None, 0)
        rv = self.rv("C_GetAttributeValue", session, item, ctypes.byref(row), 1)
        if rv != "CKR_OK" or row.ulValueLen > ROOM:
            return Made(rv=f"{rv} {row.ulValueLen:#x}")
        value = (ctypes.c_ubyte * max(1, row.ulValueLen))()
        row.pValue = ctypes.addressof(value)
        self.must("C_GetAttributeValue", session, item, ctypes.byref(row), 1)
        return Made(bytes(value)[: row.ulValueLen])

    def describe_object(self, session: int, item: int, *names: str) -> dict[str, str]:
        """Return attributes of an object as text."""
        return {name: self.attribute(session, item, name).hex() for name in names}

    def generate_pair(self, session: int, kind: str, public: Rows, private: Rows) -> tuple[int, int]:
        """Return a new key pair, public first."""
        keys, rows = (ULONG(), ULONG()), (array_of(public), array_of(private))
        given = mechanism(kind)
        lengths = [word for row in rows for word in (row, len(row))]
        self.must("C_GenerateKeyPair", session, ctypes.byref(given), *lengths, *map(ctypes.byref, keys))
        return keys[0].value, keys[1].value

    def generate(self, session: int, kind: str, rows: Rows) -> int:
        """Return a new secret key."""
        key, given, values = ULONG(), mechanism(kind), array_of(rows)
        self.must("C_GenerateKey", session, ctypes.byref(given), values, len(values), ctypes.byref(key))
        return key.value

    # ---- operations ----

    def operate(self, verb: str, session: int, given: Any, key: int, data: bytes) -> Made:
        """Begin an operation and give it its data in one call; return what it made, or the CK_RV."""
        rv = self.rv(f"C_{verb}Init", session, ctypes.byref(given), key)
        return self.finish(f"C_{verb}", session, data, len(data)) if rv == "CKR_OK" else Made(rv=rv)

    def finish(self, name: str, *words: Any) -> Made:
        """Call a function whose last arguments are an output; return the bytes, or the CK_RV."""
        room, length = (ctypes.c_ubyte * ROOM)(), ULONG(ROOM)
        rv = self.rv(name, *words, room, ctypes.byref(length))
        return Made(bytes(room)[: length.value]) if rv == "CKR_OK" else Made(rv=rv)

    def verify(self, session: int, given: Any, key: int, data: bytes, signature: bytes) -> str:
        """Have the provider verify a signature."""
        self.must("C_VerifyInit", session, ctypes.byref(given), key)
        return self.rv("C_Verify", session, data, len(data), signature, len(signature))


def mechanism(kind: str | int, parameter: Any = None) -> Any:
    """Return a CK_MECHANISM with a parameter of ctypes, or none."""
    number = constant(kind) if isinstance(kind, str) else kind
    if parameter is None:
        return struct("CK_MECHANISM")(number, None, 0)
    given = struct("CK_MECHANISM")(number, ctypes.addressof(parameter), ctypes.sizeof(parameter))
    given.__dict__["parameter"] = parameter
    return given


def array_of(rows: Sequence[Sequence[Any]]) -> Any:
    """Return a template of CK_ATTRIBUTEs."""
    array = (struct("CK_ATTRIBUTE") * len(rows))()
    kept = [ctypes.create_string_buffer(value, max(1, len(value))) for _, value in rows]
    for item, (kind, value), buffer in zip(array, rows, kept, strict=True):
        item.type, item.pValue, item.ulValueLen = kind, ctypes.addressof(buffer), len(value)
    array.__dict__["kept"] = kept
    return array


def differences(direct: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Any]:
    """Return what is not the same by the two ways: calls by their number, and what must be the same."""
    calls = [
        [number, *pair]
        for number, pair in enumerate(zip(direct["calls"], ours["calls"], strict=False))
        if pair[0] != pair[1]
    ]
    counts = [len(report["calls"]) for report in (direct, ours)]
    same = [
        [key, direct["same"].get(key), ours["same"].get(key)]
        for key in direct["same"] | ours["same"]
        if direct["same"].get(key) != ours["same"].get(key)
    ]
    return [*calls, *([counts] if counts[0] != counts[1] else []), *same]
