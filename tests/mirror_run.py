"""Makes each case directly and through the shim, and says where they differ.

Knows libraries, addresses and the mirror's own questions. Must not know what a case is about.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptoki import ULONG, constant, word_type
from cryptoki import struct as ck
from mirror_case import Case, Wish
from mirror_memory import At, Handle, Value

from p11host.tables import tables

SAID, WISH, COUNT = 0x80004D00, 0x80004D01, 0x80004D03
MEMORY, TEXT = 1 << 20, 1 << 20
POOLS = {"slot": 3, "session": 8, "object": 16}
WORD = 8


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    rv: int
    memory: bytes
    """The caller's, after the call."""
    said: str
    """What the provider was given, in its own words."""


@dataclass
class Way:
    """A library that leads to a mirror, directly or not."""

    path: Path
    numbers: dict[Handle, int] = field(default_factory=dict)
    places: dict[tuple[str, int], Handle] = field(default_factory=dict)
    wish: Wish = field(default_factory=Wish)

    def __post_init__(self) -> None:
        """Load the library and learn its handles."""
        self._list = self._functions()
        self._calls: dict[str, ctypes._FuncPointer] = {}
        self._memory = (ctypes.c_ubyte * MEMORY)()
        self.base = ctypes.addressof(self._memory)
        self._text = (ctypes.c_ubyte * TEXT)()
        self._asked = (ck("CK_ATTRIBUTE") * 1)()
        self.begin()

    def _functions(self) -> int:
        self._dll = ctypes.CDLL(str(self.path))
        found = ctypes.POINTER(ck("CK_INTERFACE"))()
        rv = self._dll.C_GetInterface(None, ctypes.byref(ck("CK_VERSION")(3, 2)), ctypes.byref(found), 0)
        assert rv == 0, f"C_GetInterface returned {rv:#x}"
        return int(found.contents.pFunctionList)

    def call(self, name: str, *words: object) -> int:
        """Call a function with its C arguments."""
        made = self._calls.get(name)
        if made is None:
            row = tables().functions[name]
            address = ctypes.c_void_p.from_address(self._list + WORD * (1 + row.index)).value
            made = ctypes.CFUNCTYPE(ULONG, *(word_type(kind) for kind, _ in row.words))(address or 0)
            self._calls[name] = made
        rv: int = made(*words)
        return rv

    def _must(self, name: str, *words: object) -> None:
        rv = self.call(name, *words)
        assert rv == 0, f"{name} returned {rv:#x}"

    def begin(self) -> None:
        """Initialise, and learn the numbers of all slots, sessions and objects."""
        self._must("C_Initialize", ctypes.byref(ck("CK_C_INITIALIZE_ARGS")(flags=2)))
        found, count = (ULONG * 16)(), ULONG(16)
        self._must("C_GetSlotList", 1, found, ctypes.byref(count))
        self._learn("slot", found[: count.value])
        for place in range(POOLS["session"]):
            self._learn("session", [self.open_session()], place)
        self.session = self.numbers[Handle("session", 0)]
        self._must("C_FindObjects", self.session, found, 16, ctypes.byref(count))
        self._learn("object", found[: count.value])
        assert {pool: len([each for each in self.numbers if each.pool == pool]) for pool in POOLS} == POOLS

    def open_session(self) -> int:
        """Open one more session, which moves the mirror on to the next."""
        session = ULONG()
        slot = self.numbers[Handle("slot", 0)]
        self._must("C_OpenSession", slot, 4, None, None, ctypes.byref(session))
        return session.value

    def _learn(self, pool: str, numbers: list[int], first: int = 0) -> None:
        for place, number in enumerate(numbers, first):
            self.numbers[Handle(pool, place)] = number
            self.places[pool, number] = Handle(pool, place)

    def said(self) -> str:
        """Return what the mirror was given last."""
        return bytes(self._text[: self._ask(SAID)]).decode()

    def count(self) -> int:
        """Return how many calls the mirror had."""
        self._ask(COUNT)
        return int.from_bytes(bytes(self._text[:WORD]), "little")

    def _ask(self, what: int) -> int:
        asked = self._asked[0]
        asked.type, asked.pValue, asked.ulValueLen = what, ctypes.addressof(self._text), TEXT
        self._must("C_GetAttributeValue", self.session, 0, self._asked, 1)
        return int(asked.ulValueLen)

    def tell(self, wish: Wish) -> None:
        """Tell the mirror how to answer, unless it knows."""
        if wish == self.wish:
            return
        value = struct.pack("<QII", wish.rv, wish.need, wish.flags)
        given = (ck("CK_ATTRIBUTE") * 1)()
        room = ctypes.create_string_buffer(value, len(value))
        given[0].type, given[0].pValue, given[0].ulValueLen = WISH, ctypes.addressof(room), len(value)
        self._must("C_SetAttributeValue", self.session, 0, given, 1)
        self.wish = wish

    def word(self, value: Value) -> int | None:
        """Return a C argument."""
        if isinstance(value, At):
            return self.base + value.offset
        return self.numbers[value] if isinstance(value, Handle) else value

    def make(self, case: Case) -> tuple[int, bytes]:
        """Make the call; return its CK_RV and the caller's memory after it."""
        image = case.image
        data = image.at(self.base, self.numbers)
        assert len(data) <= MEMORY
        ctypes.memmove(self.base, (ctypes.c_ubyte * len(data)).from_buffer(data), len(data))
        for function, words, wish in case.before:
            self.tell(wish)
            self.call(function, *map(self.word, words))
        self.tell(case.wish)
        rv = self.call(case.function, *map(self.word, case.words))
        after = bytearray(ctypes.string_at(self.base, len(data)))
        if rv == 0 and image.signature >= 0:
            follow_signature(after, self.base, image.signature)
        return rv, image.canonical(after, self.base, self.places)

    def outcome(self, case: Case) -> Outcome:
        """Make the call; return what came of it."""
        rv, memory = self.make(case)
        return Outcome(rv, memory, self.said())


