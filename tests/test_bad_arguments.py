"""What an application gets wrong is refused in its own process, before a byte of it is read."""

import ctypes
import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from application import Shim
from cryptoki import struct, word_type
from life import Host

from p11host.tables import Arg, Choice, Function, Mechanism, Struct, tables

pytest_plugins = ["life_fixtures"]

WILD = (1 << 40, 1 << 63, (1 << 64) - 1)
REFUSED, INVALID = "CKR_ARGUMENTS_BAD", "CKR_MECHANISM_PARAM_INVALID"
#: One attribute of each kind of value.
ATTRIBUTES = [
    *("CKA_LABEL", "CKA_CLASS", "CKA_TOKEN", "CKA_START_DATE"),
    *("CKA_WRAP_TEMPLATE", "CKA_ALLOWED_MECHANISMS"),
]

Outcome = tuple[str, str]


def unreadable() -> int:
    """Return the address of a page that kills whoever looks at it."""
    protection, anonymous = 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return int(libc.mmap(None, mmap.PAGESIZE, protection, anonymous, -1, 0))


def calling(shim: Shim, session: int, function: Function, arg: Arg, words: Sequence[Any]) -> str:
    """Make a call with `words` for one argument and nothing for the others; return the name of its CK_RV."""
    where = {"session": [session], "slot": shim.slots()[:1]}
    given: list[Any] = []
    for each in function.args:
        nothing = [None if word_type(ctype) is ctypes.c_void_p else 0 for ctype, _ in each.words]
        given += words if each is arg else where.get(each.kind, nothing)
    return shim.rv(function.name, *given)


def arguments(*kinds: str) -> Iterator[tuple[Function, Arg]]:
    """Yield every argument of these kinds, of functions that cross the wire."""
    for function in tables().functions.values():
        if not function.local and not any(arg.kind == "message" for arg in function.args):
            yield from ((function, arg) for arg in function.args if arg.kind in kinds)


def test_wild_lengths_of_attributes(plain: Host) -> None:
    """A wild ulValueLen is CKR_ARGUMENTS_BAD, in every function's templates, for every kind of attribute."""
    found = plain.play(give_wild_attributes)

    assert {REFUSED} == set(found)
    assert len(list(arguments("template"))) * len(ATTRIBUTES) * len(WILD) == len(found)


def give_wild_attributes() -> list[str]:
    """Give attributes with values that nobody may look at."""
    shim = Shim()
    session, page = shim.begin(), unreadable()
    names = [tables().attributes[name].value for name in ATTRIBUTES]
    wild = [struct("CK_ATTRIBUTE")(name, page, length) for name in names for length in WILD]
    return [
        calling(shim, session, function, arg, [ctypes.byref(attribute), 1])
        for function, arg in arguments("template")
        for attribute in wild
    ]


def test_wild_lengths_of_everything_else(plain: Host) -> None:
    """A wild number of bytes, or of attributes, is CKR_ARGUMENTS_BAD for every function."""
    found = plain.play(give_wild_lengths)

    assert {REFUSED: len(WILD) * len(list(arguments("bytes", "template", "inout template")))} == Counter(
        found
    )


def give_wild_lengths() -> list[str]:
    """Give bytes and templates that nobody may look at."""
    shim = Shim()
    session, page = shim.begin(), unreadable()
    return [
        calling(shim, session, function, arg, [page, length])
        for function, arg in arguments("bytes", "template", "inout template")
        for length in WILD
    ]


def test_wild_room_for_a_template(plain: Host) -> None:
    """C_GetAttributeValue looks at no nested template whose room is wild."""
    assert [REFUSED] * len(WILD) == plain.play(give_wild_room)


def give_wild_room() -> list[str]:
    """Ask for a nested template with room that nobody may look at."""
    shim = Shim()
    session, page = shim.begin(), unreadable()
    kind = tables().attributes["CKA_WRAP_TEMPLATE"].value
    wild = [struct("CK_ATTRIBUTE")(kind, page, length) for length in WILD]
    return [shim.rv("C_GetAttributeValue", session, 1, ctypes.byref(each), 1) for each in wild]


# ---- mechanisms ----


def described() -> Iterator[tuple[Mechanism, Sequence[Choice]]]:
    """Yield the mechanisms that have structs or nothing for a parameter, and the choices there are."""
    for mechanism in tables().mechanisms.values():
        choices = mechanism.choices.get("plain", ())
        if all(choice.kind == "struct" for choice in choices):
            yield mechanism, choices


def lengths(choices: Sequence[Choice]) -> list[int]:
    """Return lengths that none of the structs has."""
    sizes = [ctypes.sizeof(struct(choice.struct)) for choice in choices]
    near = {1, *(size - 1 for size in sizes), *(size + 1 for size in sizes)}
    return sorted((near | set(WILD)) - set(sizes) - {0})


def test_parameters_of_the_wrong_length(plain: Host) -> None:
    """A parameter that is none of its mechanism's structs is CKR_MECHANISM_PARAM_INVALID, unread."""
    found = plain.play(give_wrong_lengths)

    assert {INVALID} == set(found)
    assert sum(len(lengths(choices)) for _, choices in described()) == len(found)


def give_wrong_lengths() -> list[str]:
    """Give parameters that nobody may look at."""
    shim = Shim()
    session, page = shim.begin(), unreadable()
    return [
        init(shim, session, mechanism.value, page, length)
        for mechanism, choices in described()
        for length in lengths(choices)
    ]


def init(shim: Shim, session: int, mechanism: int, parameter: int | None, length: int) -> str:
    """Begin to digest with a mechanism; return the name of the CK_RV."""
    given = struct("CK_MECHANISM")(mechanism, parameter, length)
    return shim.rv("C_DigestInit", session, ctypes.byref(given))


def test_wild_lengths_inside_parameters(plain: Host) -> None:
    """A wild length inside a parameter is CKR_MECHANISM_PARAM_INVALID; what it measures is not read."""
    found = plain.play(give_wild_fields)

    assert [] == [each for each in found if each[1] != INVALID]
    assert {name for name, _ in found} >= {
        "CK_GCM_PARAMS",
        "CK_RSA_PKCS_OAEP_PARAMS",
        "CK_ECDH1_DERIVE_PARAMS",
    }


def give_wild_fields() -> list[Outcome]:
    """Give structs, each with one wild length of something that nobody may look at."""
    shim = Shim()
    session, page = shim.begin(), unreadable()
    found: list[Outcome] = []
    for name, mechanism in users_of_structs().items():
        for value in wild_structs(tables().structs[name], page):
            rv = init(shim, session, mechanism.value, ctypes.addressof(value), ctypes.sizeof(value))
            found.append((name, rv))
    return found


def users_of_structs() -> dict[str, Mechanism]:
    """Return a mechanism for each struct that may be a parameter without a condition."""
    return {
        choice.struct: mechanism
        for mechanism, choices in described()
        for choice in choices
        if not choice.probe and choice is choices[0]
    }


def wild_structs(row: Struct, page: int) -> Iterator[ctypes.Structure]:
    """Yield values of a struct, each with one pointer that is set and a wild length for that."""
    for field in row.fields:
        if field.direction == "in" and field.length and field.length.unit in ("field", "bits"):
            for wild in WILD:
                yield struct(row.name)(**{field.name: page, field.length.field: wild})


def test_mechanism_that_nobody_knows(plain: Host) -> None:
    """A vendor's mechanism goes without a parameter and is refused with one: no pointer crosses the wire."""
    assert ["CKR_OK", INVALID] == plain.play(give_unknown_mechanism)


def give_unknown_mechanism() -> list[str]:
    """Begin with a mechanism of a vendor."""
    shim = Shim()
    session, vendor = shim.begin(), 0x8000_0001
    return [init(shim, session, vendor, None, 0), init(shim, session, vendor, unreadable(), 16)]


@pytest.mark.parametrize("length", [0, 5, (1 << 64) - 1])
def test_no_parameter(plain: Host, length: int) -> None:
    """A NULL parameter reaches the provider with every mechanism, whatever length is said."""
    assert {"CKR_OK": len(tables().mechanisms)} == plain.play(give_no_parameter, length)


def give_no_parameter(length: int) -> dict[str, int]:
    """Begin with every mechanism without a parameter; the provider takes exactly these."""
    shim = Shim()
    session = shim.begin()
    return Counter(init(shim, session, each.value, None, length) for each in tables().mechanisms.values())