def follow_signature(memory: bytearray, base: int, start: int) -> None:
    """Put what a CK_OTP_SIGNATURE_INFO leads to in its place: where in the buffer, each way may choose."""
    first, count = struct.unpack_from("<QQ", memory, start)
    if not base <= first < base + len(memory):
        return  # nothing was written
    found = [struct.unpack_from("<QQQ", memory, first - base + 24 * i) for i in range(count)]
    values = [memory[at - base :][:length] if at else b"" for _, at, length in found]
    said = b"".join(
        struct.pack("<QQ?", kind, length, at != 0) + value
        for (kind, at, length), value in zip(found, values, strict=True)
    )
    end = max(start + 16, first - base + 24 * count, *(at - base + length for _, at, length in found if at))
    memory[start:end] = said.ljust(end - start, b"\0")


def differences(case: Case, direct: Outcome, ours: Outcome) -> Iterator[str]:
    """Say in what two outcomes differ."""
    if direct.rv != ours.rv:
        yield f"CK_RV {direct.rv:#x} became {ours.rv:#x}"
    if direct.said != ours.said:
        first, second = direct.said.splitlines(), ours.said.splitlines()
        found = [(a, b) for a, b in zip(first, second, strict=False) if a != b][:4]
        yield f"the provider was given other arguments: {found or (len(first), len(second))}"
    if direct.memory != ours.memory:
        at = [i for i, (a, b) in enumerate(zip(direct.memory, ours.memory, strict=True)) if a != b]
        a, b = direct.memory[at[0] : at[0] + 16].hex(), ours.memory[at[0] : at[0] + 16].hex()
        yield f"memory differs in {len(at)} bytes from {at[0]} on: {a} became {b} (of {len(case.image.data)})"


def refused(case: Case, shim: Way) -> Iterator[str]:
    """Say in what the shim does not refuse a call as it must: unseen by the provider, nothing written."""
    before = shim.count()
    rv, memory = shim.make(case)
    untouched = case.image.canonical(case.image.at(shim.base, shim.numbers), shim.base, shim.places)
    if rv != constant(case.refusal):
        yield f"expected {case.refusal} as {case.reason}, not {rv:#x}"
    if shim.count() != before:
        yield "the provider saw a call that must be refused"
    if memory != untouched:
        yield "a refused call wrote into its caller's memory"


def compared(case: Case, direct: Way, shim: Way) -> list[str]:
    """Make a case both ways; say in what they differ."""
    if case.refusal:
        return list(refused(case, shim))
    return list(differences(case, direct.outcome(case), shim.outcome(case)))
